//! Runs whose wall clock is set while they run. The tests control the clocks.

use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use floodmark::base::error::{Exit, Outcome};
use floodmark::base::terminal::{Interrupt, Messages};
use floodmark::cluster::{Cluster, Settings, watchdog};
use floodmark::kafka::{Address, ClientOptions, Outgoing, SourceOptions, Start, Topic};
use floodmark::limits::catalog::Catalog;
use floodmark::limits::feed;
use floodmark::runner::{
    self, Clocks, Job, LeaderConfig, Limits, Reading, Shared, Sources, Status, SteadyClock,
    WallTime,
};
use floodmark::sink::{Counts, Hub, Stream};
use floodmark::source::topic::DeadLetterOutput;
use floodmark::source::{Filter, Partitions, ReadingRules, topic};
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::types::Updates;

use crate::common::broker::{Mock, produce};
use crate::replay::run::{Place, STUCK_AFTER};

/// The wall-clock time at which runs start.
pub(super) const NOON: u64 = 1_780_315_200_000;
const HOUR: u64 = 3_600_000;

const MAX_AHEAD_MS: u64 = 300_000;

/// Each record breaks the first limit, each window without records the second one.
const LIMITS: &str = r#"
{"limit_name":"max","limit_value":1,"effective_date":"1970-01-01"}
{"limit_name":"min","limit_value":1,"effective_date":"1970-01-01","per":"total"}
"#;

/// Clocks that only a test advances.
#[derive(Clone)]
struct ManualClocks(Arc<Mutex<Reading>>);

impl Clocks for ManualClocks {
    fn read(&mut self) -> Reading {
        *self.0.lock().expect("nobody panicked")
    }
}

impl ManualClocks {
    /// Sets the wall clock forward, or back if negative.
    fn step_wall(&self, by_ms: i64) {
        let mut reading = self.0.lock().expect("nobody panicked");
        reading.wall_ms = reading.wall_ms.checked_add_signed(by_ms).expect("a time");
    }

    fn advance(&self, ms: u64) {
        let mut reading = self.0.lock().expect("nobody panicked");
        reading.wall_ms += ms;
        reading.elapsed_ms += ms;
    }
}

/// A run in this process that reads a topic of its own.
pub(super) struct InProcessRun {
    clocks: ManualClocks,
    flows: Address,
    _mock: Mock,
    pub(super) place: Place,
    status: Arc<Status>,
    stop: Interrupt,
    thread: JoinHandle<Outcome>,
}

impl InProcessRun {
    /// Starts a run whose wall clock shows a time, over these records.
    fn start(wall_ms: u64, records: &[(&str, u64)]) -> Self {
        InProcessRun::start_with(LIMITS, Catalog::new(), wall_ms, records)
    }

    /// Starts a run with these limits, in `limits.json`, and this catalog.
    pub(super) fn start_with(
        limits: &str,
        catalog: Catalog,
        wall_ms: u64,
        records: &[(&str, u64)],
    ) -> Self {
        let (mock, place) = (Mock::new(), Place::new());
        let flows = mock.topic("flows", 1);
        send(&flows, records);
        let limits = place.write("limits.json", limits);
        let clocks = ManualClocks(Arc::new(Mutex::new(Reading { wall_ms, elapsed_ms: 0 })));
        let tick = Duration::from_millis(20);
        let idle_timeout = Duration::from_secs(1);
        let source = SourceOptions {
            start: Start::Earliest,
            idle_timeout,
            max_skew_ms: HOUR,
            group: "tests".into(),
            max_transaction: Duration::MAX,
            skip_open_transactions: false,
        };
        let topic = Topic::open(&flows, &ClientOptions::default(), source).map(Arc::new);
        let topic = topic.unwrap_or_else(|failure| panic!("{:#}", failure.error));
        let windows = Windows { width_secs: 10, lateness_ms: Some(60_000), ..Windows::default() };
        let options = Options { windows, updates: Updates::Settled, ..Options::default() };
        let leader = Arc::new(OnceLock::new());
        let limits = Limits::follow(&feed::Options::file(limits), &leader);
        let alerts = Stream::open(&place.path("alerts.jsonl"), windows);
        let alerts = alerts.unwrap_or_else(|failure| panic!("{:#}", failure.error));
        let lead = LeaderConfig {
            state: None,
            limits: vec![limits.unwrap_or_else(|failure| panic!("{:#}", failure.error))],
            leader,
            queries: None,
            final_query: None,
            hub: Hub::new(Counts::new(catalog.sets()), vec![Box::new(alerts)]),
            catalog,
            time: Box::new(WallTime::new(
                Box::new(SteadyClock::over(clocks.clone(), 1000)),
                tick,
                Start::Earliest,
                MAX_AHEAD_MS,
            )),
        };
        let (stop, status) = (Interrupt::default(), Arc::new(Status::new(1, tick)));
        let watch = watchdog::start(STUCK_AFTER).expect("a thread");
        status.set_topic(topic.clone(), watch.clone());
        let source = topic::Options {
            topic,
            windows,
            filter: Filter::default(),
            rules: ReadingRules {
                max_ahead_ms: MAX_AHEAD_MS,
                max_behind_ms: u64::MAX,
                input_timezone: "UTC".to_owned(),
            },
            tick: Duration::from_millis(20),
            dead_letters: DeadLetterOutput::None,
        };
        let shared = Shared {
            has_dead_letters: false,
            state: None,
            options,
            filter: Filter::default(),
            status: Some(status.clone()),
            interrupt: stop.clone(),
            watch: Some(watch),
        };
        let sources = Sources::each(move |worker, workers, _| {
            Partitions::open(&source, worker, workers, None)
        });
        let work = move || {
            let ended = runner::execute(
                Cluster::alone(1),
                &Settings::default(),
                &Messages::new(),
                &mut || Ok(()),
                Job { shared, sources, lead: Some(Box::new(|| Ok(lead))) },
            )?;
            ended.map_or(Ok(Exit::Done), |ended| ended.outcome(false))
        };
        let thread = std::thread::spawn(work);
        InProcessRun { clocks, flows, _mock: mock, place, status, stop, thread }
    }

    pub(super) fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let started = Instant::now();
        while !holds() {
            let reasons = self.status.reasons();
            assert!(
                started.elapsed() < STUCK_AFTER,
                "stuck: {what}\n{reasons:?}\n{}",
                self.alerts()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn alerts(&self) -> String {
        self.place.read("alerts.jsonl")
    }

    /// Waits until the record of a source is judged, so that it was counted.
    fn wait_for(&self, source: &str) {
        let source = format!(r#""source":"{source}""#);
        self.wait(&source, || self.alerts().contains(&source));
    }

    fn has_reason(&self, name: &str) -> bool {
        self.status.reasons().iter().any(|reason| reason.reason == name)
    }

    fn wait_for_reason(&self, name: &str) {
        self.wait(name, || self.has_reason(name));
    }

    /// Waits until all parts of the run have read the clock.
    fn wait_for_ticks(&self) {
        for _ in 0..3 {
            let tick = self.status.progress().tick;
            self.wait("ticks", || self.status.progress().tick > tick);
        }
    }

    /// Ends the run, and returns all alerts.
    pub(super) fn end(self) -> String {
        self.stop.press();
        let outcome = self.thread.join().expect("no panic");
        assert_eq!(outcome.unwrap_or_else(|failure| panic!("{:#}", failure.error)), Exit::Done);
        self.place.read("alerts.jsonl")
    }
}

/// Sends a record of 100 bytes for each source and time.
fn send(flows: &Address, records: &[(&str, u64)]) {
    let keys: Vec<String> =
        records.iter().map(|(source, _)| format!("{source} 192.0.2.9")).collect();
    let message = |(key, (_, ms)): (&'_ String, &(&str, u64))| (key.clone(), *ms as i64);
    let messages: Vec<(String, i64)> = keys.iter().zip(records).map(message).collect();
    let outgoing: Vec<Outgoing<'_>> = messages
        .iter()
        .map(|(key, ms)| Outgoing {
            key: Some(key.as_bytes()),
            payload: Some(b"100"),
            timestamp_ms: Some(*ms),
            partition: Some(0),
            ..Outgoing::default()
        })
        .collect();
    produce(flows, &outgoing);
}

#[test]
fn run_with_its_clock_set_back_counts_new_records() {
    let run = InProcessRun::start(NOON, &[("10.0.0.1", NOON)]);
    run.wait_for("10.0.0.1");
    run.clocks.step_wall(-20 * 60_000);
    run.wait_for_reason("clock_step");
    send(&run.flows, &[("10.0.0.2", NOON + 1000)]);
    run.wait_for("10.0.0.2");
    // This record is further ahead of the wall clock than --max-ahead, but not of the steady clock.
    run.clocks.advance(600_000);
    send(&run.flows, &[("10.0.0.3", NOON + 610_000)]);
    run.wait_for("10.0.0.3");
    let settled =
        |source| move |line: &&str| line.contains(source) && line.contains(r#""settled":true"#);
    run.wait("the first windows settle", || {
        run.alerts().lines().any(|line| settled("10.0.0.2")(&line))
    });
    assert!(run.status.progress().tick > NOON + 500_000);
    // The wall clock is corrected.
    run.clocks.step_wall(20 * 60_000);
    run.wait_for_ticks();
    run.clocks.advance(61_000);
    run.wait("the clock has caught up", || !run.has_reason("clock_step"));
    run.end();
}

#[test]
fn brief_step_of_the_clock_forward_is_not_judged_as_silence() {
    let run = InProcessRun::start(NOON, &[("10.0.0.1", NOON)]);
    run.wait_for("10.0.0.1");
    run.wait("the partition is idle", || run.status.progress().watermark >= NOON);
    run.clocks.step_wall(HOUR as i64);
    run.wait_for_reason("clock_step");
    run.wait_for_ticks();
    assert!(run.status.progress().watermark <= NOON);
    run.clocks.step_wall(-(HOUR as i64));
    run.wait("the clock is back", || !run.has_reason("clock_step"));
    send(&run.flows, &[("10.0.0.2", NOON + 1000)]);
    run.wait_for("10.0.0.2");
    let alerts = run.end();
    assert!(!alerts.contains(r#""limit_name":"min""#), "{alerts}");
}

#[test]
fn lasting_step_of_the_clock_forward_is_accepted_without_silence() {
    let run = InProcessRun::start(NOON, &[("10.0.0.1", NOON)]);
    run.wait_for("10.0.0.1");
    run.clocks.step_wall(HOUR as i64);
    run.wait_for_reason("clock_step");
    run.wait_for_ticks();
    send(&run.flows, &[("10.0.0.2", NOON + HOUR)]);
    run.wait_for_ticks();
    assert_eq!(run.status.progress().reached, Some(NOON));
    run.clocks.advance(61_000);
    run.wait_for("10.0.0.2");
    run.wait("ticks go on by the wall clock", || run.status.progress().tick >= NOON + HOUR);
    // Nothing was observed in the hour between.
    let alerts = run.end();
    assert!(!alerts.contains(r#""limit_name":"min""#), "{alerts}");
}

#[test]
fn run_with_an_unset_clock_reads_nothing_until_it_is_set() {
    let run = InProcessRun::start(5_000, &[("10.0.0.1", NOON)]);
    run.wait_for_reason("clock_unset");
    run.clocks.advance(10_000);
    assert_eq!(run.status.progress().tick, 0);
    run.clocks.step_wall(NOON as i64);
    run.wait_for("10.0.0.1");
    run.wait("the clock is set", || !run.has_reason("clock_unset"));
    run.end();
}

#[test]
fn run_with_an_unset_clock_ends_on_interrupt() {
    let run = InProcessRun::start(5_000, &[("10.0.0.1", NOON)]);
    run.wait_for_reason("clock_unset");
    assert_eq!(run.end(), "");
}
