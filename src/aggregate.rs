//! Folds packets before they are sent, into one record for each pair and bucket of time.
//!
//! Buckets are aligned to 1970, like windows, and divide windows, so no record spans two windows. A record carries the
//! time of its last packet. A bucket ends when a packet of a later bucket arrives, or when the caller ends it
//! ([`Aggregate::end`]). A packet that arrives after the end of its bucket makes another record of the bucket. So the
//! number of records depends on the order of packets, but sums do not.

use std::hash::Hash;

use floodmark_dataflows::types::{Pair, Volume};
use foldhash::fast::RandomState;
use std::collections::HashMap;

use crate::record::Record;

/// Maximum number of entries. Beyond it, the aggregate emits all records early and starts anew.
const ENTRIES_MAX: usize = 1 << 18;

/// Maximum amount of a record: readers reject a greater one.
const AMOUNT_MAX: i64 = 1 << 40;

/// The amount that a pair has sent in a bucket so far.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    last_ms: u64,
    volume: Volume,
}

impl Sum {
    /// Adds a record, or emits the earlier sum if the two together are too great for one record.
    #[inline]
    fn add(&mut self, record: &Record, out: &mut Vec<Record>) {
        let sum = self.volume.checked_add(record.volume);
        match sum.filter(|sum| sum.bytes <= AMOUNT_MAX && sum.packets <= AMOUNT_MAX) {
            Some(volume) => {
                self.volume = volume;
                self.last_ms = self.last_ms.max(record.time_ms);
            }
            None => {
                out.push(self.record(record.pair));
                *self = Sum { last_ms: record.time_ms, volume: record.volume };
            }
        }
    }

    fn record(&self, pair: Pair) -> Record {
        Record { time_ms: self.last_ms, pair, volume: self.volume }
    }
}

/// Folds records of packets into records of buckets.
pub struct Aggregate {
    bucket_ms: u64,
    /// The start of the latest bucket.
    front: Option<u64>,
    /// The sums of the bucket at `front`, with a table for each address family: the keys of most pairs are small.
    v4: HashMap<u64, Sum, RandomState>,
    v6: HashMap<(u128, u128), Sum, RandomState>,
    /// The sums of earlier buckets, by the start of the bucket and the pair.
    late: HashMap<(u64, Pair), Sum, RandomState>,
    entries_max: usize,
}

impl Aggregate {
    /// Creates an aggregate with buckets of this many milliseconds, at least one.
    pub fn new(bucket_ms: u64) -> Self {
        Aggregate {
            bucket_ms: bucket_ms.max(1),
            front: None,
            v4: HashMap::default(),
            v6: HashMap::default(),
            late: HashMap::default(),
            entries_max: ENTRIES_MAX,
        }
    }

    /// Adds a record. If it ends the bucket, appends the records of that bucket to `out`.
    #[inline]
    pub fn add(&mut self, record: &Record, out: &mut Vec<Record>) {
        let start = record.time_ms - record.time_ms % self.bucket_ms;
        if self.front.is_none_or(|front| start > front) || self.len() >= self.entries_max {
            self.end(out);
            self.front = self.front.max(Some(start));
        }
        let sum = match record.pair {
            _ if self.front != Some(start) => self.late.entry((start, record.pair)).or_default(),
            Pair::V4(source, destination) => {
                let key = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
                self.v4.entry(key).or_default()
            }
            Pair::V6(source, destination) => {
                self.v6.entry((source.to_bits(), destination.to_bits())).or_default()
            }
        };
        sum.add(record, out);
    }

    /// Appends all records to `out`, by time and pair, and removes them.
    pub fn end(&mut self, out: &mut Vec<Record>) {
        let from = out.len();
        drain(&mut self.v4, |key| Pair::V4(((key >> 32) as u32).into(), (key as u32).into()), out);
        drain(
            &mut self.v6,
            |(source, destination)| Pair::V6(source.into(), destination.into()),
            out,
        );
        drain(&mut self.late, |(_, pair)| pair, out);
        // The order of hash tables differs between runs, and the output should not.
        out[from..].sort_unstable_by_key(|record| (record.time_ms, record.pair));
    }

    /// Returns the end of the latest bucket; `None` if there are no entries.
    pub fn open_until(&self) -> Option<u64> {
        let front = self.front.filter(|_| !self.is_empty())?;
        Some(front.saturating_add(self.bucket_ms))
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len() + self.late.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn drain<K: Eq + Hash>(
    sums: &mut HashMap<K, Sum, RandomState>,
    pair: impl Fn(K) -> Pair,
    out: &mut Vec<Record>,
) {
    // The walk over a table takes time by its capacity, also when it is nearly empty.
    let sparse = sums.capacity() > 1024 && sums.len() < sums.capacity() / 16;
    out.extend(sums.drain().map(|(key, sum)| sum.record(pair(key))));
    if sparse {
        sums.shrink_to(sums.capacity() / 4);
    }
}

#[cfg(test)]
#[path = "aggregate_tests.rs"]
mod tests;
