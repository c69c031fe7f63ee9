//! Which limits are read, and how.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::limits::Address;
use crate::limits::catalog::LimitSet;
use crate::limits::postgres::TableName;
use crate::limits::rows::Defaults;
use crate::limits::table::Refusals;

/// Where limits come from, and how they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The file, or the database.
    pub address: Address,
    /// The table of the database.
    pub table: TableName,
    /// What rows mean that leave something out.
    pub defaults: Defaults,
    /// Which set of limits they are.
    pub set: LimitSet,
    /// Read at this interval and not in between; `None`: as soon as something changes.
    pub refresh: Option<Duration>,
}

impl Options {
    /// A file that is followed.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Options {
            address: Address::file(path),
            table: TableName::default(),
            defaults: Defaults::default(),
            set: LimitSet::Live,
            refresh: None,
        }
    }

    /// A sentence about refused rows; `None` if there are none.
    pub fn refusal(&self, counts: Refusals) -> Option<String> {
        refusal(&self.place(), counts)
    }

    /// The file, or the database and its table, for messages. A password is not in it.
    pub fn place(&self) -> String {
        match &self.address {
            Address::File(path) => path.display().to_string(),
            Address::Postgres(database) => format!("{database} {}", self.table),
        }
    }
}

/// A sentence about refused rows of this place; `None` if there are none.
pub(super) fn refusal(place: &str, counts: Refusals) -> Option<String> {
    let Refusals { refused, rows } = counts;
    (refused > 0).then(|| {
        format!(
            "{refused} of {rows} rows of limits \"{place}\" are refused, and nothing is judged by them: \
             `floodmark limits check` says why"
        )
    })
}

/// What waits for answers of a database, on the thread that asks.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("setting up connections to databases")
}
