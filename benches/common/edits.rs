//! Edits of limits during a live run, in a database and in a file, and their latency until the alert.
//!
//! The run with two workers holds a million totals, and reads 50,000 further records a second, a message each. A
//! limit on all traffic is raised and lowered in turn, so that each edit raises or clears a violation; a limit on
//! pairs is edited too. The latency starts before the statement that commits is sent, or the file is renamed, and
//! ends when the change is read from the topic of alerts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use floodmark::kafka::topics::Plan;
use rdkafka::consumer::BaseConsumer;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use super::live::{Children, Load, create_topic, spread, tail, wait_for_change, wait_until};
use super::{free_address, scrape, usage};

const RATE: u64 = 50_000;
const TOTALS: f64 = 1e6;
/// Packets sent at full speed before the measurement, into windows that are still open or unsettled.
const BEFORE: u64 = 4_000_000;
const PAIRS: &str = "1M";
const BETWEEN_CHANGES: Duration = Duration::from_millis(250);

/// A run whose limits are edited.
pub(crate) struct Run<'a> {
    pub(crate) floodmark: &'a str,
    pub(crate) broker: &'a str,
    pub(crate) limits: &'a str,
    /// The end of the names of its topics.
    pub(crate) name: &'a str,
    /// The directory of its state, and the time between two checkpoints; `None` for a run without a state.
    pub(crate) state: Option<(&'a Path, &'a str)>,
}

/// The figures of a run whose limits were edited.
pub(crate) struct Edited {
    /// The median, the 99th percentile and the maximum of the latencies, in milliseconds.
    pub(crate) latencies: [f64; 3],
    pub(crate) records_per_second: f64,
    pub(crate) totals: f64,
    /// The share of one core that the run has used.
    pub(crate) cores: f64,
    /// The checkpoints written during the edits.
    pub(crate) checkpoints: f64,
}

impl Run<'_> {
    /// Edits the limits `changes` times by `write`, while the run holds [`TOTALS`] and reads [`RATE`].
    pub(crate) fn measure(&self, changes: usize, write: &dyn Fn(bool)) -> Edited {
        let Run { floodmark, broker, limits, name, state } = self;
        let topic = |kind| format!("kafka://{broker}/follow-{kind}-{name}-{}", std::process::id());
        let (flows, alerts) = (topic("flows"), topic("alerts"));
        create_topic(&flows, &Plan::recording(4));
        let alerts_address = create_topic(&alerts, &Plan::state(1));
        let before = Load {
            packets: BEFORE,
            pairs: PAIRS,
            seconds: 500,
            from_now: -500,
            speed: "max",
            ..Load::default()
        };
        before.send_all(floodmark, &flows);
        let http = free_address();
        let mut run = Command::new(floodmark);
        run.args(["run", "-w", "2", "--from", &flows, "--to", &alerts, "--http", &http]).args([
            "--limits",
            limits,
            "--log-level",
            "warn",
        ]);
        if let Some((directory, interval)) = state {
            // The topic of its ticks.
            run.arg("--create-topic");
            run.arg("--state").arg(directory).args(["--checkpoint-interval", interval]);
        }
        let run = run.spawn().expect("starting floodmark run");
        let process = run.id().to_string();
        let mut children = Children(vec![run]);
        let seconds = 60 + (BETWEEN_CHANGES * changes as u32).as_secs() * 3 / 2;
        let packets = RATE * seconds;
        let load = Load { packets, pairs: PAIRS, seconds, seed: 2, ..Load::default() };
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
        let checkpoints = || scrape(&http, "floodmark_state_checkpoints_total").unwrap_or_default();
        let (records, written, cpu) = (counted(), checkpoints(), usage(&process).cpu);
        let began = Instant::now();
        let mut latencies = latencies(&alerts, changes, write);
        let took = began.elapsed().as_secs_f64();
        Edited {
            latencies: spread(&mut latencies),
            records_per_second: (counted() - records) / took,
            totals: scrape(&http, "floodmark_pairs").unwrap_or_default(),
            cores: (usage(&process).cpu - cpu) / took,
            checkpoints: checkpoints() - written,
        }
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

/// A table of limits, with its trigger.
pub(crate) struct Table {
    runtime: Runtime,
    client: Client,
}

impl Table {
    /// Creates the table with its trigger by `floodmark limits init`.
    pub(crate) fn new(floodmark: &str, database: &str) -> Self {
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
            "delete from traffic_limits;
             insert into traffic_limits (limit_name, limit_value, effective_date, per) values
                ('probe', 1e30, '2000-01-01', 'total'), ('pair', 1e8, '2000-01-01', 'pair')",
        );
        table
    }

    /// One statement is one transaction.
    fn execute(&self, sql: &str) {
        self.runtime.block_on(self.client.batch_execute(sql)).expect("a statement");
    }

    /// Raises or clears the violation in one transaction.
    pub(crate) fn write(&self, broken: bool) {
        let [all, pair] = values(broken);
        self.execute(&format!(
            "update traffic_limits set limit_value =
                case limit_name when 'probe' then {all}::numeric else {pair}::numeric end"
        ));
    }
}

/// A file of limits.
pub(crate) struct LimitsFile(pub(crate) PathBuf);

impl LimitsFile {
    /// Replaces the file by renaming.
    pub(crate) fn write(&self, broken: bool) {
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
