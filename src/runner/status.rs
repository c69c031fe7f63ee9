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
use super::ready::{self, Facts, Partition, Reason, Withheld};
use super::ready_log::{Line, ReadyLog};
use super::requests::{Answering, Asked, Question, Refusal, RequestQueue};
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
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    topic: Option<Arc<Topic>>,
    watch: Option<Watch>,
    limits: Vec<(LimitSet, Health)>,
    workers: BTreeMap<usize, WorkerStatus>,
    /// Whether this is the leader's process: it alone exports the metrics of the whole run.
    leads: bool,
    clock: Option<Unsteady>,
    requests: Option<RequestQueue>,
    event_time: EventTimeReached,
    /// Time of the watermark's last move.
    moved: Option<Instant>,
    behind: BTreeMap<i32, Distance>,
    sinks: Vec<SinkState>,
    log: ReadyLog,
}

/// The lag of a partition, by all of its messages and by those that consumers get.
#[derive(Clone, Debug, Default)]
struct Distance {
    /// Lag behind all messages that the broker has.
    all: Behind,
    /// Lag behind the messages that the broker gives to consumers: without those behind an open transaction.
    readable: Behind,
    /// The last response of the broker.
    last: Option<BrokerResponse>,
}

impl Distance {
    fn answered(&mut self, answer: BrokerResponse) {
        self.all.answered(answer.asked, answer.due);
        self.readable.answered(answer.asked, answer.stable);
        self.last = Some(answer);
    }

    fn done(&mut self, next: i64) {
        self.all.done(next);
        self.readable.done(next);
    }

    fn withheld(&self) -> Withheld {
        let Some((answer, withheld)) = self.last.and_then(|last| Some((last, last.withheld?)))
        else {
            return Withheld::default();
        };
        Withheld {
            messages: u64::try_from(answer.end - answer.stable).unwrap_or(0),
            // Only answers tell that it lasts.
            lasting: answer.asked.saturating_duration_since(withheld.since),
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
        Status { began: Instant::now(), tick, workers, process: 0, known: Mutex::default() }
    }

    /// Sets the number of this process; process 0 has the leader.
    pub fn of_process(self, process: usize) -> Self {
        Status { process, ..self }
    }

    /// Begins to accept requests. The leader, which a request wakes, reads the returned receiver.
    pub fn takes_requests(&self, leader: &Arc<OnceLock<Thread>>) -> Receiver<Asked> {
        let (requests, asked) = RequestQueue::new(leader.clone());
        self.lock().requests = Some(requests);
        asked
    }

    /// Notes that the workers read this topic from now on, and that this watchdog watches.
    pub fn reads(&self, topic: Arc<Topic>, watch: Watch) {
        let mut known = self.lock();
        (known.topic, known.watch) = (Some(topic), Some(watch));
    }

    /// Notes that this process has the leader, and the health of the feed of each set of limits.
    pub fn leads(&self, limits: Vec<(LimitSet, Health)>) {
        let mut known = self.lock();
        (known.leads, known.limits) = (true, limits);
    }

    /// Returns the progress of the run.
    pub fn progress(&self) -> Progress {
        let known = self.lock();
        let partitions = known.workers.values().flat_map(|worker| &worker.source.partitions);
        Progress {
            tick: known.workers.values().filter_map(|worker| worker.tick).min().unwrap_or(0),
            watermark: known.event_time.watermark,
            reached: partitions.filter_map(|partition| partition.reached).max(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the state that a worker reports.
    pub(super) fn worker(&self, index: usize, worker: WorkerStatus) {
        let mut known = self.lock();
        // All workers get the same event time, some of them a moment later.
        let (before, after) = (known.event_time, worker.event_time);
        if after.watermark > before.watermark || known.moved.is_none() {
            known.moved = Some(Instant::now());
        }
        if after.watermark >= before.watermark {
            known.event_time = after;
        }
        let answers = known.topic.as_ref().map(|topic| topic.answers()).unwrap_or_default();
        let answers: BTreeMap<i32, _> =
            answers.into_iter().map(|answer| (answer.partition, answer)).collect();
        for partition in &worker.source.partitions {
            let behind = known.behind.entry(partition.partition).or_default();
            if let Some(answer) = answers.get(&partition.partition) {
                behind.answered(*answer);
            }
            behind.done(worker.done_of(partition));
        }
        known.workers.insert(index, worker);
    }

    /// Stores the state of the leader's sinks.
    pub(super) fn sinks(&self, sinks: Vec<SinkState>) {
        let mut known = self.lock();
        for sink in &sinks {
            let before = known.sinks.iter().find(|before| before.name == sink.name);
            let was_reachable = before.is_none_or(|before| before.unreachable.is_none());
            if was_reachable && sink.unreachable.is_some() {
                count_sink_error(&sink.name);
            }
        }
        known.sinks = sinks;
    }

    /// Sets the state of the leader's wall clock, if it can't be followed.
    pub(super) fn clock(&self, clock: Option<Unsteady>) {
        self.lock().clock = clock;
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
                tracing::info!(process, "ready: all that the broker has is judged");
            }
            Some(Line::NotReady(why)) => tracing::warn!(process, "not ready: {why}"),
            None => {}
        }
    }

    fn facts(&self, known: &Known) -> Facts {
        let topic = known.topic.as_deref();
        let idle_timeout = topic.map_or(Duration::ZERO, Topic::idle_timeout);
        let (source, missing) = (topic.and_then(Topic::trouble), topic.and_then(Topic::missing));
        let unanswered = source.as_ref().map(|(lasting, _)| *lasting);
        Facts {
            tick_age: self.closed(known).and_then(|_| {
                let began = known.workers.values().filter_map(|worker| worker.tick_began);
                began.min().map(|began| began.elapsed())
            }),
            tick_age_max: PATIENCE.max(self.tick * TICKS_MISSED),
            behind_max: PATIENCE.max(idle_timeout),
            watermark_stands: known.moved.unwrap_or(self.began).elapsed(),
            held_by: known.event_time.held_by,
            slowest_in: known.event_time.slowest_in,
            topic: topic.map(|topic| topic.address().topic.clone()).unwrap_or_default(),
            partitions: self.partitions(known, unanswered, PATIENCE.max(idle_timeout)),
            source,
            clock: known.clock,
            missing,
            sinks: known.all_sinks().into_values().collect(),
            limits: known
                .limits
                .iter()
                .filter_map(|(set, health)| Some((*set, health.trouble()?)))
                .collect(),
        }
    }

    /// Returns the state of all partitions of this process. A partition counts as not responding if its last
    /// response is older than `answer_max`, or than the time for which requests have failed (`unanswered`).
    fn partitions(
        &self,
        known: &Known,
        unanswered: Option<Duration>,
        answer_max: Duration,
    ) -> Vec<Partition> {
        let (mut partitions, nothing) = (Vec::new(), Distance::default());
        for worker in known.workers.values() {
            for state in &worker.source.partitions {
                let distance = known.behind.get(&state.partition).unwrap_or(&nothing);
                let answer_max = unanswered.unwrap_or(answer_max).min(answer_max);
                let answer = distance.last.filter(|answer| answer.asked.elapsed() <= answer_max);
                // The worker may have read messages that arrived after the response.
                let left = |end: i64| u64::try_from(end - worker.done_of(state)).unwrap_or(0);
                let lag = answer.map(|answer| left(answer.due.max(state.next)));
                let readable = answer.map(|answer| left(answer.stable.max(state.next)));
                let unread = matches!(state.holds, Some(PartitionProgress::Unknown) | None);
                let since = |moment: Option<Instant>| moment.unwrap_or(self.began).elapsed();
                partitions.push(Partition {
                    // Kafka counts partitions from 0.
                    number: state.partition.unsigned_abs(),
                    answered: answer.is_some(),
                    lag,
                    behind: since(distance.readable.caught_up()),
                    lag_time: since(distance.all.caught_up()),
                    begun: distance.readable.caught_up().is_some(),
                    unread: unread && readable != Some(0),
                    paused: state.paused,
                    withheld: distance.withheld(),
                    straggles: state.straggles,
                    reached: state.reached,
                });
            }
        }
        partitions
    }

    /// Returns the last tick that all workers of this process have completed; `None` until each has completed one.
    fn closed(&self, known: &Known) -> Option<u64> {
        let all = known.workers.len() >= self.workers;
        known.workers.values().map(|worker| worker.tick).min().flatten().filter(|_| all)
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
        let known = self.lock();
        let facts = self.facts(&known);
        let reasons = ready::reasons(&facts);
        let time = |at: Option<u64>| at.map_or(Value::Null, |at| format_ms(at).to_string().into());
        let watermark = Some(known.event_time.watermark).filter(|watermark| *watermark > 0);
        let detached: Vec<&String> =
            facts.sinks.iter().filter(|sink| sink.detached).map(|sink| &sink.name).collect();
        let details = [
            ("as_of", time(self.closed(&known))),
            ("watermark", time(watermark)),
            ("tick_age_seconds", json!(facts.tick_age.map(|age| age.as_secs_f64()))),
            ("reasons", json!(reasons)),
            ("detached_sinks", json!(detached)),
        ];
        let details = details.into_iter().map(|(key, value)| (key.to_owned(), value));
        (!reasons.iter().any(Reason::is_unready), Map::from_iter(details))
    }

    /// Sends a question to the leader. A caller that drops the future wants no answer any more.
    pub fn ask(&self, question: Question) -> Answering {
        let refuse = |refusal| Box::pin(std::future::ready(Err(refusal)));
        match (self.process, &self.lock().requests) {
            (0, Some(requests)) => requests.ask(question),
            (0, None) => refuse(Refusal::NotBegun),
            (process, _) => refuse(Refusal::Elsewhere { process }),
        }
    }

    /// Sets the gauges that would be stale if they were set only when something happens.
    pub fn export(&self) {
        let known = &*self.lock();
        let facts = self.facts(known);
        let flag = |on: bool| f64::from(u8::from(on));
        let age = facts.tick_age.unwrap_or_else(|| self.began.elapsed());
        gauge!("floodmark_tick_age_seconds").set(age.as_secs_f64());
        if known.topic.is_some() {
            gauge!("floodmark_source_reachable").set(flag(facts.source.is_none()));
        }
        if known.leads {
            let EventTimeReached { watermark, open_windows, .. } = known.event_time;
            gauge!("floodmark_watermark_seconds").set(watermark as f64 / 1e3);
            gauge!("floodmark_windows_open").set(open_windows as f64);
            gauge!("floodmark_clock_step_seconds").set(clock_step_ms(known.clock) / 1e3);
        }
        for (index, worker) in &known.workers {
            let tick = worker.tick.unwrap_or(0) as f64 / 1e3;
            gauge!("floodmark_frontier_seconds", "worker" => index.to_string()).set(tick);
            for state in &worker.source.partitions {
                let labels = labels(&facts.topic, state.partition);
                let idle = state.holds == Some(PartitionProgress::Idle) && !state.straggles;
                gauge!("floodmark_kafka_partition_idle", &labels).set(flag(idle));
                if let Some(reached) = state.reached {
                    gauge!("floodmark_kafka_partition_event_time_seconds", &labels)
                        .set(reached as f64 / 1e3);
                }
            }
        }
        for partition in &facts.partitions {
            let labels = labels(&facts.topic, partition.number);
            // Nobody knows, and a number that stands still would look like one that is known.
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
        for sink in known.all_sinks().into_values() {
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

impl Known {
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
