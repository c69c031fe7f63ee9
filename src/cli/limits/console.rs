//! The clock, the output formats and printing, shared by these commands.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::SystemTime;

use clap::ValueEnum;

use crate::base::error::Failure;
use crate::base::shown;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns, for people
    Table,
    /// One JSON object a row
    Json,
}

/// The clock, in nanoseconds since 1970, truncated to the second for readability.
pub(super) fn now() -> i128 {
    // A clock before 1970 is set wrong.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i128::from(since.as_secs()) * 1_000_000_000
}

/// Writes data; on a terminal, escapes the characters that act on it.
pub(super) fn print(out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    let text = match std::io::stdout().is_terminal() {
        true => shown::escaped_lines(text),
        false => text.into(),
    };
    check_written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Turns the result of writing to standard output into that of a command. A closed pipe is no failure.
pub(super) fn check_written(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        // The reader closed the pipe: it has read enough. The caller may still use the exit code.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("writing to standard output").into())
        }
        _ => Ok(()),
    }
}

/// Prints a line on standard error.
pub(super) fn note(text: &str) {
    // A failure to write to standard error has nowhere to be reported.
    drop(writeln!(std::io::stderr(), "floodmark: {}", shown::line(text)));
}
