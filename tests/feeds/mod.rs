//! Feeds of limits from tables of a real PostgreSQL, while the tables change.
//!
//! - `tables`: contents of any kind, and concurrent writers.
//! - `encodings`: databases that are not in UTF-8.
//! - `pools`: connection pools and firewalls in front of the server.
//! - `faults`: servers, connections and tables that disappear, or do not respond.

mod encodings;
mod faults;
mod pools;
mod tables;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use floodmark::limits::Address;
use floodmark::limits::feed::{self, EditReceiver, Edits, Feed, Health, Options};
use floodmark::limits::postgres::schema::{PartState, SchemaPart, Step};
use floodmark::limits::postgres::{self, Session, TableName};

use crate::common::postgres::Database;
use crate::replay::run::STUCK_AFTER;

/// A table with the three required columns only.
pub(crate) const PLAIN: &str = "create table traffic_limits (limit_name text, limit_value numeric, effective_date timestamptz)";

/// Adds the trigger that notifies of changes to the table.
pub(crate) fn add_notify_trigger(database: &Database) {
    let address: postgres::Address = database.uri("postgres").parse().expect("an address");
    let made = feed::runtime().expect("a runtime").block_on(async {
        Session::connect(&address).await?.init(&TableName::default(), false).await
    });
    let steps = made.unwrap_or_else(|error| panic!("{error}"));
    let expected = Step { part: SchemaPart::Trigger, state: PartState::Created };
    assert!(steps.contains(&expected), "{steps:?}");
}

/// Returns options to follow the table of a database as user `reader`.
fn options(database: &Database) -> Options {
    let address: Address = database.uri("reader").parse().expect("an address");
    Options { address, ..Options::file("") }
}

/// The accepted rows: the value as it is written, by name and date in nanoseconds.
type Rows = BTreeMap<(String, i128), String>;

/// A feed, and the rows according to its edits.
struct Followed {
    changes: EditReceiver,
    health: Health,
    rows: Rows,
    /// The number of batches of edits received.
    edits: usize,
}

impl Followed {
    fn of(options: &Options) -> Self {
        let (feed, edits) =
            Feed::open(options).unwrap_or_else(|failure| panic!("{:#}", failure.error));
        let health = feed.health();
        let changes = feed.follow(|| ()).expect("a thread");
        let mut followed = Followed { changes, health, rows: Rows::new(), edits: 0 };
        followed.apply(edits);
        followed
    }

    fn apply(&mut self, edits: Edits) {
        self.edits += 1;
        for (row, diff) in edits {
            let value = row.value.as_ref().map_or("null".to_owned(), |v| v.text().to_owned());
            let at = (row.name.to_string(), row.effective);
            if diff > 0 {
                self.rows.insert(at, value);
            } else if self.rows.get(&at) == Some(&value) {
                self.rows.remove(&at);
            }
        }
    }

    /// Returns the values, ordered by name and date.
    fn values(&self) -> Vec<&str> {
        self.rows.values().map(String::as_str).collect()
    }

    /// Waits until the rows satisfy a condition.
    fn wait_until(&mut self, what: &str, holds: impl Fn(&Rows) -> bool) {
        while !holds(&self.rows) {
            match self.changes.next(STUCK_AFTER) {
                Some(edits) => self.apply(edits),
                None => panic!("stuck while waiting for {what}: {:?}", self.rows),
            }
        }
    }

    fn wait_for_values(&mut self, values: &[&str]) {
        self.wait_until(&format!("{values:?}"), |rows| rows.values().eq(values));
    }

    /// Waits until the feed reports an error that contains these words, and returns it.
    fn wait_for_error(&self, words: &str) -> String {
        let started = Instant::now();
        loop {
            match self.health.fault() {
                Some((_, why)) if why.contains(words) => return why,
                other => assert!(started.elapsed() < STUCK_AFTER, "no \"{words}\": {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the feed reports no error.
    fn wait_until_readable(&self) {
        let started = Instant::now();
        while let Some(fault) = self.health.fault() {
            assert!(started.elapsed() < STUCK_AFTER, "still: {fault:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Parses a date, to nanoseconds since 1970.
fn date(text: &str) -> i128 {
    floodmark::base::date::parse(text).expect("a date")
}
