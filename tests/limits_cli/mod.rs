//! The commands about limits, on files and on tables of a real PostgreSQL.

mod files;
mod schema;
mod sets;
mod tables;

use crate::common::postgres::{Database, Postgres};
use crate::replay::run::{Place, Run};

/// A place, and a database of its own.
struct Bench {
    place: Place,
    database: Database,
}

impl Bench {
    fn new() -> Self {
        Bench { place: Place::new(), database: Postgres::shared().database() }
    }

    /// The same with the table that `init` makes.
    fn with_table() -> Self {
        let bench = Bench::new();
        bench.run("init URI").stdout(0);
        bench
    }

    /// `floodmark limits` with these words, `URI` being the address of the database for its owner and
    /// `READER` that for one who may only read.
    fn run(&self, words: &str) -> Run<'_> {
        let words = words
            .replace("URI", &self.database.uri("floodmark"))
            .replace("READER", &self.database.uri("reader"));
        self.place.floodmark(&format!("limits {words}"))
    }

    /// What is in the table, as a JSON array.
    fn export(&self) -> String {
        self.run("export URI").stdout(0)
    }
}

/// The text with one blank between words.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
