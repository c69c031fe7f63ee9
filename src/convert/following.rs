//! One worker that reads partitions of a topic, to the ends that they had at the start or for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::FULL;
use super::converter::{Converter, Origin};
use super::skew::{self, Skew};
use crate::base::terminal::Interrupt;
use crate::kafka::{Times, TopicReader};
use crate::output::WriteError;

/// Greatest sleep while nothing comes. The source wakes the worker for messages.
const NAP: Duration = Duration::from_millis(50);

/// Interval between two checks for new partitions and for the progress of the other workers.
const LOOK: Duration = Duration::from_millis(20);

/// Interval between two commits of offsets.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

/// Time for which a worker waits for its deliveries after another worker has failed.
const GIVE_UP: Duration = Duration::from_secs(10);

/// The state that the workers of a process share.
pub struct Together<'a> {
    /// Asks all workers to finish; each delivers the records of the messages that it has read.
    pub interrupt: &'a Interrupt,
    /// Set once one of the workers can't go on.
    pub failed: &'a AtomicBool,
    /// The event times that the workers have reached.
    pub skew: &'a Skew,
    /// The offset at which to stop, by partition; without it, workers go on for ever.
    pub until: Option<&'a BTreeMap<i32, i64>>,
    /// The number of messages before those offsets that were not read: they are behind a transaction that has
    /// been open for too long.
    pub left: &'a AtomicU64,
}

/// One worker.
pub struct Following<'a> {
    /// The partitions that the worker reads.
    pub source: TopicReader,
    /// Converts and writes their messages.
    pub converter: &'a mut Converter,
    /// The worker's number among those of this process.
    pub index: usize,
    /// The state shared with the other workers.
    pub together: &'a Together<'a>,
}

impl Following<'_> {
    /// Runs until the process asks the worker to finish, or there is nothing more to read.
    ///
    /// # Errors
    /// It can't read, or can't write, and is the first of which that is so. What is not known to have
    /// arrived is not committed.
    pub fn run(&mut self) -> Result<(), WriteError> {
        let ended = self.read_all().and_then(|()| self.finish());
        self.together.skew.reached(self.index, None);
        match ended {
            // The first failure causes the later ones, so it is the one that is returned.
            Err(error) if self.together.failed.swap(true, Ordering::SeqCst) => {
                if let WriteError::Failed(failure) = error {
                    tracing::error!(worker = self.index, "{:#}", failure.error);
                }
                Ok(())
            }
            ended => ended,
        }
    }

    fn read_all(&mut self) -> Result<(), WriteError> {
        let (mut looked, mut committed) = (None::<Instant>, Instant::now());
        let mut stuck = BTreeSet::new();
        loop {
            self.converter.poll()?;
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
                stuck = self.stuck();
                self.look(&stuck)?;
                looked = Some(Instant::now());
            }
            if self.is_to_end() {
                return Ok(());
            }
            if self.is_through(&stuck) {
                self.together.left.fetch_add(self.left(), Ordering::SeqCst);
                return Ok(());
            }
            if committed.elapsed() >= COMMIT_INTERVAL {
                // It reads no more until all has arrived: which part has arrived is only known then.
                if !self.converter.settle()? {
                    std::thread::park_timeout(FULL);
                    continue;
                }
                self.commit(false);
                committed = Instant::now();
            }
            if !self.converter.has_room() {
                std::thread::park_timeout(FULL);
            } else if self.take()? == 0 {
                let due = self.converter.due();
                let due = due.map(|due| due.saturating_duration_since(Instant::now()));
                std::thread::park_timeout(due.unwrap_or(NAP).min(NAP));
            }
        }
    }

    fn is_to_end(&self) -> bool {
        self.together.interrupt.pressed() || self.together.failed.load(Ordering::SeqCst)
    }

    /// Returns the partitions that need not be waited for, where there is an offset at which to stop: their
    /// remaining messages are behind a transaction that has been open for too long.
    fn stuck(&self) -> BTreeSet<i32> {
        if self.together.until.is_none() {
            return BTreeSet::new();
        }
        let positions: BTreeMap<i32, i64> = self.source.positions().into_iter().collect();
        let answers = self.source.topic().answers();
        let overdue = answers.iter().filter(|answer| {
            let read = positions.get(&answer.partition).is_some_and(|next| *next >= answer.stable);
            read && answer.withheld.is_some_and(|withheld| withheld.overdue)
        });
        overdue.map(|answer| answer.partition).collect()
    }

    /// Whether all partitions but those that are `stuck` were read up to the offsets at which to stop.
    fn is_through(&self, stuck: &BTreeSet<i32>) -> bool {
        self.together.until.is_some_and(|until| {
            let positions = self.source.positions();
            positions
                .iter()
                .all(|(at, next)| stuck.contains(at) || until.get(at).is_none_or(|end| next >= end))
        })
    }

    /// Returns the number of messages between the positions and the offsets at which to stop.
    fn left(&self) -> u64 {
        let Some(until) = self.together.until else { return 0 };
        let positions = self.source.positions();
        let left =
            positions.iter().filter_map(|(at, next)| u64::try_from(until.get(at)? - next).ok());
        left.sum()
    }

    /// Finds new partitions, and pauses those that are too far ahead of others.
    fn look(&mut self, stuck: &BTreeSet<i32>) -> Result<(), WriteError> {
        let until = self.together.until;
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
        let slowest = self.together.skew.reached(self.index, slowest);
        self.source.holds(None).map_err(WriteError::Failed)?;
        self.source.bound_skew(slowest).map_err(WriteError::Failed)
    }

    /// Converts a batch of messages, and returns their number.
    fn take(&mut self) -> Result<usize, WriteError> {
        let Following { source, converter, together, .. } = self;
        let topic = source.topic().address().topic.clone();
        let read = source.topic().clone();
        let contents = Some(read.contents()).filter(|contents| !contents.is_decided());
        let mut ended = Ok(());
        let failed = || together.failed.load(Ordering::SeqCst);
        let taken = source.take(|taken| {
            let beyond = together.until.is_some_and(|until| {
                until.get(&taken.partition).is_none_or(|end| taken.offset >= *end)
            });
            if beyond || ended.is_err() {
                return ControlFlow::Continue(None);
            }
            let (partition, offset) = (taken.partition, taken.offset);
            let origin = Origin::Topic { topic: &topic, partition, offset };
            let converted = converter
                .wait_for_room(&failed)
                .and_then(|()| converter.message(origin, &taken.message));
            if let (Ok(_), Some(contents)) = (&converted, contents) {
                converter.look(contents);
            }
            let greatest = converted.unwrap_or_else(|error| {
                ended = Err(error);
                None
            });
            ControlFlow::Continue(greatest.map(|greatest| Times { first: greatest, greatest }))
        });
        ended?;
        if let Some(contents) = contents {
            contents.decide(read.address(), &source.positions()).map_err(WriteError::Failed)?;
        }
        taken.map_err(WriteError::Failed)
    }

    fn commit(&self, last: bool) {
        let until = self.together.until;
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
        let together = self.together;
        self.converter.finish(&mut || {
            if !together.failed.load(Ordering::SeqCst) {
                return false;
            }
            failed.get_or_insert_with(Instant::now).elapsed() >= GIVE_UP
        })?;
        self.commit(true);
        Ok(())
    }
}
