//! The layout is frozen, packed records are read back, and damaged messages are rejected.

use floodmark_dataflows::types::Volume;
use proptest::prelude::*;

use super::super::{Decoder, Format, Message, Observation};
use super::*;

fn record(time_ms: u64, source: &str, destination: &str, bytes: i64, packets: i64) -> Record {
    let address = |text: &str| text.parse().expect("an address");
    let pair = Pair::new(address(source), address(destination)).expect("one family");
    Record { time_ms, pair, volume: Volume::new(bytes, packets) }
}

fn pack(records: &[Record]) -> Packed {
    let mut packer = Packer::new();
    for record in records {
        packer.push(record).expect("a volume that a record may have");
    }
    packer.take().expect("there are records")
}

fn unpack(payload: &[u8]) -> Result<Vec<Record>, RecordError> {
    let mut records = Vec::new();
    let message = Message { key: None, payload: Some(payload), timestamp_ms: None };
    let format = Decoder::default().decode(&message, &mut |read| match read {
        Observation::Record(record) => records.push(record),
        other => panic!("no record: {other:?}"),
    })?;
    assert_eq!(format, Some(Format::Packed));
    Ok(records)
}

fn seal(payload: &mut [u8]) {
    let checksum = checksum(payload);
    payload[CHECKSUM_AT..HEADER].copy_from_slice(&checksum.to_le_bytes());
}

fn three() -> [Record; 3] {
    [
        record(1_700_000_000_123, "10.0.0.1", "10.0.0.2", 1500, 1),
        record(1_700_000_000_100, "2001:db8::1", "2001:db8::2", 1 << 40, 1),
        record(1_700_000_000_456, "192.0.2.7", "192.0.2.8", 0, 1),
    ]
}

#[test]
fn layout_of_version_1_is_frozen() {
    // Made from the description in docs/records.md, by another program.
    let frozen = "\
        ff464d52010208006468e5cf8b01000000000000000000000100000000000000 \
        0200000001000000cbe5000f170064010000dc05000000000000000000000000 \
        000000000000000100000a000001c000020720010db800000000000000000000 \
        00010a000002c000020820010db8000000000000000000000002";
    let packed = pack(&three());
    let hex: String = packed.payload.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, frozen.replace(char::is_whitespace, ""));
    assert_eq!((packed.greatest_ms, packed.records), (1_700_000_000_456, 3));
    let [first, second, third] = three();
    assert_eq!(unpack(&packed.payload), Ok(vec![first, third, second]));
}

#[test]
fn full_message_of_widest_values_has_exactly_bytes_max() {
    let mut packer = Packer::new();
    assert!(packer.take().is_none());
    let wide = record(u64::MAX, "::1", "::2", AMOUNT_MAX as i64, AMOUNT_MAX as i64);
    packer.push(&record(0, "::1", "::2", 0, 1)).unwrap();
    while !packer.is_full() {
        packer.push(&wide).unwrap();
    }
    let packed = packer.take().unwrap();
    assert_eq!(packed.payload.len(), Packer::BYTES_MAX);
    const { assert!(Packer::BYTES_MAX < 900_000) };
    assert_eq!(unpack(&packed.payload).unwrap().len(), Packer::RECORDS_MAX);
    assert!(packer.is_empty());
    // The next message has no records of the last one.
    packer.push(&three()[0]).unwrap();
    assert_eq!(packer.take(), Some(pack(&three()[..1])));
}

#[test]
fn record_with_an_invalid_volume_is_rejected_by_the_packer() {
    let mut packer = Packer::new();
    for (bytes, packets, reason) in [
        (40, 0, RecordError::NoPackets),
        ((1 << 40) + 1, 1, RecordError::TooLarge),
        (40, (1 << 40) + 1, RecordError::TooLarge),
        (-1, 1, RecordError::BadNumber { field: "volume" }),
        (40, -1, RecordError::BadNumber { field: "volume" }),
    ] {
        assert_eq!(packer.push(&record(0, "::1", "::2", bytes, packets)), Err(reason));
    }
    assert!(packer.is_empty());
}

#[test]
fn damaged_or_cut_message_is_rejected() {
    let whole = pack(&three()).payload;
    for end in 4..whole.len() {
        assert_eq!(unpack(&whole[..end]), Err(RecordError::PackedLength), "cut to {end}");
    }
    let longer = [&whole[..], &[0]].concat();
    assert_eq!(unpack(&longer), Err(RecordError::PackedLength));
    for at in MAGIC.len()..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            let expected = match at {
                VERSION_AT => RecordError::PackedVersion { version: damaged[at] },
                WIDTHS_AT..BASES_AT | V4_COUNT_AT..CHECKSUM_AT => RecordError::PackedLength,
                _ => RecordError::PackedChecksum,
            };
            assert_eq!(unpack(&damaged), Err(expected), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn column_value_out_of_range_affects_only_its_record() {
    let reads = |payload: &[u8]| {
        let mut reads = Vec::new();
        let message = Message { key: None, payload: Some(payload), timestamp_ms: None };
        Decoder::default().decode(&message, &mut |read| reads.push(read)).map(|_| reads)
    };
    let base = |column: usize, value: u64| {
        let mut payload = pack(&three()).payload;
        let at = BASES_AT + 8 * column;
        payload[at..at + 8].copy_from_slice(&value.to_le_bytes());
        seal(&mut payload);
        reads(&payload).expect("a whole message")
    };
    // The times are 23, 356 and 0 above the base, the bytes 1500, 0 and 2^40.
    let [first, second, third] =
        base(0, u64::MAX - 23).try_into().expect("one observation for each record");
    assert!(matches!(first, Observation::Record(Record { time_ms: u64::MAX, .. })), "{first:?}");
    let Observation::Bad(reason @ RecordError::BadTime { .. }) = second else {
        panic!("{second:?}")
    };
    assert!(reason.to_string().contains("beyond 64 bits"), "{reason}");
    assert!(matches!(third, Observation::Record(_)), "{third:?}");
    let bad = |reads: &[Observation]| {
        reads.iter().filter(|read| **read == Observation::Bad(RecordError::TooLarge)).count()
    };
    assert_eq!(bad(&base(1, 1)), 1);
    assert_eq!(bad(&base(1, u64::MAX)), 3);
    // Bytes without packets count as one packet; a record without both is skipped.
    let [first, second, third] = base(2, 0).try_into().expect("one for each record");
    assert!(matches!(
        first,
        Observation::WithoutPackets(Record { volume: Volume { bytes: 1500, packets: 1 }, .. })
    ));
    assert_eq!(second, Observation::Skipped(Skip::NoTraffic));
    assert!(matches!(third, Observation::WithoutPackets(_)), "{third:?}");
}

#[test]
fn record_count_beyond_the_message_is_rejected() {
    let mut payload = pack(&three()).payload;
    payload[V4_COUNT_AT..CHECKSUM_AT].fill(0xff);
    seal(&mut payload);
    assert_eq!(unpack(&payload), Err(RecordError::PackedLength));
    payload[WIDTHS_AT..BASES_AT].fill(0);
    seal(&mut payload);
    assert_eq!(unpack(&payload), Err(RecordError::PackedLength));
    // A message without records is valid.
    payload.truncate(HEADER);
    payload[V4_COUNT_AT..CHECKSUM_AT].fill(0);
    seal(&mut payload);
    assert_eq!(unpack(&payload), Ok(Vec::new()));
}

fn any_record() -> impl Strategy<Value = Record> {
    let pair = prop_oneof![
        any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(source, to)| Pair::V4(source, to)),
        any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(source, to)| Pair::V6(source, to)),
    ];
    let amount = |least: i64| prop_oneof![least..=1500, least..=AMOUNT_MAX as i64];
    let time = prop_oneof![1_700_000_000_000..1_700_000_001_000u64, any::<u64>()];
    (time, pair, amount(0), amount(1)).prop_map(|(time_ms, pair, bytes, packets)| Record {
        time_ms,
        pair,
        volume: Volume::new(bytes, packets),
    })
}

proptest! {
    #[test]
    fn packed_records_are_read_back(records in prop::collection::vec(any_record(), 1..200)) {
        let packed = pack(&records);
        let is_v4 = |record: &&Record| matches!(record.pair, Pair::V4(..));
        let (mut expected, v6): (Vec<Record>, Vec<Record>) =
            records.iter().partition(is_v4);
        expected.extend(v6);
        prop_assert_eq!(packed.records, records.len());
        prop_assert_eq!(Some(packed.greatest_ms), records.iter().map(|it| it.time_ms).max());
        prop_assert_eq!(unpack(&packed.payload), Ok(expected));
    }

    /// Random columns under a valid header.
    #[test]
    fn any_columns_yield_one_observation_per_record(
        widths in prop::array::uniform3(prop::sample::select(vec![0u8, 1, 2, 4, 8])),
        bases in any::<[u64; 3]>(),
        v4 in 0u32..20,
        v6 in 0u32..20,
        noise: u64,
    ) {
        let mut payload = [&MAGIC[..], &[VERSION], &widths].concat();
        bases.iter().for_each(|base| payload.extend(base.to_le_bytes()));
        payload.extend(v4.to_le_bytes());
        payload.extend(v6.to_le_bytes());
        let size = size(widths, v4.into(), v6.into()).expect("small") as usize;
        let mut state = noise | 1;
        payload.resize_with(size, || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        seal(&mut payload);
        let mut count = 0;
        let message = Message { key: None, payload: Some(&payload), timestamp_ms: None };
        let read = Decoder::default().decode(&message, &mut |_| count += 1);
        prop_assert_eq!(read, Ok(Some(Format::Packed)));
        prop_assert_eq!(count, v4 + v6);
    }
}
