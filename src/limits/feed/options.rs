//! Options for reading limits.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::limits::Address;
use crate::limits::catalog::LimitSet;
use crate::limits::postgres::TableName;
use crate::limits::rows::Defaults;
use crate::limits::table::Refusals;

/// The source of limits, and the options for reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The file, or the database.
    pub address: Address,
    /// The table of the database.
    pub table: TableName,
    /// The defaults for columns that a row leaves out.
    pub defaults: Defaults,
    /// The set that the limits are in.
    pub set: LimitSet,
    /// The interval at which the feed reads the limits; `None`: as soon as they change.
    pub refresh: Option<Duration>,
}

impl Options {
    /// Returns the options of a file that is followed.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Options {
            address: Address::file(path),
            table: TableName::default(),
            defaults: Defaults::default(),
            set: LimitSet::Live,
            refresh: None,
        }
    }

    /// Returns a sentence about refused rows; `None` if there are none.
    pub fn refusal(&self, counts: Refusals) -> Option<String> {
        refusal(&self.place(), counts)
    }

    /// Returns the file, or the database and its table, for messages. The text has no password.
    pub fn place(&self) -> String {
        match &self.address {
            Address::File(path) => path.display().to_string(),
            Address::Postgres(database) => format!("{database} {}", self.table),
        }
    }
}

/// Returns a sentence about refused rows of this place; `None` if there are none.
pub(super) fn refusal(place: &str, counts: Refusals) -> Option<String> {
    let Refusals { refused, rows } = counts;
    (refused > 0).then(|| {
        format!(
            "{refused} of {rows} rows of limits \"{place}\" are refused and have no effect: \
             `floodmark limits check` shows the reasons"
        )
    })
}

/// Creates the runtime that waits for responses of a database, on the calling thread.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("setting up connections to databases")
}
