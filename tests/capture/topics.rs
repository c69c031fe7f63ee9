//! Records to a topic: all arrive in every format, and an outage loses none without counting it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use floodmark::kafka::Address;
use floodmark::kafka::topics::Plan;
use floodmark::record::{Decoder, Message, Options, Record};
use floodmark_dataflows::types::Volume;

use super::wire::{Wire, frame};
use super::{decode, expected, sums};
use crate::common::broker::{Broker, Received, STUCK_AFTER, random_name, read_all};
use crate::common::{captures, data, now_ms};
use crate::replay::pcap::{packet, pcap};
use crate::replay::pipes::PipeFeed;
use crate::replay::run::{Place, SignalTarget};

/// Returns the records of messages. Each message's timestamp must be the greatest time of its records.
fn records(messages: &[Received]) -> Vec<Record> {
    let mut decoder = Decoder::new(Options::default());
    let mut all = Vec::new();
    for message in messages {
        let mut records = Vec::new();
        let timestamp_ms = message.timestamp_ms.map(|ms| ms as u64);
        let payload = message.payload.as_deref().expect("a payload");
        let read = Message { key: message.key.as_deref(), payload: Some(payload), timestamp_ms };
        decode(&mut decoder, &read, &mut records);
        assert_eq!(records.iter().map(|record| record.time_ms).max(), timestamp_ms);
        all.extend(records);
    }
    all
}

fn total(records: &[Record]) -> Volume {
    records.iter().fold(Volume::default(), |sum, record| {
        sum.checked_add(record.volume).expect("small numbers")
    })
}

/// Waits until a topic has a message.
fn wait_for_one(address: &Address) {
    let began = Instant::now();
    while read_all(address).is_empty() {
        assert!(began.elapsed() < STUCK_AFTER, "nothing came to {address}");
    }
}

fn to(address: &Address) -> String {
    format!("--to {address}")
}

#[test]
fn every_record_arrives_in_every_format() {
    let place = Place::new();
    for (path, csv) in captures(&data(), "captures").iter().step_by(6) {
        for options in ["", "--aggregate off", "--format json", "--format kv"] {
            let address = Broker::shared().topic("flows", 4);
            let line = format!("capture {} {options}", to(&address));
            let done = place.floodmark(&line).arg(path).run().expect(0);
            let messages = read_all(&address);
            let sent = records(&messages);
            assert_eq!(sums(&sent), expected(csv), "{} {options}", path.display());
            let keyed = options.contains("--format");
            assert!(messages.iter().all(|message| message.key.is_some() == keyed));
            let bytes: usize = messages
                .iter()
                .map(|message| {
                    let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
                    len(&message.key) + len(&message.payload)
                })
                .sum();
            let count = messages.len();
            done.assert_stderr(&[&format!("{count} messages, {bytes} bytes")]);
            assert!(keyed || count <= 4, "{count} messages");
        }
    }
}

#[test]
fn records_of_a_pair_stay_in_one_partition() {
    let place = Place::new();
    let packets: Vec<_> = (0..2000)
        .map(|at| packet(1_000 + at, "10.0.0.1", &format!("10.0.0.{}", at % 50), 100))
        .collect();
    place.write("a.pcap", pcap(&packets));
    let address = Broker::shared().topic("flows", 4);
    let line = format!("capture a.pcap --format kv {}", to(&address));
    place.floodmark(&line).run().expect(0);
    let mut messages = read_all(&address);
    assert_eq!(messages.len(), 2000);
    messages.sort_by(|one, other| one.key.cmp(&other.key));
    for same in messages.chunk_by(|one, other| one.key == other.key) {
        assert!(same.iter().all(|message| message.partition == same[0].partition));
    }
    assert!(messages.iter().any(|message| message.partition != messages[0].partition));
}

#[test]
fn packed_messages_go_to_all_partitions_in_turn() {
    let place = Place::new();
    let load = place.path("load.pcap");
    let line = format!("generate --packets 200k --pairs 1000 --span 10m {}", load.display());
    place.floodmark(&line).run().expect(0);
    let address = Broker::shared().topic("flows", 4);
    place.floodmark(&format!("capture load.pcap --aggregate off {}", to(&address))).run().expect(0);
    let mut messages = read_all(&address);
    assert!(messages.len() > 8, "{} messages", messages.len());
    // By time, each partition follows once in every round.
    messages.sort_by_key(|message| message.timestamp_ms);
    let partitions: Vec<i32> = messages.iter().map(|message| message.partition).collect();
    let (first, all) = (partitions[0], partitions.len() as i32);
    assert_eq!(partitions, (first..first + all).map(|turn| turn % 4).collect::<Vec<_>>());
}

/// Options with a small producer and a small queue, which fill up soon.
const SMALL: &str = "--queue 64KiB -X queue.buffering.max.messages=1000";

/// One broker for all of them, since a broker takes seconds to start. Each needs it running; the last one leaves it
/// stopped.
#[test]
fn outages_lose_no_packet_without_counting_it() {
    let broker = Broker::own();
    check_outage_with_input_from_a_file(&broker);
    check_outage_with_input_from_an_interface(&broker);
    check_second_interrupt_in_an_outage(&broker);
}

fn check_outage_with_input_from_a_file(broker: &Broker) {
    const PACKETS: usize = 200_000;
    let place = Place::new();
    let address = broker.topic("flows", 4);
    let pipe = place.fifo("pipe");
    // Each packet is a bucket and a message of its own: more than all queues hold.
    let line = format!("capture pipe --format json --aggregate 1ms {SMALL} {}", to(&address));
    let mut run = place.floodmark(&line).start();
    let mut feed = PipeFeed::open(&pipe);
    feed.packet(packet(1_000, "10.0.0.1", "10.0.0.2", 100));
    // The producer is connected once the first message has arrived.
    wait_for_one(&address);
    broker.stop();
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let writer = std::thread::spawn(move || {
        for at in 0..PACKETS {
            let one = packet(2_000 + at as u64 / 100, "10.0.0.1", "10.0.0.2", 100);
            feed.packet(one);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    run.wait_for("no broker can be reached; records wait");
    let before = written.load(Ordering::SeqCst);
    broker.start();
    writer.join().expect("all is written");
    let done = run.finish().expect(0);
    assert!(before < PACKETS);
    let sent = records(&read_all(&address));
    let all = PACKETS as i64 + 1;
    assert_eq!(total(&sent), Volume::new(all * 100, all));
    done.assert_stderr(&[
        &format!("counted {all} of {all} frames"),
        "a broker can be reached again",
    ]);
}

fn check_second_interrupt_in_an_outage(broker: &Broker) {
    let place = Place::new();
    let address = broker.topic("flows", 1);
    let pipe = place.fifo("pipe");
    let mut run = place.floodmark(&format!("capture pipe {}", to(&address))).start();
    let mut feed = PipeFeed::open(&pipe);
    feed.packet(packet(1_000, "10.0.0.1", "10.0.0.2", 100));
    wait_for_one(&address);
    broker.stop();
    feed.packet(packet(9_000, "10.0.0.1", "10.0.0.2", 100));
    run.signal("INT", SignalTarget::Parent);
    run.wait_for("waiting until all records are delivered");
    run.signal("INT", SignalTarget::Parent);
    run.finish().expect(130);
    drop(feed);
}

fn check_outage_with_input_from_an_interface(broker: &Broker) {
    let Some(wire) = Wire::new() else { return };
    let place = Place::new();
    let address = broker.topic("flows", 4);
    // The capture runs at this end, where the broker is; it also captures the packets that this end sends.
    let interface = wire.here();
    let line = format!("capture -i {interface} --format json --aggregate off {SMALL}");
    let mut run = place.floodmark(&format!("{line} {}", to(&address))).start();
    run.wait_for("capturing on");
    let mut sender = wire.sender();
    sender.sendpacket(frame(0)).expect("sending a frame");
    wait_for_one(&address);
    broker.stop();
    for at in 0..20_000 {
        sender.sendpacket(frame(at)).expect("sending a frame");
    }
    run.wait_for("the queue to the output was full");
    broker.start();
    run.signal("INT", SignalTarget::Parent);
    let done = run.finish().expect(0).assert_stderr(&["counted 20001 of 20001 frames"]);
    let arrived = total(&records(&read_all(&address))).packets;
    let last = done.stderr.lines().rfind(|line| line.contains("dropped so far")).expect("a line");
    let words: Vec<&str> = last.split(' ').collect();
    let at = words.iter().position(|word| *word == "packets").expect("a number of packets");
    let dropped: i64 = words[at - 1].parse().expect("a number");
    assert!(arrived > 1000 && dropped > 0, "{last}");
    assert_eq!(arrived + dropped, 20_001, "{last}");
}

/// Writes a capture of 2001, and one of 2100.
fn old_and_new(place: &Place) {
    place.write("old.pcap", pcap(&[packet(1_000_000_000_000, "10.0.0.1", "10.0.0.2", 100)]));
    place.write("new.pcap", pcap(&[packet(4_102_444_800_000, "10.0.0.1", "10.0.0.2", 100)]));
}

#[test]
fn records_that_a_topic_would_lose_are_not_sent() {
    let place = Place::new();
    old_and_new(&place);
    let broker = Broker::shared();
    let with = |name, value: &str| {
        let mut plan = Plan::flows(1);
        plan.config.push((name, value.to_owned()));
        broker.topic_with("unfit", &plan)
    };
    let cases = [
        ("old.pcap", "retention.ms", "3600000"),
        ("old.pcap", "message.timestamp.before.max.ms", "3600000"),
        ("new.pcap", "message.timestamp.after.max.ms", "3600000"),
        ("old.pcap --format json", "retention.ms", "86400000"),
    ];
    for (words, name, value) in cases {
        let address = with(name, value);
        let line = format!("capture {words} {}", to(&address));
        let done = place.floodmark(&line).run().expect(78);
        done.assert_stderr(&[&format!("{name}={value}"), "--create-topic", &address.topic]);
        assert_eq!(read_all(&address), []);
    }
    // Records accepted before the rejected one arrive.
    let times = [now_ms(), 1_000_000_000_000];
    place.write("both.pcap", pcap(&times.map(|ms| packet(ms, "10.0.0.1", "10.0.0.2", 100))));
    let address = with("retention.ms", "3600000");
    let line = format!("capture both.pcap --format kv {}", to(&address));
    place.floodmark(&line).run().expect(78).assert_stderr(&["1 messages, "]);
    assert_eq!(read_all(&address).len(), 1);
    let address = with("message.timestamp.type", "LogAppendTime");
    let line = format!("capture old.pcap --format kv {}", to(&address));
    place
        .floodmark(&line)
        .run()
        .expect(78)
        .assert_stderr(&["message.timestamp.type=LogAppendTime"]);
}

#[test]
fn created_topic_keeps_records_of_any_age() {
    let place = Place::new();
    old_and_new(&place);
    let address = Broker::shared().address(&random_name("made"));
    let line = format!("capture old.pcap new.pcap {}", to(&address));
    let done = place.floodmark(&line).run().expect(78);
    done.assert_stderr(&[&address.topic]);
    // The second time, the topic exists.
    for times in 1..=2 {
        place.floodmark(&format!("{line} --create-topic --partitions 3")).run().expect(0);
        let messages = read_all(&address);
        assert!(messages.iter().all(|message| (0..3).contains(&message.partition)));
        assert_eq!(total(&records(&messages)), Volume::new(200 * times, 2 * times));
    }
}
