//! Ends buckets: by the next packet's time, or when their time has passed on the clock.

use std::time::Duration;

use crate::aggregate::Aggregate;
use crate::record::Record;

/// Extra time for which a bucket stays open for packets that are on their way.
const GRACE: Duration = Duration::from_millis(300);

/// Folds records, or passes them through.
pub struct Folding {
    aggregate: Option<Aggregate>,
    /// The greatest event time added.
    latest_ms: u64,
    /// The bucket that is open, by its end in milliseconds, and the time on the clock at which it ends.
    due: Option<(u64, Duration)>,
}

impl Folding {
    /// Creates it with buckets of this many milliseconds; with `None`, records pass through as they are.
    pub fn new(bucket_ms: Option<u64>) -> Self {
        Folding { aggregate: bucket_ms.map(Aggregate::new), latest_ms: 0, due: None }
    }

    /// Adds a record. Appends records that are complete to `out`.
    #[inline]
    pub fn add(&mut self, record: Record, out: &mut Vec<Record>) {
        match &mut self.aggregate {
            Some(aggregate) => {
                self.latest_ms = self.latest_ms.max(record.time_ms);
                aggregate.add(&record, out);
            }
            None => out.push(record),
        }
    }

    /// Appends buckets whose time has passed to `out`, on a clock that shows `now`. The caller adds the records
    /// that are there first, and calls this every now and then.
    ///
    /// From the last packet taken to the end of its bucket, time passes here as it does there. Where
    /// that is not so (a capture that is read slower than it was made), a bucket ends early and goes on
    /// in another record; sums are the same.
    pub fn settle(&mut self, now: Duration, out: &mut Vec<Record>) {
        let Some(aggregate) = &mut self.aggregate else { return };
        let Some(end_ms) = aggregate.open_until() else {
            self.due = None;
            return;
        };
        match self.due {
            Some((bucket, due)) if bucket == end_ms => {
                if now >= due {
                    aggregate.end(out);
                    self.due = None;
                }
            }
            _ => {
                let left = Duration::from_millis(end_ms.saturating_sub(self.latest_ms));
                self.due = Some((end_ms, now.saturating_add(left).saturating_add(GRACE)));
            }
        }
    }

    /// Appends all that is left to `out`.
    pub fn end(&mut self, out: &mut Vec<Record>) {
        if let Some(aggregate) = &mut self.aggregate {
            aggregate.end(out);
        }
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::types::{Pair, Volume};

    use super::*;

    fn record(time_ms: u64) -> Record {
        let pair = Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        Record { time_ms, pair, volume: Volume::new(40, 1) }
    }

    #[test]
    fn a_bucket_ends_when_its_time_has_passed() {
        let mut out = Vec::new();
        let mut folding = Folding::new(Some(1000));
        let ms = Duration::from_millis;
        folding.settle(ms(0), &mut out);
        folding.add(record(5_400), &mut out);
        folding.add(record(5_900), &mut out);
        folding.settle(ms(70), &mut out);
        // 100 ms of its second are left, and the grace.
        folding.settle(ms(469), &mut out);
        assert_eq!(out, []);
        folding.settle(ms(470), &mut out);
        assert_eq!(out, [Record { volume: Volume::new(80, 2), ..record(5_900) }]);
        // One that comes later makes another record.
        folding.add(record(5_950), &mut out);
        folding.settle(ms(500), &mut out);
        folding.settle(ms(2000), &mut out);
        assert_eq!(out[1..], [record(5_950)]);
        folding.settle(ms(9000), &mut out);
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn packets_that_keep_coming_end_it_by_their_time() {
        let mut out = Vec::new();
        let mut folding = Folding::new(Some(1000));
        for at in 0..10u64 {
            folding.add(record(at * 900), &mut out);
            folding.settle(Duration::from_millis(at * 900), &mut out);
        }
        folding.end(&mut out);
        assert_eq!(out.iter().map(|record| record.volume.packets).sum::<i64>(), 10);
        assert_eq!(out.len(), 9);
    }

    #[test]
    fn without_buckets_records_go_through() {
        let mut out = Vec::new();
        let mut folding = Folding::new(None);
        folding.add(record(7), &mut out);
        assert_eq!(out, [record(7)]);
        folding.settle(Duration::MAX, &mut out);
        folding.end(&mut out);
        assert_eq!(out.len(), 1);
    }
}
