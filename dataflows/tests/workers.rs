//! Workers of which none waits for one that panicked.

use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};

use timely::Config;
use timely::communication::WorkerGuards;
use timely::worker::Worker;

/// Runs so many workers. One that panics ends the tests at once, since the others would wait for it for ever.
pub(crate) fn execute<T: Send + 'static>(
    workers: usize,
    case: String,
    work: impl Fn(&mut Worker) -> T + Send + Sync + 'static,
) -> Result<WorkerGuards<T>, String> {
    timely::execute(Config::process(workers), move |worker| {
        let index = worker.index();
        panic::catch_unwind(AssertUnwindSafe(|| work(worker))).unwrap_or_else(|panicked| {
            if workers == 1 {
                panic::resume_unwind(panicked);
            }
            let text = panicked.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panicked.downcast_ref::<&str>().copied()).unwrap_or_default();
            // The harness captures the output of macros, and ends with the process.
            let _ = writeln!(io::stderr(), "{case}: worker {index} of {workers} panicked: {text}");
            std::process::abort();
        })
    })
}
