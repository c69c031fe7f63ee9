//! The progress of live event time, from the progress of each partition of the input and from the clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::time::{WindowRange, Windows};

/// The progress of a partition of a live input, and whether the partition holds the watermark there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PartitionProgress {
    /// The partition has records, or may have, but none was read yet: it holds the watermark wherever that is.
    Unknown,
    /// The partition has no record for now: it holds the watermark, and no faster partition needs to wait for it.
    Empty,
    /// The greatest event time that was read from it.
    At(u64),
    /// As [`PartitionProgress::At`], while the partition has more records to read: it has waited for slower
    /// partitions since it was last read to its end.
    Waiting(u64),
    /// The partition is idle or straggles: it does not hold the watermark.
    Idle,
}

/// The clock of a live input, as a tick reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockReading {
    /// The time of the clock; the watermark is never after it.
    pub(crate) now: u64,
    /// The watermark if no partition holds it.
    pub(crate) silence: u64,
}

/// The progress of the slowest of several partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slowest {
    pub(crate) at: u64,
    /// The slowest partition; `None` if no partition is behind the clock.
    pub(crate) partition: Option<u32>,
}

/// The partitions with their progress, by which they hold the watermark.
#[derive(Debug, Default)]
pub(crate) struct Partitions {
    progress: BTreeMap<u32, PartitionProgress>,
}

impl Partitions {
    /// Sets the progress of a partition, until it is set again.
    pub(crate) fn set(&mut self, partition: u32, progress: PartitionProgress) {
        self.progress.insert(partition, progress);
    }

    /// Each partition with its progress.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, PartitionProgress)> {
        self.progress.iter().map(|(partition, progress)| (*partition, *progress))
    }

    /// The watermark; `before` is the one of the tick before, behind which it never goes: a partition
    /// that returns from idleness brings late records, not an older watermark.
    pub(crate) fn watermark(&self, reading: ClockReading, before: u64) -> Slowest {
        let least = self.least(reading, Some(0));
        Slowest { at: least.at.max(before), ..least }
    }

    /// The progress of the slowest partition, of those that are not empty.
    pub(crate) fn slowest(&self, reading: ClockReading) -> Slowest {
        self.least(reading, None)
    }

    /// The greatest event time that a partition has come to, at most the clock. The unread records of a waiting
    /// partition may be of any time up to the clock.
    pub(crate) fn front(&self, reading: ClockReading) -> u64 {
        let at = |progress: &PartitionProgress| match progress {
            PartitionProgress::At(at) => Some(*at),
            PartitionProgress::Waiting(_) => Some(reading.now),
            PartitionProgress::Unknown | PartitionProgress::Empty | PartitionProgress::Idle => None,
        };
        self.progress.values().filter_map(at).max().unwrap_or(0).min(reading.now)
    }

    fn least(&self, reading: ClockReading, empty: Option<u64>) -> Slowest {
        let held = self.progress.iter().filter_map(|(partition, progress)| {
            let at = match progress {
                PartitionProgress::Unknown => 0,
                PartitionProgress::Empty => empty?,
                PartitionProgress::At(at) | PartitionProgress::Waiting(at) => *at,
                PartitionProgress::Idle => return None,
            };
            Some((at, *partition))
        });
        match held.min() {
            Some((at, partition)) if at < reading.now => Slowest { at, partition: Some(partition) },
            Some(_) => Slowest { at: reading.now, partition: None },
            None => Slowest { at: reading.silence.min(reading.now), partition: None },
        }
    }
}

/// The windows that end while the watermark moves. None if it did not move before (`from` is 0), or if the step is
/// longer than the greatest gap: such a step is a break in observation, not silence that was watched.
pub(crate) fn passed(rules: Windows, from: u64, to: u64) -> WindowRange {
    let watched = from > 0 && to.saturating_sub(from) <= rules.max_gap_secs.saturating_mul(1000);
    match rules.of(from).filter(|_| watched) {
        Some(first) => WindowRange { from: first, until: rules.bounds(to).open },
        None => WindowRange::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: ClockReading = ClockReading { now: 1000, silence: 900 };

    fn least(at: u64, partition: Option<u32>) -> Slowest {
        Slowest { at, partition }
    }

    #[test]
    fn slowest_partition_holds_the_watermark() {
        let mut partitions = Partitions::default();
        partitions.set(0, PartitionProgress::At(700));
        partitions.set(1, PartitionProgress::Empty);
        assert_eq!(partitions.watermark(NOON, 0), least(0, Some(1)));
        assert_eq!(partitions.slowest(NOON), least(700, Some(0)));
        partitions.set(1, PartitionProgress::Unknown);
        assert_eq!(partitions.watermark(NOON, 0), least(0, Some(1)));
        assert_eq!(partitions.slowest(NOON), least(0, Some(1)));
        partitions.set(1, PartitionProgress::At(500));
        assert_eq!(partitions.watermark(NOON, 0), least(500, Some(1)));
        partitions.set(1, PartitionProgress::Idle);
        assert_eq!(partitions.watermark(NOON, 0), least(700, Some(0)));
        partitions.set(0, PartitionProgress::Idle);
        assert_eq!(partitions.watermark(NOON, 0), least(900, None));
        partitions.set(1, PartitionProgress::At(500));
        assert_eq!(partitions.watermark(NOON, 900), least(900, Some(1)));
        partitions.set(1, PartitionProgress::At(5000));
        assert_eq!(partitions.watermark(NOON, 900), least(1000, None));
    }

    #[test]
    fn front_is_the_greatest_event_time_or_the_clock_while_a_partition_waits() {
        let mut partitions = Partitions::default();
        partitions.set(0, PartitionProgress::Unknown);
        partitions.set(1, PartitionProgress::Empty);
        assert_eq!(partitions.front(NOON), 0);
        partitions.set(2, PartitionProgress::At(300));
        partitions.set(3, PartitionProgress::At(700));
        assert_eq!(partitions.front(NOON), 700);
        // A partition ahead of the clock: no other partition is behind because of that.
        partitions.set(4, PartitionProgress::At(5000));
        assert_eq!(partitions.front(NOON), 1000);
        partitions.set(4, PartitionProgress::Idle);
        partitions.set(3, PartitionProgress::Waiting(500));
        assert_eq!((partitions.front(NOON), partitions.slowest(NOON)), (1000, least(0, Some(0))));
        partitions.set(0, PartitionProgress::Idle);
        partitions.set(2, PartitionProgress::Idle);
        assert_eq!(partitions.slowest(NOON), least(500, Some(3)));
    }

    #[test]
    fn step_longer_than_the_greatest_gap_passes_no_window() {
        let rules = Windows { max_gap_secs: 900, ..Windows::default() };
        let passed = |from, to| {
            rules.each(passed(rules, from, to)).map(|window| window.0).collect::<Vec<_>>()
        };
        assert_eq!(passed(0, 300_000), []);
        assert_eq!(passed(1, 299_999), []);
        assert_eq!(passed(1, 300_000), [0]);
        assert_eq!(passed(300_000, 1_200_000), [300, 600, 900]);
        assert_eq!(passed(300_000, 1_200_001), []);
    }
}
