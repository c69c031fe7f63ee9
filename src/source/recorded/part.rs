//! The parts of a recorded input, each read in its own order, and the order in which ticks take them.
//!
//! A record belongs to the tick of the greatest event time of its part up to it. A tick is complete when every part has
//! come to a record of a later tick, or to its end: so it depends neither on the order of the parts nor on how fast each
//! is read. Within a tick the order does not matter.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::events::{End, Tick};
use super::gather::Gather;
use super::intake::Intake;
use crate::base::error::Failure;
use crate::base::terminal::Messages;

/// A part of a recorded input: a file, or a partition of a topic.
pub(super) trait Part: Send {
    /// Gathers records up to the first one of a later tick, which it keeps, or up to the end. Returns whether there is
    /// such a record.
    ///
    /// # Errors
    /// The input can't be read, and what was read is not all of it. Damage of a file is reported by its part, which ends
    /// there.
    fn read(&mut self, gather: &mut Gather) -> Result<bool, Failure>;

    /// Adds what it has counted.
    fn summarize(&self, end: &mut End);
}

/// The messages of a part, one or some at a time.
pub(super) trait Advance: Send {
    /// Takes the records of the next messages. `false`: none are left.
    ///
    /// # Errors
    /// Those of [`Part::read`].
    fn advance(&mut self, intake: &mut Intake, gather: &mut Gather) -> Result<bool, Failure>;

    /// Whether damage has kept messages from being read.
    fn is_damaged(&self) -> bool {
        false
    }
}

/// A part of messages that become records.
pub(super) struct RecordPart<A> {
    messages: A,
    intake: Intake,
    has_ended: bool,
}

impl<A> RecordPart<A> {
    pub(super) fn new(messages: A, intake: Intake) -> Self {
        RecordPart { messages, intake, has_ended: false }
    }
}

impl<A: Advance> Part for RecordPart<A> {
    fn read(&mut self, gather: &mut Gather) -> Result<bool, Failure> {
        loop {
            if self.intake.gather(gather).is_break() {
                return Ok(true);
            }
            if self.has_ended {
                return Ok(false);
            }
            if !self.messages.advance(&mut self.intake, gather)? {
                self.has_ended = true;
                self.intake.end();
            }
        }
    }

    fn summarize(&self, end: &mut End) {
        end.records.merge(self.intake.tally());
        end.has_records = true;
        end.damaged |= self.messages.is_damaged();
    }
}

/// All parts that one thread reads.
pub(super) struct Parts {
    /// Those that have not ended.
    parts: Vec<Option<Box<dyn Part>>>,
    /// The tick of the next record of each part that has one.
    next: BinaryHeap<Reverse<(u64, usize)>>,
    has_begun: bool,
    /// The counts of those that have ended.
    end: End,
}

impl Parts {
    /// `has_topics`: there are topics among them, even if these have nothing to read.
    pub(super) fn new(parts: Vec<Box<dyn Part>>, has_topics: bool) -> Self {
        let next = BinaryHeap::with_capacity(parts.len());
        let end = End { has_records: has_topics, ..End::default() };
        Parts { parts: parts.into_iter().map(Some).collect(), next, has_begun: false, end }
    }

    /// Reads the next tick; `None` when all parts have ended.
    pub(super) fn next_tick(&mut self, gather: &mut Gather) -> Result<Option<Tick>, Failure> {
        if !self.has_begun {
            self.has_begun = true;
            for part in 0..self.parts.len() {
                self.read(part, gather)?;
            }
        }
        let Some(&Reverse((tick, _))) = self.next.peek() else { return Ok(None) };
        gather.begin(tick);
        while let Some(&Reverse((at, part))) = self.next.peek()
            && at == tick
        {
            self.next.pop();
            self.read(part, gather)?;
        }
        Ok(Some(gather.end(tick)))
    }

    fn read(&mut self, part: usize, gather: &mut Gather) -> Result<(), Failure> {
        let at = &mut self.parts[part];
        let Some(reading) = at else { return Ok(()) };
        if reading.read(gather)? {
            self.next.push(Reverse((gather.later_tick(), part)));
        } else {
            reading.summarize(&mut self.end);
            *at = None;
        }
        Ok(())
    }

    /// Returns what the parts have counted that have ended.
    pub(super) fn summary(&mut self) -> End {
        std::mem::take(&mut self.end)
    }
}

/// The share of one part in the progress bar.
pub(super) struct Progress {
    messages: Messages,
    /// The work that all parts have done, and the records that they have read.
    all: Arc<[AtomicU64; 2]>,
    /// The same of this part, as it has reported last.
    reported: [u64; 2],
}

impl Progress {
    pub(super) fn new(messages: &Messages) -> Self {
        Progress { messages: messages.clone(), all: Arc::default(), reported: [0; 2] }
    }

    /// Creates the progress of another part.
    pub(super) fn of_part(&self) -> Self {
        Progress { messages: self.messages.clone(), all: self.all.clone(), reported: [0; 2] }
    }

    /// Returns where messages go.
    pub(super) fn messages(&self) -> &Messages {
        &self.messages
    }

    /// Reports the work that the part has done so far, the records that it has read, and the event time that it has
    /// reached.
    pub(super) fn report(&mut self, done: u64, records: u64, event_time_ms: u64) {
        let add = |of: usize, now: u64| {
            let more = now.saturating_sub(self.reported[of]);
            self.all[of].fetch_add(more, Ordering::Relaxed) + more
        };
        let (done_by_all, records_of_all) = (add(0, done), add(1, records));
        self.reported = [done, records];
        self.messages.progress_to(done_by_all, records_of_all, event_time_ms);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use floodmark_dataflows::combine::UpdateBatch;
    use floodmark_dataflows::time::Windows;
    use floodmark_dataflows::types::{Pair, Volume};
    use proptest::prelude::*;

    use super::*;
    use crate::source::Filter;
    use crate::source::recorded::TickRules;

    const TICK_MS: u64 = 10;

    /// A part with a record of so many bytes at each of these times.
    struct Made(VecDeque<(u64, i64)>);

    impl Part for Made {
        fn read(&mut self, gather: &mut Gather) -> Result<bool, Failure> {
            let pair = Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
            while let Some((time, bytes)) = self.0.front() {
                if gather.add(*time, pair, Volume::new(*bytes, 1)).is_break() {
                    return Ok(true);
                }
                self.0.pop_front();
            }
            Ok(false)
        }

        fn summarize(&self, _: &mut End) {}
    }

    /// Returns the bytes of each tick, in the order of ticks.
    fn read(parts: &[Vec<(u64, i64)>]) -> Vec<(u64, i64)> {
        let windows = Windows { width_secs: 1, ..Windows::default() };
        let rules = TickRules { tick_ms: TICK_MS, windows, filter: Filter::default(), peers: 2 };
        let made = |part: &Vec<_>| Box::new(Made(part.iter().copied().collect())) as Box<dyn Part>;
        let mut parts = Parts::new(parts.iter().map(made).collect(), false);
        let mut gather = Gather::new(rules);
        let next = || parts.next_tick(&mut gather).expect("no part fails");
        std::iter::from_fn(next)
            .map(|tick| {
                let updates = tick.update_batches.iter().flat_map(UpdateBatch::updates);
                (tick.tick, updates.map(|(_, volume)| volume.bytes).sum())
            })
            .collect()
    }

    proptest! {
        #[test]
        fn record_belongs_to_the_tick_of_the_greatest_event_time_of_its_part(
            parts in prop::collection::vec(
                prop::collection::vec((0..200u64, 1..1000i64), 0..20), 0..6,
            )
        ) {
            let mut expected: BTreeMap<u64, i64> = BTreeMap::new();
            for part in &parts {
                let mut greatest = 0;
                for (time, bytes) in part {
                    greatest = greatest.max(*time);
                    *expected.entry(greatest - greatest % TICK_MS).or_default() += bytes;
                }
            }
            prop_assert_eq!(read(&parts), expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn record_in_no_window_moves_no_tick() {
        let parts = [vec![(u64::MAX, 1), (15, 2), (u64::MAX, 4), (12, 8)], vec![(31, 16)]];
        assert_eq!(read(&parts), [(10, 10), (30, 16)]);
    }
}
