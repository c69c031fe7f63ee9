//! The status of a live run, for probes, metrics and people.
//!
//! Workers report their state here a few times a second. A request compares that state with the clock and the
//! broker's last responses at the moment of the request, so that its response is right even when nothing moves.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use floodmark_dataflows::watermark::PartitionProgress;
use metrics::gauge;
use serde_json::{Map, Value, json};

use super::behind::Behind;
use super::clock::Unsteady;
use super::queries::{ExplainQuery, FutureResponse, PendingQuery, QueryError, QuerySender};
use super::ready::{self, Facts, Partition, Reason, Withheld};
use super::ready_log::{Line, ReadyLog};
use crate::base::date::format_ms;
use crate::cluster::watchdog::Watch;
use crate::computation::EventTimeReached;
use crate::kafka::{BrokerResponse, PartitionState, Topic};
use crate::limits::catalog::LimitSet;
use crate::limits::feed::Health;
use crate::sink::{SinkState, count_sink_error};
use crate::source::SourceState;

/// Age up to which nothing counts as old or behind: a busy machine is not faulty.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ticks that may be missed before the last one is old.
const TICKS_MISSED: u32 = 5;

/// The status of one process of a run.
pub struct Status {
    began: Instant,
    /// The interval of ticks.
    tick: Duration,
    /// Worker threads of this process.
    workers: usize,
    /// Number of this process among the processes of the run.
    process: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    topic: Option<Arc<Topic>>,
    watch: Option<Watch>,
    limits: Vec<(LimitSet, Health)>,
    workers: BTreeMap<usize, WorkerStatus>,
    /// Whether this is the leader's process: it alone exports the metrics of the whole run.
    leads: bool,
    clock: Option<Unsteady>,
    /// Since when no checkpoint of the durable state could be written, and why.
    durability: Option<(Instant, String)>,
    queries: Option<QuerySender>,
    event_time: EventTimeReached,
    /// When the watermark last moved.
    watermark_moved: Option<Instant>,
    lags: BTreeMap<i32, Lag>,
    sinks: Vec<SinkState>,
    log: ReadyLog,
}

/// The lag of a partition, by all of its messages and by those that consumers get.
#[derive(Clone, Debug, Default)]
struct Lag {
    /// Lag behind all messages that the broker has.
    all: Behind,
    /// Lag behind the messages that the broker gives to consumers: without those behind an open transaction.
    readable: Behind,
    /// The last response of the broker.
    last: Option<BrokerResponse>,
}

impl Lag {
    fn add_response(&mut self, answer: BrokerResponse) {
        self.all.add_response(answer.requested_at, answer.due);
        self.readable.add_response(answer.requested_at, answer.stable);
        self.last = Some(answer);
    }

    fn advance_to(&mut self, next: i64) {
        self.all.advance_to(next);
        self.readable.advance_to(next);
    }

    fn withheld(&self) -> Withheld {
        let Some((answer, withheld)) = self.last.and_then(|last| Some((last, last.withheld?)))
        else {
            return Withheld::default();
        };
        Withheld {
            messages: u64::try_from(answer.end - answer.stable).unwrap_or(0),
            // Only responses show that the transaction is still open.
            lasting: answer.requested_at.saturating_duration_since(withheld.since),
            skipped: withheld.skipped,
        }
    }
}

/// Progress of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last tick that all workers of this process have completed; 0 before the first.
    pub tick: u64,
    /// The watermark.
    pub watermark: u64,
    /// The greatest event time read; `None` before the first record.
    pub reached: Option<u64>,
}

/// The state that a worker reports.
#[derive(Clone, Debug, Default)]
pub(super) struct WorkerStatus {
    /// The last completed tick.
    pub(super) tick: Option<u64>,
    /// When that tick began. The wall clock may have been set since.
    pub(super) tick_began: Option<Instant>,
    pub(super) event_time: EventTimeReached,
    pub(super) source: SourceState,
}

impl Status {
    /// Creates the status of a process with this many workers, whose ticks begin at this interval.
    pub fn new(workers: usize, tick: Duration) -> Self {
        Status { began: Instant::now(), tick, workers, process: 0, state: Mutex::default() }
    }

    /// Sets the number of this process; process 0 has the leader.
    pub fn of_process(self, process: usize) -> Self {
        Status { process, ..self }
    }

    /// Begins to accept queries. The leader, which a query wakes, reads the returned receiver.
    pub fn accept_queries(&self, leader: &Arc<OnceLock<Thread>>) -> Receiver<PendingQuery> {
        let (queries, queue) = QuerySender::new(leader.clone());
        self.lock().queries = Some(queries);
        queue
    }

    /// Sets the topic that the workers read, and the watchdog that watches them.
    pub fn set_topic(&self, topic: Arc<Topic>, watch: Watch) {
        let mut state = self.lock();
        (state.topic, state.watch) = (Some(topic), Some(watch));
    }

    /// Notes that this process has the leader, and the health of the feed of each set of limits.
    pub fn set_leading(&self, limits: Vec<(LimitSet, Health)>) {
        let mut state = self.lock();
        (state.leads, state.limits) = (true, limits);
    }

    /// Returns the progress of the run.
    pub fn progress(&self) -> Progress {
        let state = self.lock();
        let partitions = state.workers.values().flat_map(|worker| &worker.source.partitions);
        Progress {
            tick: state.workers.values().filter_map(|worker| worker.tick).min().unwrap_or(0),
            watermark: state.event_time.watermark,
            reached: partitions.filter_map(|partition| partition.reached).max(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the state that a worker reports.
    pub(super) fn worker(&self, index: usize, worker: WorkerStatus) {
        let mut state = self.lock();
        // All workers get the same event time, some of them a moment later.
        let (before, after) = (state.event_time, worker.event_time);
        if after.watermark > before.watermark || state.watermark_moved.is_none() {
            state.watermark_moved = Some(Instant::now());
        }
        if after.watermark >= before.watermark {
            state.event_time = after;
        }
        let answers = state.topic.as_ref().map(|topic| topic.responses()).unwrap_or_default();
        let answers: BTreeMap<i32, _> =
            answers.into_iter().map(|answer| (answer.partition, answer)).collect();
        for partition in &worker.source.partitions {
            let lag = state.lags.entry(partition.partition).or_default();
            if let Some(answer) = answers.get(&partition.partition) {
                lag.add_response(*answer);
            }
            lag.advance_to(worker.done_of(partition));
        }
        state.workers.insert(index, worker);
    }

    /// Stores the state of the leader's sinks.
    pub(super) fn sinks(&self, sinks: Vec<SinkState>) {
        let mut state = self.lock();
        for sink in &sinks {
            let before = state.sinks.iter().find(|before| before.name == sink.name);
            let was_reachable = before.is_none_or(|before| before.unreachable.is_none());
            if was_reachable && sink.unreachable.is_some() {
                count_sink_error(&sink.name);
            }
        }
        state.sinks = sinks;
    }

    /// Sets the state of the leader's wall clock, if it can't be followed.
    pub(super) fn clock(&self, clock: Option<Unsteady>) {
        self.lock().clock = clock;
    }

    /// Sets since when no checkpoint could be written, and why.
    pub(super) fn durability(&self, fault: Option<(Instant, String)>) {
        self.lock().durability = fault;
    }

    /// Whether this worker is the one that logs the readiness of its process.
    pub(super) fn is_logged_by(&self, worker: usize) -> bool {
        worker == self.process * self.workers
    }

    /// Logs whether the run is ready, if that has changed, or again if it has not been ready for a while.
    pub(super) fn log(&self) {
        let reasons = self.reasons();
        let line = self.lock().log.line(&reasons, Instant::now());
        // Readers of its log take the first process for the run; the log names the other processes.
        let process = (self.process > 0).then_some(self.process);
        match line {
            Some(Line::Ready) => {
                tracing::info!(process, "ready: everything that the broker has is judged");
            }
            Some(Line::NotReady(why)) => tracing::warn!(process, "not ready: {why}"),
            None => {}
        }
    }

    fn facts(&self, state: &State) -> Facts {
        let topic = state.topic.as_deref();
        let idle_timeout = topic.map_or(Duration::ZERO, Topic::idle_timeout);
        let (source, missing) = (topic.and_then(Topic::outage), topic.and_then(Topic::missing));
        let unanswered = source.as_ref().map(|(lasting, _)| *lasting);
        Facts {
            tick_age: self.closed(state).and_then(|_| {
                let began = state.workers.values().filter_map(|worker| worker.tick_began);
                began.min().map(|began| began.elapsed())
            }),
            tick_age_max: PATIENCE.max(self.tick * TICKS_MISSED),
            behind_max: PATIENCE.max(idle_timeout),
            watermark_stands: state.watermark_moved.unwrap_or(self.began).elapsed(),
            held_by: state.event_time.held_by,
            slowest_in: state.event_time.slowest_in,
            topic: topic.map(|topic| topic.address().topic.clone()).unwrap_or_default(),
            partitions: self.partitions(state, unanswered, PATIENCE.max(idle_timeout)),
            source,
            clock: state.clock,
            state: state.durability.as_ref().map(|(since, why)| (since.elapsed(), why.clone())),
            missing,
            sinks: state.all_sinks().into_values().collect(),
            limits: state
                .limits
                .iter()
                .filter_map(|(set, health)| Some((*set, health.fault()?)))
                .collect(),
        }
    }

    /// Returns the state of all partitions of this process. A partition counts as not responding if its last
    /// response is older than `answer_max`, or than the time for which requests have failed (`unanswered`).
    fn partitions(
        &self,
        state: &State,
        unanswered: Option<Duration>,
        answer_max: Duration,
    ) -> Vec<Partition> {
        let (mut partitions, nothing) = (Vec::new(), Lag::default());
        for worker in state.workers.values() {
            for read in &worker.source.partitions {
                let partition_lag = state.lags.get(&read.partition).unwrap_or(&nothing);
                let answer_max = unanswered.unwrap_or(answer_max).min(answer_max);
                let answer =
                    partition_lag.last.filter(|answer| answer.requested_at.elapsed() <= answer_max);
                // The worker may have read messages that arrived after the response.
                let left = |end: i64| u64::try_from(end - worker.done_of(read)).unwrap_or(0);
                let lag = answer.map(|answer| left(answer.due.max(read.next)));
                let readable = answer.map(|answer| left(answer.stable.max(read.next)));
                let unread = matches!(read.holds, Some(PartitionProgress::Unknown) | None);
                let since = |moment: Option<Instant>| moment.unwrap_or(self.began).elapsed();
                partitions.push(Partition {
                    // Kafka counts partitions from 0.
                    number: read.partition.unsigned_abs(),
                    answered: answer.is_some(),
                    lag,
                    behind: since(partition_lag.readable.caught_up()),
                    lag_time: since(partition_lag.all.caught_up()),
                    begun: partition_lag.readable.caught_up().is_some(),
                    unread: unread && readable != Some(0),
                    paused: read.paused,
                    withheld: partition_lag.withheld(),
                    straggles: read.straggles,
                    reached: read.reached,
                });
            }
        }
        partitions
    }

    /// Returns the last tick that all workers of this process have completed; `None` until each has completed one.
    fn closed(&self, state: &State) -> Option<u64> {
        let all = state.workers.len() >= self.workers;
        state.workers.values().map(|worker| worker.tick).min().flatten().filter(|_| all)
    }

    /// Returns the reasons why the run is not ready; none if it is.
    pub fn reasons(&self) -> Vec<Reason> {
        let mut reasons = ready::reasons(&self.facts(&self.lock()));
        reasons.retain(Reason::is_unready);
        reasons
    }

    /// Returns the last tick that all workers of this process have completed; `None` until each has completed one.
    pub fn as_of(&self) -> Option<u64> {
        self.closed(&self.lock())
    }

    /// Returns the reason why the process stands still although it responds; `None` if it does not.
    pub fn stalled(&self) -> Option<String> {
        self.lock().watch.as_ref()?.stalled()
    }

    /// Returns whether the run judges all that the broker has, and details about that.
    pub fn readiness(&self) -> (bool, Map<String, Value>) {
        let state = self.lock();
        let facts = self.facts(&state);
        let reasons = ready::reasons(&facts);
        let time = |at: Option<u64>| at.map_or(Value::Null, |at| format_ms(at).to_string().into());
        let watermark = Some(state.event_time.watermark).filter(|watermark| *watermark > 0);
        let detached: Vec<&String> =
            facts.sinks.iter().filter(|sink| sink.detached).map(|sink| &sink.name).collect();
        let details = [
            ("as_of", time(self.closed(&state))),
            ("watermark", time(watermark)),
            ("tick_age_seconds", json!(facts.tick_age.map(|age| age.as_secs_f64()))),
            ("reasons", json!(reasons)),
            ("detached_sinks", json!(detached)),
        ];
        let details = details.into_iter().map(|(key, value)| (key.to_owned(), value));
        (!reasons.iter().any(Reason::is_unready), Map::from_iter(details))
    }

    /// Sends a query to the leader. A caller that drops the future wants no response any more.
    pub fn query(&self, query: ExplainQuery) -> FutureResponse {
        let fail = |error| Box::pin(std::future::ready(Err(error)));
        match (self.process, &self.lock().queries) {
            (0, Some(queries)) => queries.query(query),
            (0, None) => fail(QueryError::NotBegun),
            (process, _) => fail(QueryError::Elsewhere { process }),
        }
    }

    /// Sets the gauges that would be stale if they were set only when something happens.
    pub fn export(&self) {
        let state = &*self.lock();
        let facts = self.facts(state);
        let flag = |on: bool| f64::from(u8::from(on));
        let age = facts.tick_age.unwrap_or_else(|| self.began.elapsed());
        gauge!("floodmark_tick_age_seconds").set(age.as_secs_f64());
        if state.topic.is_some() {
            gauge!("floodmark_source_reachable").set(flag(facts.source.is_none()));
        }
        if state.leads {
            let EventTimeReached { watermark, open_windows, .. } = state.event_time;
            gauge!("floodmark_watermark_seconds").set(watermark as f64 / 1e3);
            gauge!("floodmark_windows_open").set(open_windows as f64);
            gauge!("floodmark_clock_step_seconds").set(clock_step_ms(state.clock) / 1e3);
        }
        for (index, worker) in &state.workers {
            let tick = worker.tick.unwrap_or(0) as f64 / 1e3;
            gauge!("floodmark_frontier_seconds", "worker" => index.to_string()).set(tick);
            for read in &worker.source.partitions {
                let labels = labels(&facts.topic, read.partition);
                let idle = read.holds == Some(PartitionProgress::Idle) && !read.straggles;
                gauge!("floodmark_kafka_partition_idle", &labels).set(flag(idle));
                if let Some(reached) = read.reached {
                    gauge!("floodmark_kafka_partition_event_time_seconds", &labels)
                        .set(reached as f64 / 1e3);
                }
            }
        }
        for partition in &facts.partitions {
            let labels = labels(&facts.topic, partition.number);
            // Unknown: a number that stands still would look like a known one.
            let lag = partition.lag.map_or(f64::NAN, |lag| lag as f64);
            gauge!("floodmark_kafka_lag_messages", &labels).set(lag);
            gauge!("floodmark_kafka_lag_seconds", &labels).set(partition.lag_time.as_secs_f64());
            gauge!("floodmark_kafka_partition_paused", &labels).set(flag(partition.paused));
            let Withheld { messages, lasting, skipped } = partition.withheld;
            gauge!("floodmark_kafka_withheld_messages", &labels).set(messages as f64);
            gauge!("floodmark_kafka_open_transaction_seconds", &labels).set(lasting.as_secs_f64());
            gauge!("floodmark_kafka_open_transaction_skipped", &labels).set(flag(skipped));
            gauge!("floodmark_kafka_partition_straggling", &labels).set(flag(partition.straggles));
        }
        for sink in state.all_sinks().into_values() {
            sink.export();
        }
    }
}

/// By how much the wall clock is ahead of the run, negative if it is behind.
fn clock_step_ms(clock: Option<Unsteady>) -> f64 {
    match clock {
        None | Some(Unsteady::Unset { .. }) => 0.0,
        Some(Unsteady::Back { behind_ms, .. }) => -(behind_ms as f64),
        Some(Unsteady::Forward { ahead_ms, .. }) => ahead_ms as f64,
    }
}

fn labels(topic: &str, partition: impl ToString) -> [(&'static str, String); 2] {
    [("topic", topic.to_owned()), ("partition", partition.to_string())]
}

impl WorkerStatus {
    /// The offset before which all of a partition is in ticks that are done.
    fn done_of(&self, partition: &PartitionState) -> i64 {
        // They are in order, and may be thousands.
        let done = &self.source.done;
        let found = done.binary_search_by_key(&partition.partition, |(number, _)| *number);
        found.map_or(partition.first, |at| done[at].1)
    }
}

impl State {
    /// By name: several workers may have one of a name.
    fn all_sinks(&self) -> BTreeMap<String, SinkState> {
        let mut sinks = BTreeMap::<String, SinkState>::new();
        let dead = self.workers.values().filter_map(|worker| worker.source.dead_letters.as_ref());
        for sink in self.sinks.iter().chain(dead) {
            match sinks.get_mut(&sink.name) {
                Some(same) => same.add(sink),
                None => drop(sinks.insert(sink.name.clone(), sink.clone())),
            }
        }
        sinks
    }
}
