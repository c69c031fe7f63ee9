//! Writes changes and rankings as JSON or as a table, totals as CSV, and explanations as JSON.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::top::Ranked;
use floodmark_dataflows::types::Change;

use crate::base::error::{Exit, Failure};
use crate::base::shown;
use crate::limits::catalog::Catalog;
use lines::ChangeLines;

pub mod change;
pub mod difference;
pub mod explanation;
pub mod lines;
pub mod overflow;
pub mod table;
mod target;
pub mod totals;
pub mod writer;

/// Size of formatted lines, in bytes, at which they are written.
const WRITE_BYTES: usize = 32 << 10;

/// The format of changes and rankings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Aligned columns, for people.
    Table,
}

impl Format {
    /// Writes changes, each with the tick at which it was made.
    pub fn write_changes<'c>(
        self,
        out: &mut dyn Write,
        changes: impl IntoIterator<Item = (u64, &'c Change)>,
        catalog: &Catalog,
        windows: &Windows,
    ) -> io::Result<()> {
        let (mut lines, mut text) = (ChangeLines::new(catalog, windows), Vec::new());
        for (tick, change) in changes {
            match self {
                Format::Json => drop(lines.write(&mut text, tick, change)?),
                Format::Table => table::write_change(&mut text, tick, change, catalog)?,
            }
            if text.len() >= WRITE_BYTES {
                out.write_all(&text)?;
                text.clear();
            }
        }
        out.write_all(&text)
    }

    /// Writes a place in the ranking of a window.
    pub fn write_ranked(self, out: &mut dyn Write, ranked: &Ranked) -> io::Result<()> {
        match self {
            Format::Json => change::write_ranked_json(out, ranked),
            Format::Table => table::write_ranked(out, ranked),
        }
    }
}

/// A file or standard output, with the name that the user gave it.
pub struct OutputFile {
    name: PathBuf,
    writer: BufWriter<Box<dyn Write + Send>>,
}

/// The reason why nothing more can be written.
#[derive(Debug)]
pub enum WriteError {
    /// The reader of a pipe has gone. Most readers do so when they have read enough.
    Closed,
    /// Any other error.
    Failed(Failure),
}

/// Returns the error that ends a live run when the reader of its output has gone, so that its supervisor learns of
/// it. A command that ends by itself exits without an error in that case.
pub fn reader_gone_failure(to: impl Display) -> Failure {
    let error = anyhow!("{to} can't be written any more: its reader has gone away");
    Failure::new(Exit::OutputClosed, error)
}

impl From<Failure> for WriteError {
    fn from(failure: Failure) -> Self {
        WriteError::Failed(failure)
    }
}

impl OutputFile {
    /// Opens a file for writing, or standard output for `-`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let writer: Box<dyn Write + Send> = if path == Path::new("-") {
            shown::stdout()
        } else {
            let file = File::create(path)
                .with_context(|| format!("creating \"{}\"", path.display()))
                .map_err(|error| Failure::new(Exit::Failed, error))?;
            Box::new(file)
        };
        let writer = BufWriter::with_capacity(1 << 16, writer);
        Ok(OutputFile { name: path.to_owned(), writer })
    }

    /// Calls `write`. An error names the file.
    pub fn write(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), WriteError> {
        write(&mut self.writer).map_err(|error| self.error(error))
    }

    /// Writes everything that is buffered to the file.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.writer.flush().map_err(|error| self.error(error))
    }

    fn error(&self, error: io::Error) -> WriteError {
        if error.kind() == ErrorKind::BrokenPipe {
            return WriteError::Closed;
        }
        let name = match self.name.to_str() {
            Some("-") => "standard output".to_owned(),
            _ => format!("\"{}\"", self.name.display()),
        };
        let error = anyhow::Error::new(error).context(format!("writing to {name}"));
        WriteError::Failed(Failure::new(Exit::Failed, error))
    }
}
