//! Limits that are followed while they change, from tables of a real PostgreSQL.
//!
//! - `tables`: what is in a table, whatever is in it, and who writes to it.
//! - `encodings`: databases that are not in UTF-8.
//! - `pools`: connection pools and firewalls on the way to a table.
//! - `faults`: servers, connections and tables that go away, or do not answer.

mod encodings;
mod faults;
mod pools;
mod tables;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use floodmark::limits::Address;
use floodmark::limits::feed::{self, Changes, Edits, Feed, Health, Options};
use floodmark::limits::postgres::schema::{State, Step, What};
use floodmark::limits::postgres::{self, Session, TableName};

use crate::common::postgres::Database;
use crate::replay::run::STUCK_AFTER;

/// Three columns, as people have them who came from elsewhere.
pub(crate) const PLAIN: &str = "create table traffic_limits (limit_name text, limit_value numeric, effective_date timestamptz)";

/// Has the table tell of its changes.
pub(crate) fn tell_changes(database: &Database) {
    let address: postgres::Address = database.uri("postgres").parse().expect("an address");
    let made = feed::runtime().expect("a runtime").block_on(async {
        Session::connect(&address).await?.init(&TableName::default(), false).await
    });
    let steps = made.unwrap_or_else(|error| panic!("{error}"));
    let told = Step { what: What::Trigger, state: State::Made };
    assert!(steps.contains(&told), "{steps:?}");
}

/// What is to be followed in a database, read as who may only read.
fn options(database: &Database) -> Options {
    let address: Address = database.uri("reader").parse().expect("an address");
    Options { address, ..Options::file("") }
}

/// The rows that hold: by name and date, in nanoseconds, the value as it is written.
type Rows = BTreeMap<(String, i128), String>;

/// A feed, and what it has handed over.
struct Followed {
    changes: Changes,
    health: Health,
    rows: Rows,
    /// How many edits were handed over.
    edits: usize,
}

impl Followed {
    fn of(options: &Options) -> Self {
        let (feed, edits) =
            Feed::open(options).unwrap_or_else(|failure| panic!("{:#}", failure.error));
        let health = feed.health();
        let changes = feed.follow(|| ()).expect("a thread");
        let mut followed = Followed { changes, health, rows: Rows::new(), edits: 0 };
        followed.take(edits);
        followed
    }

    fn take(&mut self, edits: Edits) {
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

    /// The values, in the order of names and dates.
    fn values(&self) -> Vec<&str> {
        self.rows.values().map(String::as_str).collect()
    }

    /// Waits until the rows are as they should be.
    fn until(&mut self, what: &str, holds: impl Fn(&Rows) -> bool) {
        while !holds(&self.rows) {
            match self.changes.next(STUCK_AFTER) {
                Some(edits) => self.take(edits),
                None => panic!("stuck while waiting for {what}: {:?}", self.rows),
            }
        }
    }

    fn until_values(&mut self, values: &[&str]) {
        self.until(&format!("{values:?}"), |rows| rows.values().eq(values));
    }

    /// Waits until it can't be read, for a reason in which these words are.
    fn until_trouble(&self, words: &str) -> String {
        let started = Instant::now();
        loop {
            match self.health.trouble() {
                Some((_, why)) if why.contains(words) => return why,
                other => assert!(started.elapsed() < STUCK_AFTER, "no \"{words}\": {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it can be read.
    fn until_sound(&self) {
        let started = Instant::now();
        while let Some(trouble) = self.health.trouble() {
            assert!(started.elapsed() < STUCK_AFTER, "still: {trouble:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The moment that a text names.
fn date(text: &str) -> i128 {
    floodmark::base::date::parse(text).expect("a date")
}
