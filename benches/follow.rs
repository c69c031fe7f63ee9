//! Latency from an edit of limits, in a database and in a file, to the alerts.
//!
//! `floodmark run` with two workers holds a million totals, and reads 50,000 further records a second, a
//! message each. The bench raises and lowers a limit on all traffic in turn, so that each edit raises or clears
//! a violation, and also edits a limit on pairs. The measured time starts before the statement that commits is
//! sent, or the file is renamed, and ends when the change is read from the topic of alerts.
//!
//! The median should be under 20 ms, and the worst of 200 under 150 ms.
//!
//! `scripts/bench --follow CHANGES` calls
//! `cargo bench --bench follow -- FLOODMARK BROKER DATABASE CHANGES`.

// The table is the result.
#![allow(clippy::print_stdout)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::live::{Children, Load, spread, tail, wait_for_change, wait_until};
use common::{free_address, scrape, usage};
use floodmark::kafka::topics::{self, Plan};
use floodmark::kafka::{Address, ClientOptions};
use rdkafka::consumer::BaseConsumer;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

const RATE: u64 = 50_000;
const TOTALS: f64 = 1e6;
/// Packets sent at full speed before the measurement, into windows that are still open or unsettled.
const BEFORE: u64 = 4_000_000;
const PAIRS: &str = "1M";
const BETWEEN_CHANGES: Duration = Duration::from_millis(250);

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [floodmark, broker, database, changes] = &arguments[..] else {
        panic!("give the program, a broker, a database, and a number of changes")
    };
    let changes: usize = changes.parse().expect("a number of changes");
    let place = tempfile::tempdir().expect("a directory");
    let table = Table::new(floodmark, database);
    let file = LimitsFile(place.path().join("limits.json"));
    let file_name = file.0.display().to_string();
    println!("limit to alert, ms, of {changes} changes     median      99 %     worst");
    let of_table = Run { floodmark, broker, limits: database, name: "table" };
    of_table.measure(changes, "SQL COMMIT", &|broken| table.write(broken));
    file.write(false);
    let of_file = Run { floodmark, broker, limits: &file_name, name: "file" };
    of_file.measure(changes, "file renamed", &|broken| file.write(broken));
}

/// A run that is measured.
struct Run<'a> {
    floodmark: &'a str,
    broker: &'a str,
    limits: &'a str,
    name: &'a str,
}

impl Run<'_> {
    fn measure(&self, changes: usize, what: &str, write: &dyn Fn(bool)) {
        let Run { floodmark, broker, limits, name } = self;
        let topic = |kind| format!("kafka://{broker}/follow-{kind}-{name}-{}", std::process::id());
        let (flows, alerts) = (topic("flows"), topic("alerts"));
        let make = |uri: &str, plan: &Plan| {
            let address: Address = uri.parse().expect("a topic");
            topics::create(&address, &ClientOptions::default(), plan).expect("a new topic");
            address
        };
        make(&flows, &Plan::recording(4));
        let alerts_address = make(&alerts, &Plan::state(1));
        let before = Load {
            packets: BEFORE,
            pairs: PAIRS,
            seconds: 500,
            from_now: -500,
            speed: "max",
            seed: 1,
        };
        for mut child in before.send(floodmark, &flows) {
            assert!(child.wait().expect("its end").success(), "the load was not sent");
        }
        let http = free_address();
        let run = Command::new(floodmark)
            .args(["run", "-w", "2", "--from", &flows, "--to", &alerts, "--http", &http])
            .args(["--limits", limits, "--log-level", "warn"])
            .spawn()
            .expect("starting floodmark run");
        let process = run.id().to_string();
        let mut children = Children(vec![run]);
        let seconds = 60 + (BETWEEN_CHANGES * changes as u32).as_secs() * 3 / 2;
        let packets = RATE * seconds;
        let load = Load { packets, pairs: PAIRS, seconds, from_now: 0, speed: "1x", seed: 2 };
        children.0.extend(load.send(floodmark, &flows));
        let counted = || scrape(&http, "floodmark_input_records_total").unwrap_or_default();
        let lag = || scrape(&http, "floodmark_kafka_lag_messages").unwrap_or(f64::NAN);
        wait_until("the load to flow", || counted() > BEFORE as f64 && lag() < RATE as f64);
        wait_until("a million totals", || {
            scrape(&http, "floodmark_pairs").is_some_and(|n| n >= TOTALS)
        });
        let alerts = tail(&alerts_address);
        // Warm-up: clients discover partitions, and brokers open files.
        latencies(&alerts, 4, write);
        let (began, records, cpu) = (Instant::now(), counted(), usage(&process).cpu);
        let mut latencies = latencies(&alerts, changes, write);
        let took = began.elapsed().as_secs_f64();
        let [median, most, worst] = spread(&mut latencies);
        println!("{what:<36} {median:>9.2} {most:>9.2} {worst:>9.2}");
        println!(
            "    meanwhile {:.0} records/s, {:.0} totals held, {:.0} % of a core",
            (counted() - records) / took,
            scrape(&http, "floodmark_pairs").unwrap_or_default(),
            100.0 * (usage(&process).cpu - cpu) / took,
        );
    }
}

/// Edits the limits `changes` times, and returns the latency of each edit, in milliseconds.
fn latencies(alerts: &BaseConsumer, changes: usize, write: &dyn Fn(bool)) -> Vec<f64> {
    let begun = Instant::now();
    let turns = (0..changes as u32).map(|turn| {
        let at = begun + BETWEEN_CHANGES * turn;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let broken = turn % 2 == 0;
        let began = Instant::now();
        write(broken);
        wait_for_change(alerts, broken);
        began.elapsed().as_secs_f64() * 1e3
    });
    turns.collect()
}

/// Returns the values of the limit on all traffic and of the limit on pairs.
fn values(broken: bool) -> [&'static str; 2] {
    if broken { ["1", "120000000"] } else { ["1e30", "100000000"] }
}

struct Table {
    runtime: Runtime,
    client: Client,
}

impl Table {
    /// Creates the table with its trigger by `floodmark limits init`.
    fn new(floodmark: &str, database: &str) -> Self {
        let made = Command::new(floodmark).args(["limits", "init", database]).output();
        assert!(made.expect("starting floodmark limits init").status.success());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .expect("a runtime");
        let (client, connection) =
            runtime.block_on(tokio_postgres::connect(database, NoTls)).expect("a connection");
        runtime.spawn(connection);
        let table = Table { runtime, client };
        table.execute(
            "insert into traffic_limits (limit_name, limit_value, effective_date, per) values
                ('probe', 1e30, '2000-01-01', 'total'), ('pair', 1e8, '2000-01-01', 'pair')",
        );
        table
    }

    /// One statement is one transaction.
    fn execute(&self, sql: &str) {
        self.runtime.block_on(self.client.batch_execute(sql)).expect("a statement");
    }

    fn write(&self, broken: bool) {
        let [all, pair] = values(broken);
        self.execute(&format!(
            "update traffic_limits set limit_value =
                case limit_name when 'probe' then {all}::numeric else {pair}::numeric end"
        ));
    }
}

struct LimitsFile(PathBuf);

impl LimitsFile {
    /// Replaces the file by renaming.
    fn write(&self, broken: bool) {
        let [all, pair] = values(broken);
        let row = |name, value, per| {
            format!(
                "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\"per\":\"{per}\",\
                 \"effective_date\":\"2000-01-01\"}}\n"
            )
        };
        let next: &Path = &self.0.with_extension("next");
        fs::write(next, row("probe", all, "total") + &row("pair", pair, "pair")).expect("limits");
        fs::rename(next, &self.0).expect("putting limits in place");
    }
}
