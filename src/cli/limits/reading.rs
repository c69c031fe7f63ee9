//! Limits, read once from wherever they are.

use std::path::Path;

use super::note;
use super::report::{count, label};
use crate::error::{Exit, Failure};
use crate::limits::draft::Draft;
use crate::limits::feed::{self, Options, contents};
use crate::limits::json::FileError;
use crate::limits::postgres::snapshot::Snapshot;
use crate::limits::quote::Quoted;
use crate::limits::rows::{Defaults, RawRow};
use crate::limits::table::Table;
use crate::limits::{Address, json, postgres};

/// So many refused rows are named; the others are counted.
const NAMED_MAX: usize = 10;

/// What was read.
pub(super) struct Read {
    pub(super) table: Table,
    /// Columns of a table that limits don't know.
    pub(super) unknown_columns: Vec<String>,
}

impl Read {
    /// Reads a file, standard input or a table.
    pub(super) fn of(options: &Options) -> Result<Self, Failure> {
        match &options.address {
            Address::File(path) => Read::of_bytes(&contents(path)?, path, options.defaults),
            Address::Postgres(database) => {
                let snapshot = sorted_snapshot(database, options)?;
                let unknown_columns = snapshot.shape.unknown_columns().map(str::to_owned).collect();
                Ok(Read { table: Table::new(snapshot.rows, options.defaults), unknown_columns })
            }
        }
    }

    /// Takes what was read from a file.
    pub(super) fn of_bytes(bytes: &[u8], path: &Path, defaults: Defaults) -> Result<Self, Failure> {
        let table = json::read(bytes, defaults).map_err(|error| no_limits(error, path))?;
        Ok(Read { table, unknown_columns: Vec::new() })
    }

    /// Names the rows that are refused on standard error. `of` says where they stand, if that is not
    /// clear. `true` if there are any.
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

/// Rows that were read to be written elsewhere.
pub(super) struct ReadDrafts {
    pub(super) read: Read,
    /// The rows that hold, as they would be written.
    pub(super) drafts: Vec<Draft>,
}

impl ReadDrafts {
    /// Reads a file, standard input or a table.
    pub(super) fn of(options: &Options) -> Result<Self, Failure> {
        match &options.address {
            Address::File(path) => ReadDrafts::of_bytes(&contents(path)?, path, options.defaults),
            Address::Postgres(database) => {
                let rows = sorted_snapshot(database, options)?.rows;
                Ok(ReadDrafts::judge(&rows, options.defaults))
            }
        }
    }

    /// Takes what was read from a file.
    pub(super) fn of_bytes(bytes: &[u8], path: &Path, defaults: Defaults) -> Result<Self, Failure> {
        let rows = json::text(bytes).and_then(json::raw_rows);
        Ok(ReadDrafts::judge(&rows.map_err(|error| no_limits(error, path))?, defaults))
    }

    fn judge(rows: &[RawRow<'_>], defaults: Defaults) -> Self {
        let table = Table::of(rows, defaults);
        let held = rows.iter().zip(&table.verdicts);
        let drafts = held.filter_map(|(raw, verdict)| Some(Draft::of(raw, verdict.row()?)));
        let drafts = drafts.collect();
        ReadDrafts { read: Read { table, unknown_columns: Vec::new() }, drafts }
    }
}

fn sorted_snapshot(database: &postgres::Address, options: &Options) -> Result<Snapshot, Failure> {
    let mut snapshot = feed::snapshot(database, &options.table)?;
    snapshot.sort();
    Ok(snapshot)
}

fn no_limits(error: FileError, path: &Path) -> Failure {
    let reading = format!("reading limits from {}", Quoted(&path.to_string_lossy()));
    Failure::new(Exit::BadConfig, anyhow::Error::new(error).context(reading))
}

/// Says the first of some lines on standard error, and how many more there are.
pub(super) fn note_capped(of: &str, lines: &[String]) {
    for line in lines.iter().take(NAMED_MAX) {
        note(&format!("{of}{line}"));
    }
    if let Some(more) = lines.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        note(&format!("{of}and {} more: `floodmark limits check` shows all", count(more, "row")));
    }
}
