//! The commands of `floodmark limits`, on files and on tables of a real PostgreSQL.

mod files;
mod schema;
mod sets;
mod tables;

use crate::common::postgres::{Database, Postgres};
use crate::replay::run::{Place, Run};

/// A directory and a database of one test.
struct Bench {
    place: Place,
    database: Database,
}

impl Bench {
    fn new() -> Self {
        Bench { place: Place::new(), database: Postgres::shared().database() }
    }

    /// Creates a bench with the table of `floodmark limits init`.
    fn with_table() -> Self {
        let bench = Bench::new();
        bench.run("init URI").stdout(0);
        bench
    }

    /// Returns the run of `floodmark limits` with these words. `URI` stands for the database as its owner, `READER` for
    /// the database as a user with read access only.
    fn run(&self, words: &str) -> Run<'_> {
        let words = words
            .replace("URI", &self.database.uri("floodmark"))
            .replace("READER", &self.database.uri("reader"));
        self.place.floodmark(&format!("limits {words}"))
    }

    /// Returns the rows of the table as a JSON array.
    fn export(&self) -> String {
        self.run("export URI").stdout(0)
    }
}

/// Returns the words of a text, separated by single blanks.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
