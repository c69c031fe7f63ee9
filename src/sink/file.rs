//! Files and standard output that are written at once, on the thread that closes ticks: the sinks of a replay, which
//! has nothing else to do meanwhile.

use std::path::Path;

use anyhow::anyhow;
use floodmark_dataflows::time::Windows;

use super::{ClosedTick, Sink};
use crate::base::error::{Exit, Failure};
use crate::base::terminal::Messages;
use crate::limits::catalog::Catalog;
use crate::output::difference::PublishedChanges;
use crate::output::{Format, OutputFile, WriteError, overflow, table, totals};

/// A file of changes and rankings.
pub struct ChangesFile {
    file: OutputFile,
    format: Format,
    windows: Windows,
    /// Whether changes of the next tick were written.
    unflushed: bool,
}

impl ChangesFile {
    /// Opens the file, or standard output for `-`.
    pub fn open(
        path: &Path,
        format: Format,
        windows: Windows,
        catalog: &Catalog,
    ) -> Result<Self, Failure> {
        let mut file = OutputFile::open(path)?;
        if format == Format::Table {
            file.write(|out| table::write_header(out, catalog)).map_err(closed_early)?;
        }
        Ok(ChangesFile { file, format, windows, unflushed: false })
    }
}

fn closed_early(error: WriteError) -> Failure {
    match error {
        WriteError::Closed => Failure::new(
            Exit::Failed,
            anyhow!("the reader of the output has gone before the first write"),
        ),
        WriteError::Failed(failure) => failure,
    }
}

impl Sink for ChangesFile {
    fn changes(
        &mut self,
        changes: &PublishedChanges<'_>,
        catalog: &Catalog,
    ) -> Result<(), WriteError> {
        let ChangesFile { file, format, windows, unflushed } = self;
        *unflushed |= !changes.is_empty();
        file.write(|out| format.write_changes(out, changes.iter(), catalog, windows))
    }

    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        let (format, top) = (self.format, &closed.outputs.top);
        self.file.write(|out| {
            for ranked in top {
                format.write_ranked(out, ranked)?;
            }
            Ok(())
        })?;
        if std::mem::take(&mut self.unflushed) || !top.is_empty() {
            self.file.flush()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        self.file.flush()
    }
}

/// A file of the totals of all pairs and windows, as CSV.
pub struct TotalsFile(OutputFile);

impl TotalsFile {
    /// Opens the file, or standard output for `-`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let mut file = OutputFile::open(path)?;
        file.write(|out| writeln!(out, "{}", totals::HEADER)).map_err(closed_early)?;
        Ok(TotalsFile(file))
    }
}

impl Sink for TotalsFile {
    fn changes(&mut self, _: &PublishedChanges<'_>, _: &Catalog) -> Result<(), WriteError> {
        Ok(())
    }

    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        for (window, rows) in &closed.outputs.rows {
            self.0.write(|out| totals::write_window(out, *window, rows))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        self.0.flush()
    }

    fn wants_totals(&self) -> bool {
        true
    }
}

/// Warnings to people about totals that have reached the end of 64 bits.
pub struct OverflowWarnings(pub Messages);

impl Sink for OverflowWarnings {
    fn changes(&mut self, _: &PublishedChanges<'_>, _: &Catalog) -> Result<(), WriteError> {
        Ok(())
    }

    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        overflow::lines(&closed.outputs.saturated).for_each(|line| self.0.warn(line));
        Ok(())
    }
}
