//! Runs whose clock is set while they run, by clocks that a test moves.

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
use floodmark::source::{Filter, Partitions, topic};
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::types::Updates;
use jiff::tz::TimeZone;

use crate::common::broker::{Mock, produce};
use crate::replay::run::{Place, STUCK_AFTER};

/// The noon of a day, at which runs start.
pub(super) const NOON: u64 = 1_780_315_200_000;
const HOUR: u64 = 3_600_000;

const MAX_AHEAD_MS: u64 = 300_000;

/// Each record breaks the first; the second is broken by windows without records.
const LIMITS: &str = r#"
{"limit_name":"max","limit_value":1,"effective_date":"1970-01-01"}
{"limit_name":"min","limit_value":1,"effective_date":"1970-01-01","per":"total"}
"#;

/// Clocks that stand until a test moves them.
#[derive(Clone)]
struct Hand(Arc<Mutex<Reading>>);

impl Clocks for Hand {
    fn read(&mut self) -> Reading {
        *self.0.lock().expect("nobody panicked")
    }
}

impl Hand {
    /// Somebody sets the wall clock.
    fn set(&self, by_ms: i64) {
        let mut reading = self.0.lock().expect("nobody panicked");
        reading.wall_ms = reading.wall_ms.checked_add_signed(by_ms).expect("a time");
    }

    fn pass(&self, ms: u64) {
        let mut reading = self.0.lock().expect("nobody panicked");
        reading.wall_ms += ms;
        reading.elapsed_ms += ms;
    }
}

/// A run in this process over a topic of its own.
pub(super) struct Run {
    hand: Hand,
    flows: Address,
    _mock: Mock,
    pub(super) place: Place,
    status: Arc<Status>,
    stop: Interrupt,
    thread: JoinHandle<Outcome>,
}

impl Run {
    /// Starts a run whose wall clock shows a time, over these records.
    fn starting(wall_ms: u64, records: &[(&str, u64)]) -> Self {
        Run::by(LIMITS, Catalog::new(), wall_ms, records)
    }

    /// The same by other limits, in `limits.json`, and with this catalog of them.
    pub(super) fn by(
        limits: &str,
        catalog: Catalog,
        wall_ms: u64,
        records: &[(&str, u64)],
    ) -> Self {
        let (mock, place) = (Mock::new(), Place::new());
        let flows = mock.topic("flows", 1);
        send(&flows, records);
        let limits = place.write("limits.json", limits);
        let hand = Hand(Arc::new(Mutex::new(Reading { wall_ms, elapsed_ms: 0 })));
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
            limits: vec![limits.unwrap_or_else(|failure| panic!("{:#}", failure.error))],
            leader,
            requests: None,
            final_request: None,
            hub: Hub::new(Counts::new(catalog.sets()), vec![Box::new(alerts)]),
            catalog,
            time: Box::new(WallTime::new(
                Box::new(SteadyClock::over(hand.clone(), 1000)),
                tick,
                Start::Earliest,
                MAX_AHEAD_MS,
            )),
        };
        let (stop, status) = (Interrupt::default(), Arc::new(Status::new(1, tick)));
        let watch = watchdog::start(STUCK_AFTER).expect("a thread");
        status.reads(topic.clone(), watch.clone());
        let source = topic::Options {
            topic,
            windows,
            filter: Filter::default(),
            max_ahead_ms: MAX_AHEAD_MS,
            max_behind_ms: u64::MAX,
            input_timezone: TimeZone::UTC,
            dead_letters: None,
        };
        let shared = Shared {
            options,
            filter: Filter::default(),
            status: Some(status.clone()),
            interrupt: stop.clone(),
            watch: Some(watch),
        };
        let sources =
            Sources::each(move |worker, workers| Partitions::open(&source, worker, workers));
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
        Run { hand, flows, _mock: mock, place, status, stop, thread }
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

    /// Waits until a record was judged: it was counted, and not refused.
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

    /// Waits until time has been read by all parts of the run.
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
fn run_whose_clock_is_set_back_counts_what_comes() {
    let run = Run::starting(NOON, &[("10.0.0.1", NOON)]);
    run.wait_for("10.0.0.1");
    run.hand.set(-20 * 60_000);
    run.wait_for_reason("clock_step");
    send(&run.flows, &[("10.0.0.2", NOON + 1000)]);
    run.wait_for("10.0.0.2");
    // Far later than the wall clock allows; before the horizon nevertheless.
    run.hand.pass(600_000);
    send(&run.flows, &[("10.0.0.3", NOON + 610_000)]);
    run.wait_for("10.0.0.3");
    let settled =
        |source| move |line: &&str| line.contains(source) && line.contains(r#""settled":true"#);
    run.wait("the first windows settle", || {
        run.alerts().lines().any(|line| settled("10.0.0.2")(&line))
    });
    assert!(run.status.progress().tick > NOON + 500_000);
    // It was wrong, and is set right.
    run.hand.set(20 * 60_000);
    run.wait_for_ticks();
    run.hand.pass(61_000);
    run.wait("the clock has caught up", || !run.has_reason("clock_step"));
    run.end();
}

#[test]
fn run_whose_clock_is_set_forward_for_a_moment_takes_nothing_for_silence() {
    let run = Run::starting(NOON, &[("10.0.0.1", NOON)]);
    run.wait_for("10.0.0.1");
    run.wait("the partition is idle", || run.status.progress().watermark >= NOON);
    run.hand.set(HOUR as i64);
    run.wait_for_reason("clock_step");
    run.wait_for_ticks();
    assert!(run.status.progress().watermark <= NOON);
    run.hand.set(-(HOUR as i64));
    run.wait("the clock is back", || !run.has_reason("clock_step"));
    send(&run.flows, &[("10.0.0.2", NOON + 1000)]);
    run.wait_for("10.0.0.2");
    let alerts = run.end();
    assert!(!alerts.contains(r#""limit_name":"min""#), "{alerts}");
}

#[test]
fn run_whose_clock_is_set_forward_rightly_counts_what_comes_once_it_believes_that() {
    let run = Run::starting(NOON, &[("10.0.0.1", NOON)]);
    run.wait_for("10.0.0.1");
    run.hand.set(HOUR as i64);
    run.wait_for_reason("clock_step");
    run.wait_for_ticks();
    send(&run.flows, &[("10.0.0.2", NOON + HOUR)]);
    run.wait_for_ticks();
    assert_eq!(run.status.progress().reached, Some(NOON));
    run.hand.pass(61_000);
    run.wait_for("10.0.0.2");
    run.wait("ticks go on by the wall clock", || run.status.progress().tick >= NOON + HOUR);
    // The hour between was not watched.
    let alerts = run.end();
    assert!(!alerts.contains(r#""limit_name":"min""#), "{alerts}");
}

#[test]
fn run_whose_clock_shows_1970_reads_nothing_until_it_is_set() {
    let run = Run::starting(5_000, &[("10.0.0.1", NOON)]);
    run.wait_for_reason("clock_unset");
    run.hand.pass(10_000);
    assert_eq!(run.status.progress().tick, 0);
    run.hand.set(NOON as i64);
    run.wait_for("10.0.0.1");
    run.wait("the clock is set", || !run.has_reason("clock_unset"));
    run.end();
}

#[test]
fn run_whose_clock_shows_1970_ends_when_asked_to() {
    let run = Run::starting(5_000, &[("10.0.0.1", NOON)]);
    run.wait_for_reason("clock_unset");
    assert_eq!(run.end(), "");
}
