//! The `floodmark` program.

use std::process::ExitCode;

use floodmark::base::error::{Exit, Failure};
use floodmark::base::logging::{self, Logs};
use floodmark::cli;
use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    floodmark::cluster::abort_on_panic();
    // A file that would exceed `ulimit -f` is an error, as a full disk is. Threads inherit the mask.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            // Help and version were requested, so they go to standard output, without an error.
            let is_requested = !error.use_stderr();
            cli::print(&error);
            return if is_requested { Exit::Done } else { Exit::Usage }.into();
        }
    };
    let exit = cli::run(&command).unwrap_or_else(|failure| {
        report_failure(&failure);
        failure.exit
    });
    logging::flush();
    exit.into()
}

/// Reports why the command failed: the chain of causes, in one line.
fn report_failure(failure: &Failure) {
    match logging::started() {
        // Programs that collect the log accept JSON objects only.
        Some(Logs::Json) => {
            tracing::error!(exit_code = failure.exit as i32, "{:#}", failure.error);
        }
        _ => logging::print(&format!("floodmark: {:#}", failure.error)),
    }
}
