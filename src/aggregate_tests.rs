//! Sums by bucket and pair against those of a plain map, for packets in any order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn v4(last: u8) -> Pair {
    Pair::V4([192, 0, 2, last].into(), [198, 51, 100, 1].into())
}

fn record(time_ms: u64, pair: Pair, bytes: i64) -> Record {
    Record { time_ms, pair, volume: Volume::new(bytes, 1) }
}

/// Folds records of packets, and returns the records of their buckets.
fn folded(aggregate: &mut Aggregate, records: &[Record]) -> Vec<Record> {
    let mut out = Vec::new();
    records.iter().for_each(|record| aggregate.add(record, &mut out));
    aggregate.end(&mut out);
    assert!(aggregate.is_empty());
    out
}

#[test]
fn packets_of_a_pair_and_bucket_make_one_record_with_the_last_time() {
    let mut aggregate = Aggregate::new(1000);
    let mut out = Vec::new();
    for at in [(5_000, 1), (5_999, 1), (5_998, 2), (5_400, 1)] {
        aggregate.add(&record(at.0, v4(at.1), 100), &mut out);
    }
    assert_eq!(out, []);
    assert_eq!((aggregate.len(), aggregate.open_until()), (2, Some(6000)));
    aggregate.add(&record(6_000, v4(1), 7), &mut out);
    let volume = Volume::new(300, 3);
    assert_eq!(out, [record(5_998, v4(2), 100), Record { time_ms: 5_999, pair: v4(1), volume }]);
    // A packet of the bucket before makes another record of it.
    out.clear();
    aggregate.add(&record(5_000, v4(1), 9), &mut out);
    aggregate.add(&record(6_500, v4(1), 1), &mut out);
    aggregate.end(&mut out);
    let volume = Volume::new(8, 2);
    assert_eq!(out, [record(5_000, v4(1), 9), Record { time_ms: 6_500, pair: v4(1), volume }]);
    assert_eq!(aggregate.open_until(), None);
}

#[test]
fn entries_of_unordered_packets_stay_below_their_maximum() {
    let mut aggregate = Aggregate::new(1000);
    aggregate.entries_max = 100;
    let mut out = Vec::new();
    for at in 0..10_000u64 {
        // Decreasing times, and a new pair for each packet.
        let pair = Pair::V6(u128::from(at).into(), 1u128.into());
        aggregate.add(&record(10_000_000 - at * 700, pair, 1), &mut out);
        assert!(aggregate.len() <= 100);
    }
    aggregate.end(&mut out);
    assert_eq!(out.len(), 10_000);
}

#[test]
fn sum_beyond_the_maximum_amount_is_split_into_records() {
    let mut aggregate = Aggregate::new(1000);
    let out = folded(&mut aggregate, &[record(1, v4(1), 1 << 39); 5]);
    let bytes: Vec<i64> = out.iter().map(|record| record.volume.bytes).collect();
    assert_eq!(bytes, [1 << 40, 1 << 40, 1 << 39]);
}

#[test]
fn greatest_time_has_a_bucket() {
    let mut aggregate = Aggregate::new(1000);
    let records = [record(u64::MAX, v4(1), 1), record(0, v4(1), 1)];
    assert_eq!(folded(&mut aggregate, &records), [records[1], records[0]]);
}

fn pairs() -> impl Strategy<Value = Pair> {
    prop_oneof![
        (0..4u8).prop_map(v4),
        (0..4u128).prop_map(|last| Pair::V6((last << 64 | 1).into(), 2u128.into())),
    ]
}

proptest! {
    #[test]
    fn sums_by_bucket_and_pair_equal_those_of_the_packets(
        packets in prop::collection::vec((0..20_000u64, pairs(), 20..1500i64), 0..300),
        bucket_ms in prop_oneof![Just(1u64), Just(500), Just(1000), Just(5000)],
        entries_max in 1..50usize,
    ) {
        let sums = |records: &[Record]| {
            let mut sums: BTreeMap<(u64, Pair), (Volume, u64)> = BTreeMap::new();
            for record in records {
                let bucket = record.time_ms / bucket_ms;
                let (sum, last) = sums.entry((bucket, record.pair)).or_default();
                *sum = sum.checked_add(record.volume).expect("small numbers");
                *last = record.time_ms.max(*last);
            }
            sums
        };
        let packets: Vec<Record> =
            packets.into_iter().map(|(time, pair, bytes)| record(time, pair, bytes)).collect();
        let mut aggregate = Aggregate::new(bucket_ms);
        aggregate.entries_max = entries_max;
        let out = folded(&mut aggregate, &packets);
        prop_assert_eq!(sums(&out), sums(&packets));
        prop_assert!(out.len() <= packets.len());
    }
}
