//! One worker that reads partitions of a topic, for ever or up to the offsets at which they ended at the start.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::CAPACITY_PAUSE;
use super::converter::{Converter, Origin};
use super::skew::{self, Skew};
use crate::base::terminal::Interrupt;
use crate::kafka::{Times, TopicReader};
use crate::output::WriteError;

/// Greatest sleep while no message arrives. The source wakes the worker for messages.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// Interval between two checks for new partitions and for the progress of the other workers.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Interval between two commits of offsets.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

/// Time for which a worker waits for its deliveries after another worker has failed.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// The state that the workers of a process share.
pub struct SharedState<'a> {
    /// Requests all workers to finish; each delivers the records of the messages that it has read.
    pub interrupt: &'a Interrupt,
    /// Set once one of the workers can't go on.
    pub failed: &'a AtomicBool,
    /// The event times that the workers have reached.
    pub skew: &'a Skew,
    /// The offset at which to stop, by partition; without it, workers go on for ever.
    pub until: Option<&'a BTreeMap<i32, i64>>,
    /// The number of messages before the offsets in `until` that were not read: they are behind a transaction that
    /// has been open for too long.
    pub unread: &'a AtomicU64,
}

/// One worker.
pub struct Follower<'a> {
    /// The partitions that the worker reads.
    pub source: TopicReader,
    /// Converts and writes their messages.
    pub converter: &'a mut Converter,
    /// The worker's number among those of this process.
    pub index: usize,
    /// The state shared with the other workers.
    pub shared: &'a SharedState<'a>,
}

impl Follower<'_> {
    /// Runs until an interrupt requests the worker to finish, or everything up to the end is read. Commits only offsets
    /// of messages whose records are delivered.
    ///
    /// # Errors
    /// The worker can't read or write, and is the first worker to fail. A later failure is only logged.
    pub fn run(&mut self) -> Result<(), WriteError> {
        let ended = self.read_all().and_then(|()| self.finish());
        self.shared.skew.report(self.index, None);
        match ended {
            // The first failure causes the later ones, so it is the one that is returned.
            Err(error) if self.shared.failed.swap(true, Ordering::SeqCst) => {
                if let WriteError::Failed(failure) = error {
                    tracing::error!(worker = self.index, "{:#}", failure.error);
                }
                Ok(())
            }
            ended => ended,
        }
    }

    fn read_all(&mut self) -> Result<(), WriteError> {
        let (mut checked, mut committed) = (None::<Instant>, Instant::now());
        let mut stuck = BTreeSet::new();
        loop {
            self.converter.poll()?;
            if checked.is_none_or(|checked| checked.elapsed() >= CHECK_INTERVAL) {
                stuck = self.stuck();
                self.bound_skew(&stuck)?;
                checked = Some(Instant::now());
            }
            if self.must_finish() {
                return Ok(());
            }
            if self.is_at_end(&stuck) {
                self.shared.unread.fetch_add(self.unread(), Ordering::SeqCst);
                return Ok(());
            }
            if committed.elapsed() >= COMMIT_INTERVAL {
                // The worker reads no more until everything is delivered: the outlet does not report which part is.
                if !self.converter.settle()? {
                    std::thread::park_timeout(CAPACITY_PAUSE);
                    continue;
                }
                self.commit(false);
                committed = Instant::now();
            }
            if !self.converter.has_capacity() {
                std::thread::park_timeout(CAPACITY_PAUSE);
            } else if self.convert_batch()? == 0 {
                let due = self.converter.due();
                let due = due.map(|due| due.saturating_duration_since(Instant::now()));
                std::thread::park_timeout(due.unwrap_or(SLEEP_MAX).min(SLEEP_MAX));
            }
        }
    }

    fn must_finish(&self) -> bool {
        self.shared.interrupt.pressed() || self.shared.failed.load(Ordering::SeqCst)
    }

    /// Returns the partitions that the worker does not wait for, if there is an offset at which to stop: their
    /// remaining messages are behind a transaction that has been open for too long.
    fn stuck(&self) -> BTreeSet<i32> {
        if self.shared.until.is_none() {
            return BTreeSet::new();
        }
        let positions: BTreeMap<i32, i64> = self.source.positions().into_iter().collect();
        let answers = self.source.topic().responses();
        let overdue = answers.iter().filter(|answer| {
            let read = positions.get(&answer.partition).is_some_and(|next| *next >= answer.stable);
            read && answer.withheld.is_some_and(|withheld| withheld.overdue)
        });
        overdue.map(|answer| answer.partition).collect()
    }

    /// Whether all partitions except those that are `stuck` are read up to the offsets at which to stop.
    fn is_at_end(&self, stuck: &BTreeSet<i32>) -> bool {
        self.shared.until.is_some_and(|until| {
            let positions = self.source.positions();
            positions
                .iter()
                .all(|(at, next)| stuck.contains(at) || until.get(at).is_none_or(|end| next >= end))
        })
    }

    /// Returns the number of messages between the positions and the offsets at which to stop.
    fn unread(&self) -> u64 {
        let Some(until) = self.shared.until else { return 0 };
        let positions = self.source.positions();
        let unread =
            positions.iter().filter_map(|(at, next)| u64::try_from(until.get(at)? - next).ok());
        unread.sum()
    }

    /// Adds new partitions, and pauses those that are too far ahead of others.
    fn bound_skew(&mut self, stuck: &BTreeSet<i32>) -> Result<(), WriteError> {
        let until = self.shared.until;
        let ends: BTreeMap<i32, i64> = self.source.positions().into_iter().collect();
        let reads = |partition: &i32| match until {
            Some(until) => {
                let end = until.get(partition);
                !stuck.contains(partition) && end.is_some_and(|end| ends[partition] < *end)
            }
            None => true,
        };
        let slowest = skew::slowest(&self.source.states(), &self.source.topic().ends(), |state| {
            reads(&state.partition)
        });
        let slowest = self.shared.skew.report(self.index, slowest);
        self.source.update_progress(None).map_err(WriteError::Failed)?;
        self.source.bound_skew(slowest).map_err(WriteError::Failed)
    }

    /// Converts a batch of messages, and returns their number.
    fn convert_batch(&mut self) -> Result<usize, WriteError> {
        let Follower { source, converter, shared, .. } = self;
        let topic = source.topic().address().topic.clone();
        let opened = source.topic().clone();
        let contents = Some(opened.contents()).filter(|contents| !contents.is_decided());
        let mut ended = Ok(());
        let failed = || shared.failed.load(Ordering::SeqCst);
        let taken = source.poll(|taken| {
            let beyond = shared.until.is_some_and(|until| {
                until.get(&taken.partition).is_none_or(|end| taken.offset >= *end)
            });
            if beyond || ended.is_err() {
                return ControlFlow::Continue(None);
            }
            let (partition, offset) = (taken.partition, taken.offset);
            let origin = Origin::Topic { topic: &topic, partition, offset };
            let converted = converter
                .wait_for_capacity(&failed)
                .and_then(|()| converter.convert(origin, &taken.message));
            if let (Ok(_), Some(contents)) = (&converted, contents) {
                converter.report_contents(contents);
            }
            let greatest = converted.unwrap_or_else(|error| {
                ended = Err(error);
                None
            });
            ControlFlow::Continue(greatest.map(|greatest| Times { first: greatest, greatest }))
        });
        ended?;
        if let Some(contents) = contents {
            contents.decide(opened.address(), &source.positions()).map_err(WriteError::Failed)?;
        }
        taken.map_err(WriteError::Failed)
    }

    fn commit(&self, last: bool) {
        let until = self.shared.until;
        let mut positions = self.source.positions();
        for (partition, next) in &mut positions {
            if let Some(end) = until.and_then(|until| until.get(partition)) {
                *next = (*next).min(*end);
            }
        }
        if let Some(until) = until {
            positions.retain(|(partition, _)| until.contains_key(partition));
        }
        self.source.commit(&positions, last);
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        let mut failed: Option<Instant> = None;
        let shared = self.shared;
        self.converter.finish(&mut || {
            if !shared.failed.load(Ordering::SeqCst) {
                return false;
            }
            failed.get_or_insert_with(Instant::now).elapsed() >= GIVE_UP_TIMEOUT
        })?;
        self.commit(true);
        Ok(())
    }
}
