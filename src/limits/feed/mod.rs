//! Feeds: limits that are read, and followed while they change.
//!
//! A feed reads all rows, compares them with those that it holds, and hands over the difference; a
//! notification of a change only decides when to read. A feed runs on a thread of its own: a source that
//! can't be read leaves the limits as they are, and affects nothing else.
//!
//! - `file`: follows a file; `watch` receives events about it, and `stamp` compares its metadata.
//! - `table`: follows a table in PostgreSQL, and reads it when `pace` decides; `hearing` checks that
//!   notifications arrive, and `route` logs whether they do.
//! - `held`: the rows that a feed holds, with logs and metrics about them.
//! - `handover`: the edits that a run has not taken yet, merged.

mod file;
mod handover;
mod hearing;
mod held;
mod options;
mod pace;
mod route;
mod stamp;
mod table;
mod watch;

use anyhow::Context;

use self::file::FileFeed;
pub use self::file::{contents, limits, unreadable};
pub use self::handover::Changes;
use self::handover::handover;
pub use self::held::{Edits, Health};
pub use self::options::{Options, runtime};
use self::table::TableFeed;
use super::postgres::TableName;
use super::postgres::snapshot::Snapshot;
use super::table::Table;
use super::{Address, postgres};
use crate::base::error::Failure;

/// Reads limits once: every row, and the verdict on it.
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

/// Reads all rows of a table once, without checking them.
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

/// Limits that are followed.
pub struct Feed(Kind);

enum Kind {
    File(Box<FileFeed>),
    Table(Box<TableFeed>),
}

impl Feed {
    /// Reads limits for the first time. Returns the rows that hold as edits of an empty table.
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

    /// Returns the state of the feed, which the feed keeps current.
    pub fn health(&self) -> Health {
        match &self.0 {
            Kind::File(feed) => feed.health(),
            Kind::Table(feed) => feed.health(),
        }
    }

    /// Follows the limits on a thread of its own, until the receiver is dropped. That thread calls `wake` after
    /// it has handed over edits.
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
