//! Ends buckets by the time of the next packet, or when their time has passed on the clock.

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
    /// The end of the open bucket in milliseconds, and the time on the clock at which it is due.
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

    /// Appends buckets whose time has passed to `out`, on a clock that shows `now`. The caller adds all available
    /// records first, and calls this regularly.
    ///
    /// Between the last packet and the end of its bucket, the clock is assumed to pass as fast as event time. If event
    /// time is slower (a capture that is read slower than it was made), a bucket ends early, and later packets go
    /// into another record; the sums are the same.
    pub fn end_due_buckets(&mut self, now: Duration, out: &mut Vec<Record>) {
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

    /// Ends the open bucket, and appends it to `out`.
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
    fn bucket_ends_when_its_time_has_passed() {
        let mut out = Vec::new();
        let mut folding = Folding::new(Some(1000));
        let ms = Duration::from_millis;
        folding.end_due_buckets(ms(0), &mut out);
        folding.add(record(5_400), &mut out);
        folding.add(record(5_900), &mut out);
        folding.end_due_buckets(ms(70), &mut out);
        // The bucket is due after the remaining 100 ms and the grace time.
        folding.end_due_buckets(ms(469), &mut out);
        assert_eq!(out, []);
        folding.end_due_buckets(ms(470), &mut out);
        assert_eq!(out, [Record { volume: Volume::new(80, 2), ..record(5_900) }]);
        // A later packet makes another record.
        folding.add(record(5_950), &mut out);
        folding.end_due_buckets(ms(500), &mut out);
        folding.end_due_buckets(ms(2000), &mut out);
        assert_eq!(out[1..], [record(5_950)]);
        folding.end_due_buckets(ms(9000), &mut out);
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn later_packet_ends_the_bucket() {
        let mut out = Vec::new();
        let mut folding = Folding::new(Some(1000));
        for at in 0..10u64 {
            folding.add(record(at * 900), &mut out);
            folding.end_due_buckets(Duration::from_millis(at * 900), &mut out);
        }
        folding.end(&mut out);
        assert_eq!(out.iter().map(|record| record.volume.packets).sum::<i64>(), 10);
        assert_eq!(out.len(), 9);
    }

    #[test]
    fn records_without_buckets_pass_through() {
        let mut out = Vec::new();
        let mut folding = Folding::new(None);
        folding.add(record(7), &mut out);
        assert_eq!(out, [record(7)]);
        folding.end_due_buckets(Duration::MAX, &mut out);
        folding.end(&mut out);
        assert_eq!(out.len(), 1);
    }
}
