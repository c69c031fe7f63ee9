//! Feeds: read limits, and follow them while they change.
//!
//! A feed reads all rows, compares them with its current rows, and sends the difference; a notification of a
//! change only decides when to read. A feed runs on a thread of its own: a source that can't be read leaves the
//! limits as they are, and affects nothing else.
//!
//! - `file`: follows a file; `watch` receives events about it, and `stamp` compares its metadata.
//! - `table`: follows a table in PostgreSQL, and reads it when `pace` decides; `notification_checks` checks that
//!   notifications arrive, and `route` logs whether they do.
//! - `current_rows`: the current rows of a feed, with logs and metrics about them.
//! - `handover`: the merged edits that a run has not received yet.

mod current_rows;
mod file;
mod handover;
mod notification_checks;
mod options;
mod pace;
mod route;
mod stamp;
mod table;
mod watch;

use std::sync::Arc;

use anyhow::{Context, anyhow};

pub use self::current_rows::{Edits, Health};
use self::file::FileFeed;
pub use self::file::{contents, limits, unreadable};
pub use self::handover::EditReceiver;
use self::handover::handover;
pub use self::options::{Options, runtime};
use self::table::TableFeed;
use super::postgres::TableName;
use super::postgres::snapshot::Snapshot;
use super::rows::Row;
use super::table::Table;
use super::{Address, postgres};
use crate::base::error::{Exit, Failure};

/// Reads limits once: every row, and the verdict on it.
///
/// # Errors
/// The file or table can't be read, or its content is not limits.
pub fn read(options: &Options) -> Result<Table, Failure> {
    match &options.address {
        Address::File(path) => {
            limits(path, options.defaults).map_err(|error| unreadable(path, error))
        }
        Address::Postgres(database) => {
            let read = one_session(database, async |session| {
                session.read_table(&options.table, options.defaults, &[]).await
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

/// Follows a file or a table of limits.
pub struct Feed(Kind);

enum Kind {
    File(Box<FileFeed>),
    Table(Box<TableFeed>),
}

impl Feed {
    /// Reads limits for the first time. Returns the rows in force as edits of an empty table.
    ///
    /// # Errors
    /// The file or table can't be read, or its content is not limits: there are no earlier limits to keep.
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

    /// Creates a feed that has not read anything yet. It can be followed with rows of an earlier run
    /// ([`Feed::continue_with`]).
    ///
    /// # Errors
    /// The source can't be read later either: standard input, a pipe.
    pub fn unread(options: &Options) -> Result<Self, Failure> {
        match &options.address {
            Address::File(path) => {
                let feed = FileFeed::new(path, options);
                let is_missing = !path.exists() && path.as_os_str() != "-";
                match feed.is_followed() || is_missing {
                    true => Ok(Feed(Kind::File(Box::new(feed)))),
                    false => Err(Failure::new(Exit::NoInput, anyhow!("it is not read again"))),
                }
            }
            Address::Postgres(database) => {
                Ok(Feed(Kind::Table(Box::new(TableFeed::new(database, options)?))))
            }
        }
    }

    /// Takes the rows of an earlier run for those that were read last, since none can be read now. Returns them as edits
    /// of an empty table.
    pub fn continue_with(&mut self, rows: Vec<Arc<Row>>, why: &str) -> Edits {
        match &mut self.0 {
            Kind::File(feed) => feed.continue_with(rows, why),
            Kind::Table(feed) => feed.continue_with(rows, why),
        }
    }

    /// Returns the health of the feed, which the feed updates.
    pub fn health(&self) -> Health {
        match &self.0 {
            Kind::File(feed) => feed.health(),
            Kind::Table(feed) => feed.health(),
        }
    }

    /// Follows the limits on a thread of its own until the receiver is dropped. That thread calls `wake` after it has
    /// sent edits.
    pub fn follow(self, wake: impl Fn() + Send + 'static) -> anyhow::Result<EditReceiver> {
        let (sender, receiver) = handover(wake);
        std::thread::Builder::new()
            .name("limits".into())
            .spawn(move || match self.0 {
                Kind::File(mut feed) => feed.run(&sender),
                Kind::Table(feed) => feed.run(&sender),
            })
            .context("starting the thread that follows the limits")?;
        Ok(receiver)
    }
}
