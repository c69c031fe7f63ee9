//! Ends a process when one of its threads panics.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::member::{Report, report};
use crate::base::error::Exit;
use crate::base::logging;
use crate::base::panics;
use crate::base::shown;
use crate::base::terminal::Messages;

/// Environment variable with the number of the worker that panics, for tests of the consequences. Ignored in
/// release builds.
pub const PANIC_WORKER: &str = "FLOODMARK_PANIC_WORKER";

/// Environment variable with the path of a named pipe: that worker panics, on a thread of its own, when somebody
/// opens the pipe to write; without it, at once.
const PANIC_WHEN: &str = "FLOODMARK_PANIC_WHEN";

/// Time limit for reporting the message of a panic.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn panic_if_requested(worker: usize) {
    if !cfg!(debug_assertions) || std::env::var(PANIC_WORKER) != Ok(worker.to_string()) {
        return;
    }
    let panic = move || panic!("worker {worker} panics because {PANIC_WORKER} is set");
    let Some(pipe) = std::env::var_os(PANIC_WHEN) else { panic() };
    std::thread::spawn(move || {
        // Opening blocks until somebody opens the other end.
        if std::fs::File::open(pipe).is_ok() {
            panic();
        }
    });
}

/// Ends the process when any thread panics: a computation that has lost a worker would wait for it. A panic that is
/// [caught](panics::catch) ends nothing.
///
/// A lost process shows as a panic of one of timely's threads. That is no fault of this program, so the process
/// ends with a message and exit code 1.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(move |panic| {
        if panics::is_guarded() {
            return;
        }
        if let Some((process, cause)) = lost_process(panic) {
            exit_after_loss(process, cause);
        }
        report(Report::Panicked);
        abort_soon();
        print_panic(panic);
        std::process::abort();
    }));
}

/// Ends the process after [`REPORT_TIMEOUT`] at the latest, also if nobody reads the message of the panic.
fn abort_soon() {
    let abort = || {
        std::thread::sleep(REPORT_TIMEOUT);
        std::process::abort()
    };
    // Without this thread, the process ends once the message is written.
    let _ = std::thread::Builder::new().name("abort".into()).spawn(abort);
}

/// Prints a panic as the standard library does, but without passwords and control characters in its message.
fn print_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let text = format!("thread '{}' {panic}", thread.name().unwrap_or("<unnamed>"));
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("stack backtrace:\n{backtrace}"),
        _ => "note: run with `RUST_BACKTRACE=1` to see where".to_owned(),
    };
    let text = shown::without_passwords(&text);
    let text = shown::escaped_lines(&text);
    drop(writeln!(std::io::stderr(), "\n{text}\n{backtrace}"));
}

fn exit_after_loss(process: usize, cause: &str) -> ! {
    static FIRST: AtomicBool = AtomicBool::new(true);
    // Many threads notice the loss; only the first one reports it.
    while !FIRST.swap(false, Ordering::SeqCst) {
        std::thread::park();
    }
    // The supervisor sees all processes, so it can report the first failure.
    if !report(Report::Lost(process)) {
        let why = format!(
            "lost process {process} ({cause}): the computation needs all processes, so this process ends \
             too"
        );
        Messages::new().fail(Exit::Failed, why);
        logging::flush();
    }
    std::process::exit(Exit::Failed as i32);
}

/// Returns the lost process and the cause, if a lost process is the reason of a panic.
fn lost_process<'a>(panic: &'a PanicHookInfo<'_>) -> Option<(usize, &'a str)> {
    let thread = std::thread::current();
    lost_process_in(thread.name()?, panic.payload_as_str()?)
}

/// timely states in the panic that its communication failed, and in the name of the thread with which process.
fn lost_process_in<'a>(thread: &str, payload: &'a str) -> Option<(usize, &'a str)> {
    let process = thread.strip_prefix("timely:recv-").or(thread.strip_prefix("timely:send-"))?;
    let cause = payload.strip_prefix("timely communication error: ")?;
    Some((process.parse().ok()?, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communication_error_alone_names_a_lost_process() {
        let message = "timely communication error: reading data: socket closed";
        let cause = "reading data: socket closed";
        assert_eq!(lost_process_in("timely:recv-12", message), Some((12, cause)));
        assert_eq!(lost_process_in("timely:send-0", message), Some((0, cause)));
        assert_eq!(lost_process_in("timely:work-0", message), None);
        assert_eq!(lost_process_in("timely:recv-0", "index out of bounds"), None);
    }
}
