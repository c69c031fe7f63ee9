//! Checks the capacity for threads, before clients and workers start that would go wrong without it.
//!
//! librdkafka ends the process when a broker has no thread, or goes on without that broker; timely leaves
//! workers behind that wait for one which was never started.

use std::io;
use std::sync::RwLock;

/// The system refuses the threads that the process needs.
#[derive(Debug, thiserror::Error)]
#[error(
    "this process can't have {threads} more threads: {error}; raise the limit: `ulimit -u`, \
     TasksMax= of a systemd unit, or pids.max of the cgroup (--pids-limit of a container)"
)]
pub struct NoThreads {
    threads: usize,
    error: io::Error,
}

/// The stack size of an idle thread, in bytes.
const STACK: usize = 64 << 10;

/// Checks that the process can have this many more threads at once.
///
/// # Errors
/// The limit on threads, or on memory, is reached.
pub fn check_capacity(threads: usize) -> Result<(), NoThreads> {
    try_threads(threads, STACK)
}

fn try_threads(threads: usize, stack: usize) -> Result<(), NoThreads> {
    let gate = RwLock::new(());
    std::thread::scope(|scope| {
        let _closed = gate.write();
        let wait = || drop(gate.read());
        let start = || std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, wait);
        (0..threads).try_for_each(|_| start().map(drop))
    })
    .map_err(|error| NoThreads { threads, error })
}

/// Lets the other threads of the machine go first from now on, where a thread has a priority of its own.
pub fn let_others_go_first() {
    // Elsewhere this is the priority of the process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 10) {
        tracing::debug!(%error, "a background thread keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_check_passes_for_few_threads_and_fails_for_too_many() {
        check_capacity(0).unwrap();
        check_capacity(20).unwrap();
        // No machine has memory for it.
        let error = try_threads(7, usize::MAX >> 18).unwrap_err().to_string();
        assert!(error.starts_with("this process can't have 7 more threads: "), "{error}");
        assert!(error.contains("`ulimit -u`, TasksMax="), "{error}");
    }
}
