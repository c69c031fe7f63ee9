//! `floodmark replay` over topics and texts with records: the same as over a capture of these records.

use std::fs;
use std::io::Write as _;

use super::equality::made;
use super::kit::{LIMITS, TopicFeed, capture, delete_records, topic_of};
use crate::common::broker::{Broker, Transaction};
use crate::replay::fold::{assert_same, folded};
use crate::replay::pcap::{Packet, packet, pcap};
use crate::replay::recorded::{START_MS, assert_equal, captured, replay, sorted};
use crate::replay::run::Place;
use crate::replay::traffic::date;

#[test]
fn topic_that_is_sorted_by_time_says_what_the_capture_says() {
    let (place, _) = sorted(761);
    let captured = captured(&place, "made.pcap");
    for (format, partitions) in [("kv", 1), ("kv", 5), ("json", 3), ("packed", 1), ("packed", 3)] {
        let written = format!("made.pcap --format {format} --aggregate off");
        let topic = topic_of(&place, &written, partitions);
        for workers in ["-w1", "-w3", "-n2 -w2"] {
            assert_equal(&place, &captured, &format!("{topic} {workers}"));
        }
    }
}

#[test]
fn topic_in_any_order_has_the_final_violations_of_the_capture() {
    let place = made(762);
    let captured = captured(&place, "made.pcap");
    for written in ["--format packed", "--format kv", "--aggregate 1s"] {
        let topic = topic_of(&place, &format!("made.pcap {written}"), 4);
        let done = replay(&place, &topic.to_string(), 0);
        let what = || done.command_line().to_owned();
        assert_same(&folded(&captured.0.stdout), &folded(&done.stdout), what);
        assert_same(&captured.1, &place.read("totals.csv"), what);
    }
}

#[test]
fn texts_captures_and_topics_together_say_what_one_capture_says() {
    let (place, packets) = sorted(763);
    let captured = captured(&place, "made.pcap");
    for (turn, name) in ["text", "topic", "capture"].into_iter().enumerate() {
        let part: Vec<Packet> = packets.iter().skip(turn).step_by(3).copied().collect();
        place.write(&format!("{name}.pcap"), pcap(&part));
    }
    place.floodmark("convert --from text.pcap --to text.jsonl").run().expect(0);
    let text = fs::read(place.path("text.jsonl")).expect("the text");
    place.write("text.jsonl.zst", zstd::encode_all(&text[..], 0).expect("compressed"));
    let topic = topic_of(&place, "topic.pcap --format kv", 2);
    for text in ["text.jsonl", "text.jsonl.zst"] {
        for workers in ["-w1", "-n2 -w2"] {
            assert_equal(&place, &captured, &format!("{topic} {text} capture.pcap {workers}"));
        }
    }
}

/// Sends one packet of 100 bytes a second to partition 0, and returns the topic.
fn hundred_a_second(count: u64) -> TopicFeed {
    let topic = Broker::shared().topic("flows", 2);
    let mut feed = TopicFeed::to(&topic);
    for second in 0..count {
        feed.send(0, packet(START_MS + second * 1000, "10.0.0.1", "10.0.0.2", 100));
    }
    feed.flush();
    feed
}

#[test]
fn range_of_offsets_or_times_is_read_and_nothing_else() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let feed = hundred_a_second(10);
    let topic = feed.address();
    let time = |second: u64| date(START_MS + second * 1000);
    for (range, records) in [
        (String::new(), 10),
        ("--from-offset 3 --to-offset 8".into(), 5),
        ("--from-offset earliest --to-offset latest".into(), 10),
        (format!("--from-offset {} --to-offset {}", time(2), time(9)), 7),
        (format!("--to-offset {}", time(100)), 10),
        ("--from-offset 100".into(), 0),
        ("--from-offset 8 --to-offset 3".into(), 0),
    ] {
        let done = replay(&place, &format!("{topic} {range}"), 0);
        done.assert_stderr(&[&format!("counted {records} records of {records} messages")]);
    }
}

#[test]
fn offset_that_is_gone_is_named() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let feed = hundred_a_second(10);
    let topic = feed.address();
    delete_records(topic, 0, 4);
    let done = replay(&place, &format!("{topic} --from-offset 2"), 66);
    done.assert_stderr(&["partition 0: offset 2", "begins at 4", "--from-offset earliest"]);
    let done = replay(&place, &topic.to_string(), 0);
    done.assert_stderr(&["counted 6 records"]);
}

#[test]
fn messages_of_transactions_count_once_committed_and_others_are_reported() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topic = Broker::shared().topic("flows", 1);
    let mut feed = TopicFeed::to(&topic);
    let at = |second: u64| packet(START_MS + second * 1000, "10.0.0.1", "10.0.0.2", 100);
    let aborted = Transaction::begin(&topic);
    aborted.send(0, "10.0.0.1 10.0.0.2", b"100000", START_MS);
    aborted.abort();
    let committed = Transaction::begin(&topic);
    feed.send_in(&committed, 0, at(1));
    committed.commit();
    // The last offsets are those of an end of a transaction.
    replay(&place, &topic.to_string(), 0).assert_stderr(&["counted 1 records of 1 messages"]);
    let open = Transaction::begin(&topic);
    feed.send_in(&open, 0, at(2));
    feed.send(0, at(3));
    feed.flush();
    let done = replay(&place, &topic.to_string(), 0);
    done.assert_stderr(&["up to 2 messages are behind a transaction", "counted 1 records"]);
    open.commit();
    replay(&place, &topic.to_string(), 0).assert_stderr(&["counted 3 records of 3 messages"]);
}

/// The pipe holds every tick after its first record: the topic is read no further than a client fetches ahead.
#[test]
fn topic_that_shrinks_while_it_is_read_ends_the_replay_with_the_gap() {
    const MESSAGES: u64 = 300_000;
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topic = Broker::shared().topic("flows", 1);
    let mut feed = TopicFeed::to(&topic);
    for number in 0..MESSAGES {
        feed.send(0, packet(START_MS + 2000 + number, "10.0.0.1", "10.0.0.2", 100));
    }
    feed.flush();
    let pipe = place.fifo("held.jsonl");
    let fetches = "-X queued.min.messages=1000 -X fetch.message.max.bytes=65536";
    let options = format!("--limits limits.jsonl --tick 1s --updates tick {fetches}");
    let line = format!("replay held.jsonl {topic} {options}");
    let mut run = place.floodmark(&line).start();
    let mut held = fs::OpenOptions::new().write(true).open(&pipe).expect("the pipe");
    let record = |ms: u64| {
        let time = date(ms);
        format!(
            "{{\"time\":\"{time}\",\"source\":\"10.0.0.9\",\"destination\":\"10.0.0.2\",\"bytes\":100,\"packets\":1}}\n"
        )
    };
    // Its tick is complete, and the one after it is not: the topic has begun by then.
    held.write_all((record(START_MS) + &record(START_MS + 1000)).as_bytes()).expect("written");
    run.line();
    delete_records(&topic, 0, MESSAGES as i64 - 1);
    drop(held);
    let done = run.finish().expect(1);
    done.assert_stderr(&["partition 0: offset ", "does not exist any more", "to 300000"]);
}

#[test]
fn records_that_can_not_be_read_are_named_and_nothing_else_is_lost() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    place.write("made.pcap", pcap(&[packet(START_MS, "10.0.0.1", "10.0.0.2", 100)]));
    place.floodmark("convert --from made.pcap --to good.jsonl").run().expect(0);
    let good = place.read("good.jsonl");
    place.write(
        "mixed.jsonl",
        format!("{good}{{\"source\":\"10.0.0.1\",\"destination\":\"x\"}}\n{good}garbage\n"),
    );
    let done = replay(&place, "mixed.jsonl", 65);
    done.assert_stderr(&[
        "\"mixed.jsonl\", line 2: not counted: the field \"destination\" is not an IP address",
        "\"mixed.jsonl\", line 4: not counted: the message is in no known format",
        "counted 2 records of 4 messages, 200 bytes, 2 packets; not counted: 1 bad_address, 1 unknown_format",
    ]);
    let topic = topic_of(&place, "made.pcap --format kv", 1);
    let feed = TopicFeed::to(&topic);
    feed.send_raw(0, None, b"garbage", START_MS);
    feed.flush();
    let done = replay(&place, &topic.to_string(), 65);
    done.assert_stderr(&["partition 0, offset 1: not counted", "counted 1 records of 2 messages"]);
    place.write("program", b"\x7fELF\x02\x01\x01");
    replay(&place, "program good.jsonl", 65).assert_stderr(&[
        "\"program\" is neither a capture nor a text (it begins with 7f 45 4c 46)",
        "counted 1 records of 1 messages",
    ]);
}

#[test]
fn stray_record_is_dropped_and_named() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topic = Broker::shared().topic("flows", 1);
    let mut feed = TopicFeed::to(&topic);
    for day in [0, 0, 900, 0, 1] {
        feed.send(0, packet(START_MS + day * 86_400_000, "10.0.0.1", "10.0.0.2", 100));
    }
    feed.flush();
    let done = replay(&place, &topic.to_string(), 0);
    done.assert_stderr(&[
        "partition 0, offset 2: dropped as a stray: its time 2028-06-19T00:00:00Z is more than 24h ahead",
        "counted 4 records of 5 messages, 400 bytes, 4 packets; not counted: 1 stray",
    ]);
    let done = replay(&place, &format!("{topic} --max-ahead 1000d"), 0);
    done.assert_stderr(&["counted 5 records of 5 messages"]);
}

#[test]
fn topic_of_alerts_is_rejected() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    place.write("made.pcap", pcap(&[packet(START_MS, "10.0.0.1", "10.0.0.2", 100)]));
    let (topic, alerts) = (Broker::shared().topic("flows", 1), Broker::shared().topic("alerts", 1));
    capture(&place, "made.pcap", &topic);
    let run = format!("run --from {topic} --to {alerts} --limits limits.jsonl --until-end");
    place.floodmark(&run).run().expect(0);
    replay(&place, &alerts.to_string(), 78).assert_stderr(&["is no topic of records"]);
}

#[test]
fn inputs_that_are_wrong_are_named_before_anything_is_read() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    place.write("made.pcap", pcap(&[packet(START_MS, "10.0.0.1", "10.0.0.2", 100)]));
    let topic = Broker::shared().topic("flows", 1);
    for (what, code, why) in [
        ("http://host/file", 64, "unknown scheme \"http://\""),
        ("made.pcap --from-offset 3", 64, "--from-offset and --to-offset are for topics"),
        ("made.pcap --to-offset soon", 64, "none of latest, an offset, and a time"),
        (&format!("{topic} {topic}"), 64, "is named twice"),
        (&format!("{topic}-none"), 66, "there is no topic"),
    ] {
        replay(&place, what, code).assert_stderr(&[why]);
    }
}
