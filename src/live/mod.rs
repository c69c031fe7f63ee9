//! A live run: a topic in, ticks by the clock, limits that change, alerts out.
//!
//! ```text
//!            every worker                                       the leader alone
//!  topic ─▶ Ingest ─▶ sums for the next tick              limits ─▶ edits     clock
//!               │                                                   │           │
//!               │        ◀── announcement of a tick ────────────── Leader ◀─────┘
//!               ▼                                                   ▲
//!          the computation ──────── closed ticks ───────────────────┘──▶ Hub
//! ```
//!
//! - `ticks`: tick agreement among the workers.
//! - `ingest`: turns messages into the records that a tick counts.
//! - `leader`: begins ticks, and puts in what is not a record (limit edits, questions); `clock`: the steady clock
//!   that ticks follow.
//! - `questions`: questions to the run, answered at a tick.
//! - `gone`: rows of limits that no longer hold, until they can be forgotten.
//! - `reports`: logs and counts what is unusual about closed ticks; `late`: records that are dropped.
//! - `status`: the state of the run for probes and metrics: whether it is ready (`ready`, `ready_log`), how far it
//!   is behind (`behind`); `metrics`: the counters.
//!
//! A worker gathers no more than it has capacity for, the leader begins no tick while too many are in flight or the
//! sinks have no capacity, and the client of the broker fetches no more than it may buffer: so a slow part slows
//! the ones before it, and memory stays bounded.

mod behind;
mod clock;
mod gone;
mod ingest;
mod late;
mod leader;
mod metrics;
mod questions;
mod ready;
mod ready_log;
mod refused;
mod reports;
mod shared;
mod status;
mod ticks;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use timely::worker::Worker;

use crate::base::error::{Exit, Failure, Outcome};
use crate::base::terminal::Messages;
use crate::cluster::{Cluster, Settings};
use crate::computation::{self, Computation, Output};
use crate::kafka::Source;
use crate::record::{self, Decoder};
use crate::sink::SinkState;

pub use clock::{Clock, Clocks, MachineClocks, Moment, Reading, SteadyClock, Unsteady, wall_ms};
use ingest::{Ingest, Rules};
use leader::Leader;
pub use leader::{LeaderConfig, Limits};
pub use questions::Asked;
pub use ready::Reason;
pub use shared::Shared;
use status::Worker as WorkerStatus;
pub use status::{Progress, Status};
use ticks::{Announcement, TickRequest, Ticks};

/// Default time after its end for which a window accepts records, in milliseconds.
pub const LATENESS_MS: u64 = 10 * 60 * 1000;

/// Default time for which a settled window is retained, in milliseconds.
pub const RETENTION_MS: u64 = 60 * 60 * 1000;

/// Longest sleep of a worker that has nothing to do. Input wakes it.
const NAP: Duration = Duration::from_millis(50);

/// Shortest sleep of a worker that waits for the next tick: bounds the wake-ups while no tick can begin.
const LEAST_NAP: Duration = Duration::from_millis(1);

/// Interval at which a worker reports its state to [`Status`].
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// Interval at which the run checks whether it is ready, and logs changes.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Time after which a run that waits for dead letters at its end logs that, and the interval from then on.
const DEAD_LETTERS_PATIENCE: Duration = Duration::from_secs(1);
const DEAD_LETTERS_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Interval between two commits of offsets.
const COMMIT_INTERVAL: Duration = Duration::from_secs(2);

/// Runs the workers of this process until the run ends; the first one of all takes `lead`.
///
/// `settings` and `waiting` are those of [`Cluster::execute`].
pub fn execute(
    cluster: Cluster,
    settings: &Settings,
    waiting: &mut dyn FnMut() -> Result<(), Failure>,
    shared: Shared,
    lead: Option<LeaderConfig>,
) -> Outcome {
    let lead = Mutex::new(lead);
    let outcomes = cluster.execute(
        settings,
        &Messages::new(),
        waiting,
        computation::worker_config(),
        move |worker| {
            let first = worker.index() == 0;
            let lead = first.then(|| lead.lock().unwrap_or_else(PoisonError::into_inner).take());
            run(worker, &shared, lead.flatten())
        },
    )?;
    outcomes.into_iter().flatten().next().unwrap_or(Ok(Exit::Done))
}

/// Runs one worker until the run ends. The leader, which has `lead`, returns how it ended.
pub fn run(worker: &mut Worker, shared: &Shared, lead: Option<LeaderConfig>) -> Option<Outcome> {
    let (index, peers) = (worker.index(), worker.peers());
    let ticks = Ticks::build(worker);
    let computation = Computation::build(worker, shared.options).watched(shared.watch.clone());
    let live = Live {
        index,
        shared: shared.clone(),
        ticks,
        computation,
        ingest: None,
        leader: lead.map(|lead| Leader::new(lead, shared)),
        reading: true,
        requested: false,
        begun: VecDeque::new(),
        tick_began: None,
        positions: VecDeque::new(),
        done: Vec::new(),
        processed: Vec::new(),
        slowest: (None, 0),
        tick: None,
        told: None,
        logged: Instant::now(),
        committed: Instant::now(),
        last: false,
    };
    live.run(peers)
}

/// One worker of a run.
struct Live<'w> {
    index: usize,
    shared: Shared,
    ticks: Ticks,
    computation: Computation<'w>,
    /// `None` if it could not be opened.
    ingest: Option<Ingest>,
    leader: Option<Leader>,
    /// Whether it goes on reading.
    reading: bool,
    /// Whether it has wished for a tick since the last one.
    requested: bool,
    /// When ticks on their way began, and the last tick that is done.
    begun: VecDeque<(u64, Instant)>,
    tick_began: Option<Instant>,
    /// For ticks on their way, the offsets up to which all is done when they are.
    positions: VecDeque<(u64, Vec<(i32, i64)>)>,
    /// Of the last completed tick, the same offsets, until they are committed.
    done: Vec<(i32, i64)>,
    /// Of the last completed tick, the same offsets, whether or not they are committed.
    processed: Vec<(i32, i64)>,
    /// The slowest partition and its event time, as of the last check of whether other workers wait for this one.
    slowest: (Option<u32>, u64),
    /// The last tick that is done.
    tick: Option<u64>,
    /// When it told how it is.
    told: Option<Instant>,
    logged: Instant,
    committed: Instant,
    /// Whether the last tick has begun.
    last: bool,
}

impl Live<'_> {
    fn run(mut self, peers: usize) -> Option<Outcome> {
        match self.open(peers) {
            Ok(ingest) => self.ingest = Some(ingest),
            Err(failure) => self.fail(failure),
        }
        self.shared.interrupt.wake_me();
        loop {
            let busy = self.turn();
            if self.last && self.computation.ticks_in_flight() == 0 {
                return self.end();
            }
            let nap = match &self.leader {
                _ if busy => Duration::ZERO,
                // Not less while a sink or the ticks on their way hold it up.
                Some(leader) => leader.until_tick().clamp(LEAST_NAP, NAP),
                None => NAP,
            };
            self.computation.step_or_sleep(nap);
        }
    }

    fn open(&self, peers: usize) -> Result<Ingest, Failure> {
        let me = std::thread::current();
        let wake = Arc::new(move || me.unpark());
        let source = Source::open(self.shared.topic.clone(), self.index, peers, wake)?;
        let zone = self.shared.input_timezone.clone();
        let decoder = Decoder::new(record::Options { input_timezone: zone });
        let rules = Rules {
            windows: self.shared.options.windows,
            filter: self.shared.filter.clone(),
            max_ahead_ms: self.shared.max_ahead_ms,
            max_behind_ms: self.shared.max_behind_ms,
        };
        let open = self.shared.dead_letters.as_ref();
        let dead_letters = open.map(|open| open()).transpose()?;
        Ok(Ingest::new(source, decoder, rules, peers, dead_letters))
    }

    /// This worker can't go on, so none can: what was read is judged yet, then all end.
    fn fail(&mut self, failure: Failure) {
        self.reading = false;
        match &mut self.leader {
            Some(leader) => leader.fail(failure),
            None => {
                let why = format!("worker {}: {:#}", self.index, failure.error);
                self.ticks.request(TickRequest::Failure { exit: failure.exit, why });
            }
        }
    }

    /// Does what there is to do, and says whether that was anything.
    fn turn(&mut self) -> bool {
        let mut busy = self.take();
        match &mut self.leader {
            Some(leader) => {
                if self.shared.interrupt.pressed() {
                    leader.end();
                }
                leader.turn(&mut self.ticks, &self.computation);
            }
            // A process of its own may be asked to end, too.
            None if self.reading && self.shared.interrupt.pressed() => {
                self.reading = false;
                self.ticks.request(TickRequest::End);
            }
            None => {}
        }
        while let Some(announcement) = self.ticks.next() {
            self.put(announcement);
            busy = true;
        }
        while let Some((tick, output)) = self.take_output() {
            busy = true;
            let outputs = match (output, &mut self.leader) {
                (Output::Changes(changes), Some(leader)) => {
                    leader.changes(tick, &changes);
                    continue;
                }
                // The first worker has them.
                (Output::Changes(_), None) => continue,
                (Output::Closed(outputs), _) => outputs,
            };
            while self.positions.front().is_some_and(|(read, _)| *read <= tick) {
                self.done = self.positions.pop_front().map(|(_, at)| at).unwrap_or_default();
                self.processed.clone_from(&self.done);
            }
            while let Some((_, began)) = self.begun.pop_front_if(|(begun, _)| *begun <= tick) {
                self.tick_began = Some(began);
            }
            // Nobody is judged before all limits are known.
            if !self.leader.as_ref().is_some_and(Leader::has_first_rows) {
                self.tick = Some(tick);
            }
            if let Some(leader) = &mut self.leader {
                leader.close(tick, outputs, self.computation.windows());
            }
        }
        self.bound_skew();
        if self.committed.elapsed() >= COMMIT_INTERVAL {
            self.commit();
        }
        if self.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
            self.tell();
        }
        busy
    }

    /// The next output of the computation. Changes wait there until sinks have capacity for them.
    fn take_output(&mut self) -> Option<(u64, Output)> {
        let changes = self.computation.has_changes();
        let waits = changes && self.leader.as_mut().is_some_and(|leader| !leader.has_capacity());
        if waits { None } else { self.computation.take() }
    }

    /// Has partitions wait, or go on, as soon as event time has moved: with nothing to read, the next tick
    /// may be long in coming.
    fn bound_skew(&mut self) {
        let event_time = self.computation.event_time();
        let slowest = (event_time.slowest_in, event_time.slowest);
        let Some(ingest) = self.ingest.as_mut().filter(|_| self.slowest != slowest) else { return };
        self.slowest = slowest;
        if let Err(failure) = ingest.bound_skew(event_time) {
            self.fail(failure);
        }
    }

    /// Tells how it is. Whether or not a tick was done: that none was is something to tell.
    fn tell(&mut self) {
        let status = &self.shared.status;
        let dead_letters = self.ingest.as_ref().and_then(Ingest::dead_letters);
        let source = self.ingest.as_ref().map(Ingest::source);
        status.worker(
            self.index,
            WorkerStatus {
                tick: self.tick,
                tick_began: self.tick_began,
                event_time: self.computation.event_time(),
                partitions: source.map(Source::states).unwrap_or_default(),
                done: self.processed.clone(),
                dead_letters: dead_letters.map(SinkState::of),
            },
        );
        if let Some(leader) = &mut self.leader {
            leader.tell(status);
        }
        if status.is_logged_by(self.index) && self.logged.elapsed() >= LOG_INTERVAL {
            self.logged = Instant::now();
            status.log();
        }
        self.told = Some(Instant::now());
    }

    /// Takes messages, if there are any.
    fn take(&mut self) -> bool {
        let Some(ingest) = self.ingest.as_mut().filter(|_| self.reading && !self.last) else {
            return false;
        };
        let taken = ingest.take();
        let wants = ingest.is_full() || ingest.is_waited_for(self.computation.event_time());
        if wants && !self.requested {
            self.requested = true;
            self.ticks.request(TickRequest::Tick);
        }
        match taken {
            Ok(taken) => taken > 0,
            Err(failure) => {
                self.fail(failure);
                false
            }
        }
    }

    /// Puts into a tick what this worker has for it.
    fn put(&mut self, announcement: Announcement) {
        let Announcement { tick, now, horizon, undecided, records, last } = announcement;
        self.begun.push_back((tick, Instant::now()));
        let event_time = self.computation.event_time();
        let inputs = &mut self.computation.inputs;
        inputs.begin_tick(tick);
        if let Some(leader) = &mut self.leader {
            leader.put(now, inputs);
        }
        let mut updates = 0;
        if let Some(ingest) = &mut self.ingest {
            ingest.set_clock(horizon, undecided);
            if records {
                updates = ingest.put(inputs);
                let marked = ingest.mark(now, event_time, inputs);
                let marked = marked.and_then(|()| ingest.bound_skew(event_time));
                self.positions.push_back((tick, ingest.source().positions()));
                if let Err(failure) = marked {
                    self.fail(failure);
                }
                self.requested = false;
            }
        }
        self.computation.end_tick(updates);
        self.last |= last;
    }

    fn commit(&mut self) {
        let done = std::mem::take(&mut self.done);
        if let Some(ingest) = &self.ingest {
            ingest.source().commit(&done, false);
        }
        self.committed = Instant::now();
    }

    fn end(mut self) -> Option<Outcome> {
        let kept = self.keep_dead_letters();
        let outcome = self.leader.take().map(|leader| leader.finish(&self.shared.status));
        if let Some(ingest) = self.ingest.take() {
            ingest.into_source().close(std::mem::take(&mut self.done));
        }
        match (kept, outcome) {
            (Err(failure), Some(Ok(_))) => Some(Err(failure)),
            (Err(failure), None) => {
                tracing::error!("{:#}", failure.error);
                None
            }
            (_, outcome) => outcome,
        }
    }

    /// Waits until all dead letters are delivered, and logs that it does.
    fn keep_dead_letters(&mut self) -> Result<(), Failure> {
        let Some(ingest) = &mut self.ingest else { return Ok(()) };
        let Some(SinkState { name, waiting, .. }) = ingest.dead_letters().map(SinkState::of) else {
            return Ok(());
        };
        let mut remind = Instant::now() + DEAD_LETTERS_PATIENCE;
        ingest.finish(&mut || {
            if Instant::now() >= remind {
                remind = Instant::now() + DEAD_LETTERS_LOG_INTERVAL;
                tracing::warn!(
                    worker = self.index,
                    messages = waiting,
                    "the run ends when all is delivered: it waits for sink \"{name}\" (--dead-letter); a \
                     second SIGTERM or SIGINT ends it at once, and what waits is lost"
                );
            }
            false
        })
    }
}
