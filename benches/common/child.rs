//! Runs a process to its end, and returns its cost.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::libc;

use super::{io_read, usage};

/// The cost of a process, from its start to its end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) wall: f64,
    /// CPU seconds of user and system, of all its threads and of the children it waited for.
    pub(crate) cpu: f64,
    /// Peak memory, in MB. The kernel starts counting at the peak of the parent process, so that the bench must stay
    /// small.
    pub(crate) peak_mb: f64,
}

/// The bytes that a process has read, and its memory at that time, in MB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) read: u64,
    pub(crate) resident_mb: f64,
}

/// Runs a command.
///
/// # Panics
/// If it can't be started, or fails.
pub(crate) fn run(command: &mut Command) -> Cost {
    let (status, cost) = attempt(command);
    assert!(status.success(), "{command:?}: {status}");
    cost
}

/// Runs a command that may fail.
///
/// # Panics
/// If it can't be started.
#[expect(clippy::zombie_processes, reason = "it is waited for by its number")]
pub(crate) fn attempt(command: &mut Command) -> (ExitStatus, Cost) {
    let begun = Instant::now();
    let child = start(command);
    let (status, used) = wait(&child, 0).expect("the end of a child").expect("it was waited for");
    (status, cost(begun, &used))
}

/// Runs a command, and samples its memory every 10 ms.
///
/// # Panics
/// If it can't be started, or fails.
#[expect(clippy::zombie_processes, reason = "it is waited for by its number")]
pub(crate) fn run_watched(command: &mut Command) -> (Cost, Vec<Sample>) {
    let begun = Instant::now();
    let child = start(command);
    let process = child.id().to_string();
    let mut samples = Vec::new();
    loop {
        if let Some((status, used)) = wait(&child, libc::WNOHANG).expect("the end of a child") {
            assert!(status.success(), "{command:?}: {status}");
            return (cost(begun, &used), samples);
        }
        let resident_mb = usage(&process).resident_mb;
        if resident_mb > 0.0 {
            samples.push(Sample { read: io_read(&process), resident_mb });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command, calls `watch` every 20 ms meanwhile, and stops the command after `limit`.
///
/// # Panics
/// If it can't be started, fails, or had to be stopped.
#[expect(clippy::zombie_processes, reason = "it is waited for by its number")]
pub(crate) fn run_within(command: &mut Command, limit: Duration, watch: &mut dyn FnMut()) -> Cost {
    let begun = Instant::now();
    let mut child = start(command);
    loop {
        if let Some((status, used)) = wait(&child, libc::WNOHANG).expect("the end of a child") {
            assert!(status.success(), "{command:?}: {status}");
            return cost(begun, &used);
        }
        if begun.elapsed() > limit {
            let _ = child.kill();
            let _ = wait(&child, 0);
            panic!("{command:?}: no end in {limit:?}");
        }
        watch();
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn cost(begun: Instant, used: &libc::rusage) -> Cost {
    let secs = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Cost {
        wall: begun.elapsed().as_secs_f64(),
        cpu: secs(used.ru_utime) + secs(used.ru_stime),
        peak_mb: used.ru_maxrss as f64 * 1024.0 / 1e6,
    }
}

/// Waits for a child, and returns its status and resource usage; `None` if it still runs.
#[expect(unsafe_code, reason = "only wait4 returns the usage of one child, and no crate wraps it")]
fn wait(child: &Child, options: libc::c_int) -> io::Result<Option<(ExitStatus, libc::rusage)>> {
    let (mut status, mut used) = (0, MaybeUninit::zeroed());
    let process = child.id() as libc::pid_t;
    loop {
        // SAFETY: both pointers are to places of their own, which live until the call returns.
        match unsafe { libc::wait4(process, &raw mut status, options, used.as_mut_ptr()) } {
            0 => return Ok(None),
            // SAFETY: zeroes are a valid value of these numbers, even if the call wrote nothing.
            1.. => return Ok(Some((ExitStatus::from_raw(status), unsafe { used.assume_init() }))),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
