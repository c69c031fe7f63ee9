//! What a process does when one of its threads panics: it ends.

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

/// The worker that panics, for tests of what that does. Not in release builds.
pub const PANIC_WORKER: &str = "FLOODMARK_PANIC_WORKER";

/// A named pipe: that worker panics, by a thread of its own, when somebody opens it to write; else at
/// once.
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
        // It opens when there is somebody at the other end.
        if std::fs::File::open(pipe).is_ok() {
            panic();
        }
    });
}

/// Ends the process when any thread panics: a computation that has lost a worker would wait for it.
///
/// That another process is lost is a panic of a thread of timely's. It is no fault of this program, so
/// it is a message and exit code 1.
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

/// Ends the process in a moment, also if nobody reads what is said of the panic.
fn abort_soon() {
    let abort = || {
        std::thread::sleep(TELL_TIMEOUT);
        std::process::abort()
    };
    // Without a thread for it, it ends when all is said.
    let _ = std::thread::Builder::new().name("abort".into()).spawn(abort);
}

/// Tells of a panic as the standard library does, but for what its message may have from outside.
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
    // Many threads see it, and one says it.
    while !FIRST.swap(false, Ordering::SeqCst) {
        std::thread::park();
    }
    // Who has started this process sees all of them, and knows better what came first.
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

/// The process that is lost, and how that was seen, if that is the cause of a panic.
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
