//! What is said: changes and rankings as JSON or as a table, totals as CSV.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::error::{Exit, Failure};

pub mod change;
pub mod table;
pub mod totals;

/// A file or standard output, by the name that the user gave it.
pub struct Sink {
    name: PathBuf,
    writer: BufWriter<Box<dyn Write>>,
}

/// Why nothing more can be written.
#[derive(Debug)]
pub enum WriteError {
    /// The reader of a pipe has gone: it has read what it wanted.
    Closed,
    /// Anything else.
    Failed(Failure),
}

impl Sink {
    /// Opens a file for writing, or standard output for `-`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let writer: Box<dyn Write> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            let file = File::create(path)
                .with_context(|| format!("creating \"{}\"", path.display()))
                .map_err(|error| Failure::new(Exit::Failed, error))?;
            Box::new(file)
        };
        let writer = BufWriter::with_capacity(1 << 16, writer);
        Ok(Sink { name: path.to_owned(), writer })
    }

    /// Writes, and turns what went wrong into an error that names the sink.
    pub fn write(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), WriteError> {
        write(&mut self.writer).map_err(|error| self.error(error))
    }

    /// Lets go of all that was written.
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
