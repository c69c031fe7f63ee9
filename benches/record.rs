//! What does a record cost to read from a message, in each format?
//!
//! `cargo bench --bench record` prints a line of CSV per format: nanoseconds of wall time a record, the
//! best and the median of 15 rounds, and the bytes of value (and key) that a record takes. Best and
//! median lie far apart if something else has the processor. The traffic is made up: 100,000 pairs,
//! three quarters of IPv4, a packet every ten microseconds.
//!
//! The bound of `packed` is the memory: 10 to 40 bytes a record, and a checksum over them. That of `kv`
//! is the parsing of two addresses; those of the JSON dialects, going through the text once.

use std::hint::black_box;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use floodmark::record::{Decoder, Message, Packer, Read, Record, write_json, write_kv};
use floodmark_dataflows::types::{Pair, Volume};

const RECORDS: usize = 160_000;
const ROUNDS: usize = 15;
const PAIRS: u64 = 100_000;
const START_MS: u64 = 1_700_000_000_000;

fn main() -> io::Result<()> {
    let records = traffic();
    let mut out = io::stdout().lock();
    writeln!(out, "format,best_ns,median_ns,bytes_per_record")?;
    measure(&mut out, "packed", &packed(&records))?;
    measure(&mut out, "kv", &each(&records, write_kv))?;
    measure(&mut out, "json", &each(&records, write_json))?;
    measure(&mut out, "pmacct", &each(&records, write_pmacct))?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        black_box(packed(black_box(&records)));
        rounds.push(begin.elapsed().as_nanos() as f64 / RECORDS as f64);
    }
    report(&mut out, "packing", rounds, 0.0)
}

/// A key and a value, and how many records are in them.
type Sample = (Vec<u8>, Vec<u8>);

fn traffic() -> Vec<Record> {
    let mut state = 1u64;
    let mut random = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let record = |index: usize| {
        let (pair, kind) = (random() % PAIRS, random() % 4);
        let (source, destination) = (pair as u32 / 64, pair as u32 % 64);
        let pair = match kind {
            0 => {
                let address =
                    |host: u32| Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(host) << 16 | 1);
                Pair::V6(address(source), address(destination))
            }
            _ => Pair::V4(
                Ipv4Addr::from(0x0a00_0000 + source),
                Ipv4Addr::from(0xc0a8_0000 + destination),
            ),
        };
        let bytes = if random() % 2 == 0 { 1500 } else { 40 + random() % 1400 };
        let volume = Volume::new(bytes as i64, 1);
        Record { time_ms: START_MS + index as u64 / 100, pair, volume }
    };
    (0..RECORDS).map(record).collect()
}

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

/// As pmacct writes a flow with the fields of NetFlow version 5.
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

fn measure(out: &mut impl Write, format: &str, messages: &[Sample]) -> io::Result<()> {
    let decoder = Decoder::default();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (mut records, mut sum) = (0, 0);
        let begin = Instant::now();
        for (key, payload) in messages {
            let message = Message { key: Some(key), payload, timestamp_ms: Some(START_MS) };
            let read = decoder.decode(&message, &mut |read| match read {
                Read::Record(record) => {
                    records += 1;
                    sum += record.volume.bytes;
                    // Measuring must not let the compiler leave out what nobody looks at.
                    black_box(record);
                }
                other => panic!("{format}: {other:?}"),
            });
            black_box(read).expect("a message that was just written");
        }
        let elapsed = begin.elapsed().as_nanos() as f64;
        black_box(sum);
        assert_eq!(records, RECORDS, "{format}");
        rounds.push(elapsed / RECORDS as f64);
    }
    let bytes: usize = messages.iter().map(|(key, payload)| key.len() + payload.len()).sum();
    report(out, format, rounds, bytes as f64 / RECORDS as f64)
}

fn report(out: &mut impl Write, name: &str, mut rounds: Vec<f64>, bytes: f64) -> io::Result<()> {
    rounds.sort_by(f64::total_cmp);
    writeln!(out, "{name},{:.1},{:.1},{bytes:.1}", rounds[0], rounds[rounds.len() / 2])
}
