//! The `floodmark` program.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use floodmark::cli;
use floodmark::error::Exit;

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
            // The chain of causes, in one line; without standard error there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "floodmark: {:#}", failure.error);
            failure.exit.into()
        }
    }
}
