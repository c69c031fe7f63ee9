//! The cost of each part by itself.
//!
//! Reading and decoding frames of each kind, folding records, packed messages and those of other formats,
//! rows of limits, and changes as JSON. A part that has become slower shows here even if it is lost in the
//! noise of a whole run. The bound of `packed` is memory bandwidth: 10 to 40 bytes a record, and a checksum over
//! them. That of `kv` is the parsing of two addresses; those of the JSON dialects, one pass over the text.
//! Bytes a second are those of the input.
//!
//! `cargo bench --bench parts [-- FILTER]`

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use floodmark::capture::Reader;
use floodmark::limits::catalog::{Catalog, LimitSet};
use floodmark::limits::{json, rows::Defaults};
use floodmark::output::lines::ChangeLines;
use floodmark::record::{Decoder, Message, Packer, Record, write_json, write_kv};
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::{
    Bound, Change, Entity, Event, Metric, Pair, Reason, Violation, Volume,
};

const RECORDS: usize = 10_000;
const PAIRS: u64 = 100_000;
const START_MS: u64 = 1_700_000_000_000;

fn main() {
    divan::main();
}

/// Generates records: three quarters IPv4, one every ten microseconds.
fn traffic() -> Vec<Record> {
    let mut state = 1u64;
    let mut random = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let record = |index: usize| {
        let (pair, v6) = (random() % PAIRS, random() % 4 == 0);
        let pair = pair_number(pair as u32, v6);
        let bytes = if random() % 2 == 0 { 1500 } else { 40 + random() % 1400 };
        let volume = Volume::new(bytes as i64, 1);
        Record { time_ms: START_MS + index as u64 / 100, pair, volume }
    };
    (0..RECORDS).map(record).collect()
}

fn pair_number(number: u32, v6: bool) -> Pair {
    let (source, destination) = (number / 64, number % 64);
    if v6 {
        let address = |host: u32| (0x2001_0db8_u128 << 96 | u128::from(host) << 16 | 1).into();
        return Pair::V6(address(source), address(destination));
    }
    Pair::V4((0x0a00_0000 + source).into(), (0xc0a8_0000 + destination).into())
}

mod frames {
    use super::*;

    /// Returns a capture of Ethernet frames that begin with these bytes after the addresses.
    fn capture(packet: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 96, 1] {
            file.extend(word.to_le_bytes());
        }
        let length = 12 + packet.len() as u32;
        for second in 0..RECORDS as u32 {
            for word in [second, 0, length, length] {
                file.extend(word.to_le_bytes());
            }
            file.extend([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
            file.extend(packet);
        }
        file
    }

    const V4: [u8; 30] = [
        0x08, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7, 0xc3, 0x50,
        1, 0xbb, 0, 8, 0, 0,
    ];

    fn v6() -> Vec<u8> {
        let mut packet = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64];
        packet.extend(0x2001_0db8_u128.rotate_left(96).to_be_bytes());
        packet.extend((0x2001_0db8_u128.rotate_left(96) | 1).to_be_bytes());
        packet.extend([0xc3, 0x50, 1, 0xbb, 0, 8, 0, 0]);
        packet
    }

    fn vlan() -> Vec<u8> {
        [&[0x81, 0, 0, 5], &V4[..]].concat()
    }

    #[divan::bench(args = ["ipv4", "ipv6", "vlan"])]
    fn read_and_decode(bencher: Bencher<'_, '_>, kind: &str) {
        let file: &[u8] = capture(&match kind {
            "ipv4" => V4.to_vec(),
            "ipv6" => v6(),
            _ => vlan(),
        })
        .leak();
        bencher
            .counter(ItemsCount::new(RECORDS))
            .counter(BytesCount::of_slice(file))
            .with_inputs(|| Reader::from_read("frames", Box::new(file)))
            .bench_values(|mut reader| {
                let mut packets = 0;
                while let Some(packet) = reader.next().expect("whole frames") {
                    black_box(packet);
                    packets += 1;
                }
                assert_eq!(packets, RECORDS);
            });
    }
}

mod folding {
    use super::*;

    /// With few pairs, and with nearly as many pairs as records.
    #[divan::bench(args = [100, 100_000])]
    fn add(bencher: Bencher<'_, '_>, pairs: u32) {
        let mut records = traffic();
        for (record, number) in records.iter_mut().zip((0..).step_by(7919)) {
            record.pair = pair_number(number % pairs, false);
        }
        let mut combiner = Combiner::new(1);
        bencher.counter(ItemsCount::new(RECORDS)).bench_local(|| {
            for record in &records {
                combiner.add(Window(0), record.pair, record.volume);
            }
            combiner.take()
        });
    }

    #[divan::bench(args = [1, 4])]
    fn take(bencher: Bencher<'_, '_>, workers: usize) {
        let records = traffic();
        let folded = || {
            let mut combiner = Combiner::new(workers);
            for record in &records {
                combiner.add(Window(0), record.pair, record.volume);
            }
            combiner
        };
        bencher
            .counter(ItemsCount::new(RECORDS))
            .with_inputs(folded)
            .bench_local_values(|mut combiner| (combiner.take(), combiner));
    }
}

mod messages {
    use super::*;

    /// A key and a value.
    type Sample = (Vec<u8>, Vec<u8>);

    fn packed(records: &[Record]) -> Vec<Sample> {
        let mut messages = Vec::new();
        let mut packer = Packer::new();
        for record in records {
            packer.push(record).expect("a volume that a record may have");
            if packer.is_full() {
                messages.extend(packer.take().map(|packed| (Vec::new(), packed.payload)));
            }
        }
        messages.extend(packer.take().map(|packed| (Vec::new(), packed.payload)));
        messages
    }

    fn each(records: &[Record], write: fn(&Record, &mut Vec<u8>, &mut Vec<u8>)) -> Vec<Sample> {
        let message = |record| {
            let (mut key, mut value) = (Vec::new(), Vec::new());
            write(record, &mut key, &mut value);
            (key, value)
        };
        records.iter().map(message).collect()
    }

    /// Writes a record like pmacct does a flow with the fields of NetFlow version 5.
    fn write_pmacct(record: &Record, _: &mut Vec<u8>, value: &mut Vec<u8>) {
        let ms = record.time_ms % 1000;
        let text = format!(
            "{{\"event_type\": \"purge\", \"as_src\": 64496, \"as_dst\": 64511, \"iface_in\": 654, \
             \"ip_src\": \"{}\", \"ip_dst\": \"{}\", \"port_src\": 5242, \"port_dst\": 54764, \
             \"tcp_flags\": \"27\", \"ip_proto\": \"tcp\", \"tos\": 0, \"sampling_rate\": 1, \
             \"timestamp_start\": \"2023-11-14 22:13:19.592000\", \
             \"timestamp_end\": \"2023-11-14 22:13:20.{ms:03}000\", \
             \"timestamp_arrival\": \"2023-11-14 22:13:40.288540\", \
             \"packets\": {}, \"bytes\": {}, \"writer_id\": \"default_kafka/24194\"}}",
            record.pair.source(),
            record.pair.destination(),
            record.volume.packets,
            record.volume.bytes,
        );
        value.extend(text.into_bytes());
    }

    #[divan::bench(args = ["packed", "kv", "json", "pmacct"])]
    fn decode(bencher: Bencher<'_, '_>, format: &str) {
        let records = traffic();
        let messages = match format {
            "packed" => packed(&records),
            "kv" => each(&records, write_kv),
            "json" => each(&records, write_json),
            _ => each(&records, write_pmacct),
        };
        let bytes: usize = messages.iter().map(|(key, payload)| key.len() + payload.len()).sum();
        let decoder = Decoder::default();
        bencher.counter(ItemsCount::new(RECORDS)).counter(BytesCount::new(bytes)).bench_local(
            || {
                let mut count = 0;
                for (key, payload) in &messages {
                    let payload = Some(&payload[..]);
                    let message = Message { key: Some(key), payload, timestamp_ms: Some(START_MS) };
                    let mut count_read = |read| {
                        black_box(read);
                        count += 1;
                    };
                    decoder
                        .decode(&message, &mut count_read)
                        .expect("a message that was just written");
                }
                assert_eq!(count, RECORDS);
            },
        );
    }

    #[divan::bench]
    fn pack(bencher: Bencher<'_, '_>) {
        let records = traffic();
        bencher.counter(ItemsCount::new(RECORDS)).bench(|| packed(black_box(&records)));
    }
}

/// Returns rows of limits, one a line, each for a network of its own.
fn limits(count: usize) -> String {
    let row = |n: usize| {
        format!(
            "{{\"limit_name\":\"limit-{n}\",\"limit_value\":1{n:06},\"effective_date\":\"2026-01-01\",\
             \"source\":\"10.{}.{}.0/24\"}}\n",
            n / 256 % 256,
            n % 256
        )
    };
    (0..count).map(row).collect()
}

/// From the text of a file to accepted rows.
#[divan::bench(args = [1, 10_000])]
fn read_limits(bencher: Bencher<'_, '_>, count: usize) {
    let text = limits(count);
    bencher.counter(ItemsCount::new(count)).counter(BytesCount::of_str(&text)).bench(|| {
        let table = json::read(black_box(text.as_bytes()), Defaults::default());
        table.expect("rows that were just written")
    });
}

#[divan::bench]
fn write_change(bencher: Bencher<'_, '_>) {
    let table = json::read(limits(1).as_bytes(), Defaults::default()).expect("a row");
    let mut catalog = Catalog::new();
    let versions = catalog.versions(LimitSet::Live, table.held());
    let version = versions.first().expect("the row is a version");
    let change = Change {
        event: Event::Raised,
        reason: Reason::Data,
        violation: Violation {
            limit: version.limit,
            window: Window(START_MS / 1000 / 300 * 300),
            entity: Entity::Pair(pair_number(7, false)),
            volume: Volume::new(1_003_502, 1563),
        },
        bound: Bound::Max,
        metric: Metric::Bytes,
        version: Some(version.id),
        settled: false,
        partial: false,
    };
    let (mut out, windows) = (Vec::new(), Windows::default());
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        out.clear();
        ChangeLines::new(&catalog, &windows)
            .write(&mut out, START_MS, black_box(&change))
            .expect("writing to memory");
        out.len()
    });
}
