//! Feeds: limits that are read, and followed while they change.
//!
//! A feed reads all, compares it with what it holds, and hands on the difference; what tells it that
//! something may have changed only says when to read. It runs on a thread of its own: what can't be
//! read leaves the limits as they are, and touches nothing else.
//!
//! - `file`: a file, with what `watch` is told of it and `stamp` sees of it.
//! - `table`: a table in PostgreSQL, as often as `pace` says; `hearing` checks that notifications arrive,
//!   and `route` tells.
//! - `held`: what a feed holds, and what it tells about it.
//! - `handover`: the edits that a run has not taken yet, merged.

mod file;
mod handover;
mod hearing;
mod held;
mod pace;
mod route;
mod stamp;
mod table;
mod watch;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use self::file::FileFeed;
pub use self::file::{contents, limits, unreadable};
pub use self::handover::Changes;
use self::handover::{Outlet, handover};
pub use self::held::{Edits, Health};
use self::table::TableFeed;
use super::catalog::LimitSet;
use super::postgres::TableName;
use super::postgres::snapshot::Snapshot;
use super::rows::Defaults;
use super::table::{Refusals, Table};
use super::{Address, postgres};
use crate::base::error::Failure;

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
fn refusal(place: &str, counts: Refusals) -> Option<String> {
    let Refusals { refused, rows } = counts;
    (refused > 0).then(|| {
        format!(
            "{refused} of {rows} rows of limits \"{place}\" are refused, and nothing is judged by them: \
             `floodmark limits check` says why"
        )
    })
}

/// Reads limits once: every row, and whether it holds.
///
/// # Errors
/// They can't be read, or not as limits.
pub fn read(options: &Options) -> Result<Table, Failure> {
    match &options.address {
        Address::File(path) => {
            limits(path, options.defaults).map_err(|error| unreadable(path, error))
        }
        Address::Postgres(database) => {
            let read = one_session(database, async |session| {
                session.checked(&options.table, options.defaults, &[]).await
            });
            Ok(read?.0)
        }
    }
}

/// Reads a table once, as it is.
pub fn snapshot(database: &postgres::Address, table: &TableName) -> Result<Snapshot, Failure> {
    one_session(database, async |session| session.snapshot(table).await)
}

/// Reads in a session of its own.
fn one_session<T>(
    database: &postgres::Address,
    read: impl AsyncFnOnce(&postgres::Session) -> Result<T, postgres::Error>,
) -> Result<T, Failure> {
    let read = runtime()?.block_on(async {
        let session = postgres::Session::connect(database).await?;
        read(&session).await
    });
    read.map_err(|error| error.in_step("reading limits"))
}

/// What waits for answers of a database, on the thread that asks.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("setting up connections to databases")
}

/// Limits that are followed.
pub struct Feed(Kind);

enum Kind {
    File(Box<FileFeed>),
    Table(Box<TableFeed>),
}

impl Feed {
    /// Reads limits for the first time: those that hold, as edits of none.
    ///
    /// # Errors
    /// They can't be read, or not as limits: there is nothing yet that could stay as it is.
    pub fn open(options: &Options) -> Result<(Self, Edits), Failure> {
        match &options.address {
            Address::File(path) => {
                let (feed, edits) = FileFeed::open(path, options)?;
                Ok((Feed(Kind::File(Box::new(feed))), edits))
            }
            Address::Postgres(database) => {
                let (feed, edits) = TableFeed::open(database, options)?;
                Ok((Feed(Kind::Table(Box::new(feed))), edits))
            }
        }
    }

    /// Whether they can be read, also later.
    pub fn health(&self) -> Health {
        match &self.0 {
            Kind::File(feed) => feed.health(),
            Kind::Table(feed) => feed.health(),
        }
    }

    /// Follows them on a thread of its own, until the receiver is dropped. `wake` is called after each
    /// edit that is handed over.
    pub fn follow(self, wake: impl Fn() + Send + 'static) -> anyhow::Result<Changes> {
        let (outlet, changes) = handover(wake);
        std::thread::Builder::new()
            .name("limits".into())
            .spawn(move || match self.0 {
                Kind::File(mut feed) => feed.run(&outlet),
                Kind::Table(feed) => feed.run(&outlet),
            })
            .context("starting the thread that follows the limits")?;
        Ok(changes)
    }
}
