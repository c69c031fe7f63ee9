//! A topic as a source: each worker reads partitions of its own.
//!
//! - `ingest`: turns messages into the records that a tick counts; `refused`: reasons for rejecting them; `set_aside`:
//!   messages that can't be counted.
//! - `counts`: the metrics of the input.

mod counts;
mod ingest;
mod refused;
mod set_aside;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::time::Windows;

use self::ingest::{Ingest, Rules};
use self::set_aside::SetAside;
use super::{Demand, Filter, LeaderTime, ReadingRules, Source, SourceState, TickRecords};
use crate::base::error::Failure;
use crate::computation::EventTimeReached;
use crate::kafka::{BufferedProducer, ResumePosition, Topic, TopicReader};
use crate::sink::SinkState;

/// Interval between two commits of offsets.
const COMMIT_INTERVAL: Duration = Duration::from_secs(2);

/// Time after which a run that waits for dead letters at its end logs that, and the interval from then on.
const DEAD_LETTERS_PATIENCE: Duration = Duration::from_secs(1);
const DEAD_LETTERS_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Opens the sink of unreadable messages.
pub type OpenDeadLetters = Arc<dyn Fn() -> Result<BufferedProducer, Failure> + Send + Sync>;

/// The place of messages that can't be counted.
#[derive(Clone)]
pub enum DeadLetterOutput {
    /// None are kept.
    None,
    /// Each worker sends its own.
    Sent(OpenDeadLetters),
    /// They are outputs of their ticks.
    OfTick,
}

/// The rules by which records of a topic are read.
#[derive(Clone)]
pub struct Options {
    /// The topic.
    pub topic: Arc<Topic>,
    /// The rules of time.
    pub windows: Windows,
    /// The filter of the pairs that count.
    pub filter: Filter,
    /// The rules that may be others in a run that continues an earlier one.
    pub rules: ReadingRules,
    /// The interval of ticks.
    pub tick: Duration,
    /// The place of messages that can't be counted.
    pub dead_letters: DeadLetterOutput,
}

/// The partitions of one worker.
pub struct Partitions {
    worker: usize,
    ingest: Ingest,
    /// The rules of ticks that are not repeated.
    rules: ReadingRules,
    /// The offsets after the last messages that the partitions held when the topic was opened.
    ends: BTreeMap<i32, i64>,
    /// Whether ticks of an earlier run are repeated: partitions are read as these tell.
    is_repeating: bool,
    /// The slowest partition of all workers.
    slowest_in: Option<u32>,
    /// For ticks that are not closed, the offsets up to which everything is in closed ticks when they are.
    positions: VecDeque<(u64, Vec<(i32, i64)>)>,
    /// Of the newest closed tick, the same offsets.
    done: Vec<(i32, i64)>,
    /// Whether these offsets are still to be committed.
    uncommitted: bool,
    committed: Instant,
}

impl Partitions {
    /// Opens the partitions of a worker of so many, where an earlier run has left them if it is continued. This thread is
    /// woken when there is something to read.
    pub fn open(
        options: &Options,
        worker: usize,
        workers: usize,
        resumed: Option<BTreeMap<i32, ResumePosition>>,
    ) -> Result<Self, Failure> {
        let reading = std::thread::current();
        let wake = Arc::new(move || reading.unpark());
        let is_repeating = resumed.is_some();
        if resumed.as_ref().is_some_and(|resumed| resumed.values().any(|at| !at.is_first)) {
            // The earlier run has found out.
            options.topic.contents().saw_record();
        }
        let reader = TopicReader::open(options.topic.clone(), worker, workers, wake, resumed)?;
        let rules = Rules {
            windows: options.windows,
            filter: options.filter.clone(),
            reading: options.rules.clone(),
            tick: options.tick,
        };
        let set_aside = match &options.dead_letters {
            DeadLetterOutput::None => SetAside::None,
            DeadLetterOutput::Sent(open) => SetAside::Sent(Box::new(open()?)),
            DeadLetterOutput::OfTick => SetAside::of_tick(),
        };
        let positions = reader.positions();
        let is_ours =
            |partition: &i32| positions.binary_search_by_key(partition, |at| at.0).is_ok();
        let mut ends = options.topic.ends();
        ends.retain(|partition, _| is_ours(partition));
        Ok(Partitions {
            worker,
            ends,
            is_repeating,
            slowest_in: None,
            rules: options.rules.clone(),
            ingest: Ingest::new(reader, rules, workers, set_aside)?,
            positions: VecDeque::new(),
            done: Vec::new(),
            uncommitted: false,
            committed: Instant::now(),
        })
    }

    /// Commits the offsets of closed ticks now and then, for monitors of the lag of the group.
    fn commit_if_due(&mut self) {
        if self.committed.elapsed() < COMMIT_INTERVAL {
            return;
        }
        let done: &[_] = if std::mem::take(&mut self.uncommitted) { &self.done } else { &[] };
        self.ingest.reader().commit(done, false);
        self.committed = Instant::now();
    }
}

impl Source for Partitions {
    fn read(&mut self) -> Result<bool, Failure> {
        self.commit_if_due();
        // Between two repeated ticks nothing else may be read.
        Ok(!self.is_repeating && self.ingest.read()? > 0)
    }

    fn demand(&mut self, reached: EventTimeReached) -> Result<Demand, Failure> {
        let wants = self.ingest.is_full() || self.ingest.is_waited_for(reached);
        Ok(if wants { Demand::Tick } else { Demand::None })
    }

    fn take_records(&mut self, _: u64) -> TickRecords {
        self.ingest.take_gathered()
    }

    fn progress(
        &mut self,
        tick: u64,
        now: u64,
        reached: EventTimeReached,
    ) -> (Vec<SourceProgress>, Result<(), Failure>) {
        self.slowest_in = reached.slowest_in;
        let before = self.positions.back().map_or(&self.done, |(_, positions)| positions);
        let mut marks = self.ingest.moved_from(before);
        let progress = self.ingest.progress(now, reached);
        self.positions.push_back((tick, self.ingest.reader().positions()));
        let progress = match progress {
            Ok(progress) => progress,
            Err(failure) => return (marks, Err(failure)),
        };
        marks.extend(progress);
        let bounded = self.ingest.bound_skew(reached);
        (marks, bounded)
    }

    fn set_time(&mut self, time: LeaderTime) {
        self.ingest.set_time(time);
    }

    fn set_rules(&mut self, rules: &ReadingRules) -> Result<(), Failure> {
        self.ingest.set_rules(rules.clone())
    }

    fn repeat(&mut self, tick: u64, marks: &[SourceProgress]) -> Result<bool, Failure> {
        if !self.ingest.repeat(marks)? {
            return Ok(false);
        }
        self.positions.push_back((tick, self.ingest.reader().positions()));
        Ok(true)
    }

    fn end_repetition(&mut self) -> Result<(), Failure> {
        self.is_repeating = false;
        self.ingest.set_rules(self.rules.clone())?;
        self.ingest.end_repetition()
    }

    fn bound_skew(&mut self, reached: EventTimeReached) -> Result<(), Failure> {
        match self.is_repeating {
            true => Ok(()),
            false => self.ingest.bound_skew(reached),
        }
    }

    fn close_tick(&mut self, tick: u64) {
        while let Some((_, at)) = self.positions.pop_front_if(|(read, _)| *read <= tick) {
            (self.done, self.uncommitted) = (at, true);
        }
        // A worker that reads no more still commits.
        self.commit_if_due();
    }

    fn left_out_at_end(&self) -> Option<u64> {
        let taken = self.positions.back().map_or(&self.done, |(_, taken)| taken);
        let mut unread = Vec::new();
        for (partition, end) in &self.ends {
            let at = taken.binary_search_by_key(partition, |(partition, _)| *partition).ok()?;
            let next = taken[at].1;
            if next < *end {
                unread.push((*partition, next, u64::try_from(end - next).unwrap_or(0)));
            }
        }
        if unread.is_empty() {
            return Some(0);
        }
        let responses = self.ingest.reader().topic().responses();
        let overdue = |partition: i32| {
            let of_partition = responses.iter().find(|response| response.partition == partition);
            of_partition
                .filter(|response| response.withheld.is_some_and(|withheld| withheld.overdue))
        };
        // A partition that waits for one with such a transaction waits as long.
        let slowest = self.slowest_in.and_then(|partition| i32::try_from(partition).ok());
        let waits_in_vain = slowest.is_some_and(|partition| overdue(partition).is_some());
        let states = self.ingest.reader().states();
        let is_paused = |partition: i32| {
            states.iter().any(|state| state.partition == partition && state.paused)
        };
        let is_stuck = |(partition, next, _): &(i32, i64, u64)| {
            overdue(*partition).is_some_and(|response| *next >= response.stable)
                || waits_in_vain && is_paused(*partition)
        };
        let are_stuck = unread.iter().all(is_stuck);
        are_stuck.then(|| unread.iter().map(|(.., messages)| messages).sum())
    }

    fn state(&self) -> SourceState {
        SourceState {
            partitions: self.ingest.reader().states(),
            done: self.done.clone(),
            dead_letters: self.ingest.dead_letters().map(SinkState::of),
        }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let state = self.ingest.dead_letters().map(SinkState::of);
        let Some(SinkState { name, waiting, .. }) = state else { return Ok(()) };
        let worker = self.worker;
        let mut next_warning = Instant::now() + DEAD_LETTERS_PATIENCE;
        self.ingest.finish(&mut || {
            if Instant::now() >= next_warning {
                next_warning = Instant::now() + DEAD_LETTERS_LOG_INTERVAL;
                tracing::warn!(
                    worker,
                    messages = waiting,
                    "the run ends when all is delivered: it waits for sink \"{name}\" (--dead-letter); a \
                     second SIGTERM or SIGINT ends it at once, and what waits is lost"
                );
            }
            false
        })
    }

    fn leave(self: Box<Self>) {
        let done = if self.uncommitted { self.done } else { Vec::new() };
        self.ingest.into_reader().close(done);
    }
}
