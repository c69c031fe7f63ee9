//! The clock, formats of output, and printing, of all these commands.

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

/// The clock, in nanoseconds since 1970, to the second: more digits would only be noise to read.
pub(super) fn now() -> i128 {
    // A clock before 1970 is set wrong; 1970 is as good an answer as any then.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i128::from(since.as_secs()) * 1_000_000_000
}

/// Writes data; on a terminal, nothing in it acts on it.
pub(super) fn print(out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    let text = match std::io::stdout().is_terminal() {
        true => shown::escaped_lines(text),
        false => text.into(),
    };
    printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Whether what was written could not be. It is no fault that a pipe was closed.
pub(super) fn printed(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        // The reader closed the pipe, since it has read enough; the exit code is for somebody else.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("writing to standard output").into())
        }
        _ => Ok(()),
    }
}

/// Says something on standard error.
pub(super) fn note(text: &str) {
    // Without standard error there is nobody to tell.
    drop(writeln!(std::io::stderr(), "floodmark: {}", shown::line(text)));
}
