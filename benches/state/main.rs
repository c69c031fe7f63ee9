//! The cost of a durable state: `floodmark run --state`, beside the same run without one.
//!
//! - **Checkpoints** of a run over a topic to its end: time and CPU of one, and its share of the time between two.
//! - **Ticks** while one window with many totals is saved again and again: the greatest delay of a tick.
//! - **Restart** after `kill -9` with many totals: the time until records are read again, and the speed after it.
//! - **Edits** of limits under the load of the bench `follow`: latency until a reader of committed messages has the
//!   alert.
//! - **Disk**: bytes for each total of IPv4.
//!
//! Variants of a row run in turn, so that other load of the machine affects both.
//!
//! `scripts/bench state` calls
//! `cargo bench --bench state -- FLOODMARK BROKER DATABASE RUNS CHANGES RECORDS TOTALS TOTALS`: the records of each
//! topic for checkpoints, the totals of the window under way, and those of the restart.

// The table is the result.
#![allow(clippy::print_stdout)]

mod checkpoints;
#[path = "../common/mod.rs"]
mod common;
mod disk;
mod restarts;
mod ticks;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::edits::{Run, Table};
use common::live::create_topic;
use floodmark::kafka::topics::Plan;
use serde_json::Value;

/// The time between two checkpoints that is the default of `floodmark run`, in seconds.
const DEFAULT_INTERVAL: f64 = 60.0;

/// Packets for each total of a window, drawn from as many pairs: the totals are somewhat more than asked for.
const PACKETS_PER_TOTAL: u64 = 5;

/// Partitions of the topics of records.
const PARTITIONS: i32 = 4;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [floodmark, broker, database, numbers @ ..] = &arguments[..] else {
        panic!("give the program, a broker, a database, and numbers")
    };
    let numbers: Vec<u64> =
        numbers.iter().map(|number| number.parse().expect("a number")).collect();
    let [runs, changes, records, window_totals, restart_totals] = numbers[..] else {
        panic!("give runs, changes, records, totals of a window, and totals of a restart")
    };
    let place = tempfile::tempdir().expect("a directory");
    let limits = place.path().join("limits.json");
    let row = r#"{"limit_name": "max", "limit_value": 1000000, "effective_date": "2000-01-01"}"#;
    fs::write(&limits, row).expect("writing limits");
    let bench = Bench { floodmark, broker, place: place.path(), limits, made: Cell::new(0) };
    let runs = runs as usize;
    for format in ["kv", "packed"] {
        checkpoints::measure(&bench, runs, format, records);
    }
    ticks::measure(&bench, runs, window_totals);
    restarts::measure(&bench, runs, restart_totals);
    edits(&bench, database, changes as usize);
    disk::measure(&bench, runs, window_totals);
}

/// Everything that all parts need.
struct Bench<'a> {
    floodmark: &'a str,
    broker: &'a str,
    place: &'a Path,
    limits: PathBuf,
    /// The number of names given out.
    made: Cell<u32>,
}

impl Bench<'_> {
    /// Returns a name that nothing has.
    fn name(&self, what: &str) -> String {
        self.made.set(self.made.get() + 1);
        format!("state-{what}-{}-{}", std::process::id(), self.made.get())
    }

    /// Creates a topic of records, and returns its address.
    fn flows(&self) -> String {
        let uri = format!("kafka://{}/{}", self.broker, self.name("flows"));
        create_topic(&uri, &Plan::recording(PARTITIONS));
        uri
    }

    /// Returns `floodmark run`, with a new topic of alerts, and with a new state if it has an interval of checkpoints.
    fn run(&self, flows: &str, interval: Option<Duration>) -> (Command, PathBuf) {
        let alerts = format!("kafka://{}/{}", self.broker, self.name("alerts"));
        create_topic(&alerts, &Plan::state(1));
        let state = self.place.join(self.name("directory"));
        let mut command = Command::new(self.floodmark);
        command.args(["run", "--from", flows, "--to", &alerts, "--limits"]).arg(&self.limits);
        if let Some(interval) = interval {
            // The topic of its ticks.
            command.arg("--create-topic").arg("--state").arg(&state);
            command.args(["--checkpoint-interval", &format!("{}ms", interval.as_millis())]);
        }
        (command, state)
    }

    /// Returns the newest checkpoint of a state.
    fn newest(&self, state: &Path) -> Checkpoint {
        let listed =
            Command::new(self.floodmark).args(["state", "list", "--json"]).arg(state).output();
        let listed = listed.expect("starting floodmark state list");
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let text = String::from_utf8(listed.stdout).expect("text");
        let newest = text.lines().next().expect("a checkpoint");
        let newest: Value = serde_json::from_str(newest).expect("a checkpoint is JSON");
        Checkpoint {
            totals: newest["totals"].as_f64().expect("its totals"),
            bytes: newest["bytes"].as_f64().expect("its bytes"),
        }
    }
}

/// The newest checkpoint of a state.
struct Checkpoint {
    totals: f64,
    /// Bytes of the files of totals and limits that it refers to.
    bytes: f64,
}

/// Returns a number of millions, or of thousands, as text.
fn count(number: f64) -> String {
    if number == 0.0 {
        "-".to_owned()
    } else if number >= 1e6 {
        format!("{:.1} M", number / 1e6)
    } else {
        format!("{:.0} k", number / 1e3)
    }
}

/// Measures edits of limits under load, without and with a state.
fn edits(bench: &Bench<'_>, database: &str, changes: usize) {
    const INTERVAL: &str = "10s";
    let table = Table::new(bench.floodmark, database);
    println!(
        "{:<44} {:>9} {:>8} {:>8} {:>9} {:>7} {:>11} {:>8}  wanted",
        format!("limit to alert, ms, of {changes} changes"),
        "median",
        "99 %",
        "worst",
        "records/s",
        "core %",
        "checkpoints",
        "totals"
    );
    let state = bench.place.join(bench.name("directory"));
    let variants = [
        ("SQL COMMIT, without --state", "plain", None, ""),
        (
            "SQL COMMIT, --state, a checkpoint each 10s",
            "state",
            Some((state.as_path(), INTERVAL)),
            "median 20, worst 150",
        ),
    ];
    for (what, name, state, wanted) in variants {
        let Bench { floodmark, broker, .. } = *bench;
        let run = Run { floodmark, broker, limits: database, name, state };
        let edited = run.measure(changes, &|broken| table.write(broken));
        let [median, most, worst] = edited.latencies;
        println!(
            "{what:<44} {median:>9.2} {most:>8.2} {worst:>8.2} {:>9.0} {:>7.0} {:>11.0} {:>8}  {wanted}",
            edited.records_per_second,
            100.0 * edited.cores,
            edited.checkpoints,
            count(edited.totals),
        );
    }
    println!();
}
