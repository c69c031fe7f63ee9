//! `floodmark convert`, run as a user runs it.
//!
//! - `topics`: from a topic to another one or a file, also in parts and through outages.
//! - `changing`: topics with open transactions, and topics that are deleted and created again.
//! - `files`: captures and texts.
//! - `exits`: rejected arguments, and exit codes.

mod changing;
mod exits;
mod files;
mod topics;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use floodmark::kafka::{Address, Outgoing};
use floodmark::record::{Decoder, Message, Observation, Options, Record};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::common::broker::{Received, STUCK_AFTER, produce, read_all};

/// 2026-01-01.
const START_MS: u64 = 1_767_225_600_000;

/// Returns flow `number` as pmacct writes it, with its spacing and order of fields.
fn pmacct(number: u64) -> String {
    let (a, b) = (number % 7, number / 7 % 11);
    let mut line = String::new();
    let (packets, bytes) = (number % 5 + 1, 40 * (number % 5 + 1) + number);
    let end_ms = START_MS + 100 * number;
    write!(
        line,
        "{{\"event_type\": \"purge\", \"ip_src\": \"10.0.0.{a}\", \"ip_dst\": \"10.1.0.{b}\", \
         \"port_src\": {}, \"port_dst\": 443, \"tcp_flags\": \"24\", \"ip_proto\": \"tcp\", \"tos\": 0, \
         \"timestamp_start\": \"{}.{:06}\", \"timestamp_end\": \"{}.{:06}\", \"packets\": {packets}, \
         \"bytes\": {bytes}, \"writer_id\": \"default_kafka/{number}\"}}",
        1024 + number,
        end_ms / 1000 - 1,
        0,
        end_ms / 1000,
        end_ms % 1000 * 1000,
    )
    .expect("memory");
    line
}

fn lines(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(pmacct).collect()
}

/// Sends the lines round-robin to this number of partitions.
fn send(topic: &Address, lines: &[String], partitions: i32) {
    let message = |(at, line): (usize, &'_ String)| (at as i32 % partitions, line.clone());
    let messages: Vec<(i32, String)> = lines.iter().enumerate().map(message).collect();
    let outgoing: Vec<Outgoing<'_>> = messages
        .iter()
        .map(|(partition, line)| Outgoing {
            payload: Some(line.as_bytes()),
            partition: Some(*partition),
            ..Outgoing::default()
        })
        .collect();
    produce(topic, &outgoing);
}

/// Commits an offset of partition 0 for a group, with metadata.
fn commit(topic: &Address, group: &str, offset: i64, metadata: &str) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &topic.brokers)
        .set("group.id", group)
        .create()
        .expect("a consumer");
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&topic.topic, 0, Offset::Offset(offset)).expect("an offset");
    let mut first = offsets.find_partition(&topic.topic, 0).expect("it was added");
    first.set_metadata(metadata);
    consumer.commit(&offsets, CommitMode::Sync).expect("committed");
}

/// Returns the records of messages, sorted. All must be valid.
fn records<'a>(messages: impl IntoIterator<Item = &'a Received>) -> Vec<Record> {
    let decoder = Decoder::new(Options::default());
    let mut records = Vec::new();
    for received in messages {
        let message = Message {
            key: received.key.as_deref(),
            payload: received.payload.as_deref(),
            timestamp_ms: received.timestamp_ms.map(|ms| ms as u64),
        };
        let decoded = decoder.decode(&message, &mut |read| match read {
            Observation::Record(record) => records.push(record),
            other => panic!("{other:?} in {received:?}"),
        });
        decoded.unwrap_or_else(|reason| panic!("{reason} in {received:?}"));
    }
    records.sort_unstable();
    records
}

/// Returns the records of lines, sorted.
fn records_of(lines: &[String]) -> Vec<Record> {
    let received = |line: &String| Received {
        partition: 0,
        offset: 0,
        timestamp_ms: None,
        key: None,
        payload: Some(line.clone().into_bytes()),
    };
    records(&lines.iter().map(received).collect::<Vec<_>>())
}

/// Returns the number of occurrences of each text.
fn counted<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for text in texts {
        *counted.entry(text.as_ref().to_owned()).or_default() += 1;
    }
    counted
}

/// Waits until a topic has at least `count` messages, and returns them.
fn wait_for(topic: &Address, count: usize) -> Vec<Received> {
    let started = Instant::now();
    loop {
        let received = read_all(topic);
        if received.len() >= count {
            return received;
        }
        let found = received.len();
        assert!(started.elapsed() < STUCK_AFTER, "stuck at {found} of {count} in {topic}");
    }
}
