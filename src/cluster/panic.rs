//! Ends a process when one of its threads panics.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::member::{Report, report};
use crate::base::error::Exit;
use crate::base::logging;
use crate::base::shown;
use crate::base::terminal::Messages;

/// Environment variable with the number of the worker that panics, for tests of the consequences. Ignored in
/// release builds.
pub const PANIC_WORKER: &str = "FLOODMARK_PANIC_WORKER";

/// Environment variable with the path of a named pipe: that worker panics, on a thread of its own, when somebody
/// opens the pipe to write; without it, at once.
const PANIC_WHEN: &str = "FLOODMARK_PANIC_WHEN";

/// Time limit for reporting the message of a panic.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn panic_if_asked_to(worker: usize) {
    if !cfg!(debug_assertions) || std::env::var(PANIC_WORKER) != Ok(worker.to_string()) {
        return;
    }
    let panic = move || panic!("worker {worker} panics, as {PANIC_WORKER} says");
    let Some(pipe) = std::env::var_os(PANIC_WHEN) else { panic() };
    std::thread::spawn(move || {
        // Opening blocks until somebody opens the other end.
        if std::fs::File::open(pipe).is_ok() {
            panic();
        }
    });
}

/// Ends the process when any thread panics: a computation that has lost a worker would wait for it.
///
/// A lost process shows as a panic of one of timely's threads. That is no fault of this program, so the process
/// ends with a message and exit code 1.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(move |panic| {
        if let Some((process, cause)) = lost(panic) {
            end_without(process, cause);
        }
        report(Report::Panicked);
        abort_soon();
        tell(panic);
        std::process::abort();
    }));
}

/// Ends the process after [`TELL_TIMEOUT`] at the latest, also if nobody reads the message of the panic.
fn abort_soon() {
    let abort = || {
        std::thread::sleep(TELL_TIMEOUT);
        std::process::abort()
    };
    // Without this thread, the process ends once the message is written.
    let _ = std::thread::Builder::new().name("abort".into()).spawn(abort);
}

/// Prints a panic as the standard library does, but without passwords and control characters in its message.
fn tell(panic: &PanicHookInfo<'_>) {
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

fn end_without(process: usize, cause: &str) -> ! {
    static FIRST: AtomicBool = AtomicBool::new(true);
    // Many threads notice the loss; only the first one reports it.
    while !FIRST.swap(false, Ordering::SeqCst) {
        std::thread::park();
    }
    // The supervisor sees all processes, and knows better which failure came first.
    if !report(Report::Lost(process)) {
        let why = format!(
            "lost process {process} ({cause}): without it there is no answer, and this process ends \
             too"
        );
        Messages::new().fail(Exit::Failed, why);
        logging::flush();
    }
    std::process::exit(Exit::Failed as i32);
}

/// Returns the lost process and the cause, if a lost process is the reason of a panic.
fn lost<'a>(panic: &'a PanicHookInfo<'_>) -> Option<(usize, &'a str)> {
    let thread = std::thread::current();
    lost_in(thread.name()?, panic.payload_as_str()?)
}

/// timely says in the panic that its communication failed, and in the thread's name with whom.
fn lost_in<'a>(thread: &str, payload: &'a str) -> Option<(usize, &'a str)> {
    let process = thread.strip_prefix("timely:recv-").or(thread.strip_prefix("timely:send-"))?;
    let cause = payload.strip_prefix("timely communication error: ")?;
    Some((process.parse().ok()?, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cut_connection_is_a_lost_process() {
        let says = "timely communication error: reading data: socket closed";
        let cause = "reading data: socket closed";
        assert_eq!(lost_in("timely:recv-12", says), Some((12, cause)));
        assert_eq!(lost_in("timely:send-0", says), Some((0, cause)));
        assert_eq!(lost_in("timely:work-0", says), None);
        assert_eq!(lost_in("timely:recv-0", "index out of bounds"), None);
    }
}
