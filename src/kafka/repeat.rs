//! Reads the messages of ticks that an earlier run has taken: of each partition up to an offset, and none beyond.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use anyhow::Context as _;

use super::consumer::BATCH;
use super::partition::Times;
use super::source::{ReceivedMessage, TopicReader};
use crate::base::error::Failure;

/// Messages beyond their bounds that wait in the consumer. More are fetched again when their turn comes.
const KEPT_MAX: usize = 8 * BATCH;

impl TopicReader {
    /// Reads messages as [`TopicReader::poll`] does, of each partition before its bound, and of a partition without
    /// bound none. Returns whether all bounds are reached.
    pub fn read_until(
        &mut self,
        bounds: &BTreeMap<i32, i64>,
        each: impl FnMut(ReceivedMessage<'_>) -> ControlFlow<Option<Times>, Option<Times>>,
    ) -> Result<bool, Failure> {
        let is_unknown =
            |partition: &i32| self.is_ours(*partition) && !self.partitions.contains_key(partition);
        if bounds.keys().any(is_unknown) {
            // A broker hears of a new partition some time after others.
            self.find_partitions()?;
        }
        let next: BTreeMap<i32, i64> =
            self.partitions.iter().map(|(partition, state)| (*partition, state.next)).collect();
        let bound = |partition: i32| {
            let without = next.get(&partition).copied().unwrap_or(0);
            bounds.get(&partition).copied().unwrap_or(without)
        };
        let has_reached = |reader: &Self| {
            bounds.iter().all(|(partition, bound)| match reader.partitions.get(partition) {
                Some(state) => state.next >= *bound,
                None => !reader.is_ours(*partition),
            })
        };
        if has_reached(self) {
            return Ok(true);
        }
        self.release(&|partition| bounds.contains_key(&partition))?;
        self.poll_before(&bound, each)?;
        // A message beyond its bound shows that none is left before it: transactions and compaction leave gaps.
        for partition in self.kept_partitions() {
            if let (Some(state), Some(bound)) =
                (self.partitions.get_mut(&partition), bounds.get(&partition))
            {
                state.next = state.next.max(*bound);
            }
        }
        self.hold_surplus()?;
        Ok(has_reached(self))
    }

    /// Ends the repetition: all partitions are read on from where they are.
    pub fn end_repetition(&mut self) -> Result<(), Failure> {
        self.release(&|_| true)
    }

    /// Notes that the first event time of a partition was reported.
    pub fn set_first_reported(&mut self, partition: i32) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.truncated = None;
        }
    }

    /// Returns the partitions of messages that wait for their turn.
    fn kept_partitions(&self) -> Vec<i32> {
        self.consumer.as_ref().map(|consumer| consumer.kept_partitions()).unwrap_or_default()
    }

    /// Stops reading the partitions of messages that wait, if there are too many.
    fn hold_surplus(&mut self) -> Result<(), Failure> {
        let Some(consumer) = &mut self.consumer else { return Ok(()) };
        if consumer.kept() < KEPT_MAX {
            return Ok(());
        }
        for partition in consumer.kept_partitions() {
            consumer.remove(partition).context("holding a partition")?;
            self.held.insert(partition);
        }
        Ok(())
    }

    /// Goes on reading partitions that were held.
    fn release(&mut self, wanted: &dyn Fn(i32) -> bool) -> Result<(), Failure> {
        let Some(consumer) = &self.consumer else { return Ok(()) };
        for partition in self.held.extract_if(.., |partition| wanted(*partition)) {
            if let Some(state) = self.partitions.get(&partition) {
                consumer.add(&[(partition, state.next)]).context("reading a held partition")?;
            }
        }
        Ok(())
    }
}
