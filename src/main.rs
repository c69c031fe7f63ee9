//! The `floodmark` program.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use floodmark::cli;
use floodmark::error::{Exit, Failure};
use floodmark::logging::{self, Logs};

fn main() -> ExitCode {
    floodmark::cluster::abort_on_panic();
    let command = match cli::Cli::try_parse() {
        Ok(command) => command,
        Err(error) => {
            // Help and version are what was asked for, and go to standard output.
            let asked_for = !error.use_stderr();
            let _ = error.print();
            return if asked_for { Exit::Done } else { Exit::Usage }.into();
        }
    };
    match cli::run(&command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            say(&failure);
            failure.exit.into()
        }
    }
}

/// Says why the command failed: the chain of causes, in one line.
fn say(failure: &Failure) {
    match logging::started() {
        // Who collects the log takes objects, and nothing else.
        Some(Logs::Json) => {
            tracing::error!(exit_code = failure.exit as i32, "{:#}", failure.error);
        }
        // Without standard error there is nobody to tell.
        _ => drop(writeln!(std::io::stderr(), "floodmark: {:#}", failure.error)),
    }
}
