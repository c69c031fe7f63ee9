//! Reads limits once, from a file, standard input or a table.

use std::path::Path;

use super::console::note;
use super::report::{count, label};
use crate::base::error::{Exit, Failure};
use crate::base::quote::Quoted;
use crate::limits::draft::Draft;
use crate::limits::feed::{self, Options, contents};
use crate::limits::file_error::FileError;
use crate::limits::file_error::ReadError;
use crate::limits::postgres::snapshot::Snapshot;
use crate::limits::rows::{Defaults, RawRow};
use crate::limits::table::Table;
use crate::limits::{Address, json, postgres};

/// The most refused rows that are named; the others are counted.
const NAMED_MAX: usize = 10;

/// Limits as they were read.
pub(super) struct Read {
    pub(super) table: Table,
    /// Columns of a table in a database that are no columns of limits.
    pub(super) unknown_columns: Vec<String>,
}

impl Read {
    /// Reads a file, standard input or a table.
    pub(super) fn of(options: &Options) -> Result<Self, Failure> {
        match &options.address {
            Address::File(path) => {
                let table = feed::limits(path, options.defaults).map_err(|error| match error {
                    ReadError::NotLimits(error) => not_limits(error, path),
                    error => feed::unreadable(path, error),
                })?;
                Ok(Read { table, unknown_columns: Vec::new() })
            }
            Address::Postgres(database) => {
                let snapshot = sorted_snapshot(database, options)?;
                let unknown_columns = snapshot.shape.unknown_columns().map(str::to_owned).collect();
                Ok(Read { table: Table::new(snapshot.rows, options.defaults), unknown_columns })
            }
        }
    }

    /// Reads the bytes of a file.
    #[cfg(test)]
    pub(super) fn of_bytes(bytes: &[u8], path: &Path, defaults: Defaults) -> Result<Self, Failure> {
        let table = json::read(bytes, defaults).map_err(|error| not_limits(error, path))?;
        Ok(Read { table, unknown_columns: Vec::new() })
    }

    /// Reads a file, standard input or a table. Also returns the rows that hold, as they would be written.
    pub(super) fn with_drafts(options: &Options) -> Result<(Self, Vec<Draft>), Failure> {
        match &options.address {
            Address::File(path) => Read::file_with_drafts(path, options.defaults),
            Address::Postgres(database) => {
                let rows = sorted_snapshot(database, options)?.rows;
                Ok(Read::of_rows(&rows, options.defaults))
            }
        }
    }

    /// Reads limits with their rows as they were written, from a file or from standard input (`-`).
    pub(super) fn file_with_drafts(
        path: &Path,
        defaults: Defaults,
    ) -> Result<(Self, Vec<Draft>), Failure> {
        let bytes = contents(path)?;
        let rows = json::text(&bytes).and_then(json::raw_rows);
        Ok(Read::of_rows(&rows.map_err(|error| not_limits(error, path))?, defaults))
    }

    /// Also returns the rows that hold, as they would be written.
    pub(super) fn of_rows(rows: &[RawRow<'_>], defaults: Defaults) -> (Self, Vec<Draft>) {
        let table = Table::of(rows, defaults);
        let held = rows.iter().zip(&table.verdicts);
        let drafts = held.filter_map(|(raw, verdict)| Some(Draft::of(raw, verdict.row()?)));
        let drafts = drafts.collect();
        (Read { table, unknown_columns: Vec::new() }, drafts)
    }

    /// Reports refused rows on standard error. `of` is a prefix that names the set of limits, where there are
    /// two. Returns whether there are any.
    pub(super) fn note_refused(&self, of: &str) -> bool {
        let refused: Vec<String> = self
            .table
            .refusals()
            .map(|(verdict, reason)| format!("{}: {reason}", label(verdict)))
            .collect();
        note_capped(of, &refused);
        !refused.is_empty()
    }
}

fn sorted_snapshot(database: &postgres::Address, options: &Options) -> Result<Snapshot, Failure> {
    let mut snapshot = feed::snapshot(database, &options.table)?;
    snapshot.sort();
    Ok(snapshot)
}

fn not_limits(error: FileError, path: &Path) -> Failure {
    let reading = format!("reading limits from {}", Quoted(&path.to_string_lossy()));
    Failure::new(Exit::BadConfig, anyhow::Error::new(error).context(reading))
}

/// Prints the first lines on standard error, and the number of further ones.
pub(super) fn note_capped(of: &str, lines: &[String]) {
    for line in lines.iter().take(NAMED_MAX) {
        note(&format!("{of}{line}"));
    }
    if let Some(more) = lines.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        note(&format!("{of}and {} more: `floodmark limits check` shows all", count(more, "row")));
    }
}
