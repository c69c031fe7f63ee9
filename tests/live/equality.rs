//! What settles is what a replay of the same records says: for each format, number of partitions,
//! workers and processes.

use std::path::Path;

use super::kit::{Answer, LIMITS, capture, topic_of};
use crate::common::broker::Broker;
use crate::common::data;
use crate::replay::many_limits;
use crate::replay::pcap::pcap;
use crate::replay::run::Place;
use crate::replay::traffic::{self, Random, json_lines};

/// Nobody waits longer for a partition that has been read to its end. Random packets come up to 20
/// minutes late, and count.
const OPTIONS: &str = "--limits limits.jsonl --idle-timeout 1s --lateness 2h --tick 200ms";

/// How a topic is written, and its partitions; how it is read.
type Way = (&'static str, i32, &'static [&'static str]);

/// Sends the capture in each of these ways, and holds every run over it to the replay.
fn check(place: &Place, file: &str, more: &str, ways: &[Way]) {
    let answer = Answer::of_replay(place, &format!("{file} {more}"));
    for (written, partitions, read) in ways {
        let topic = topic_of(place, &format!("{file} {written}"), *partitions);
        for workers in *read {
            let line = format!("run --from {topic} {OPTIONS} {more} {workers}");
            answer.hold(place.floodmark(&line).start());
        }
    }
}

/// A place with a random capture of 40 minutes, `made.pcap`, and random limits.
fn made(seed: u64) -> Place {
    let random = &mut Random::new(seed);
    let span_ms = 40 * 60_000;
    let packets = traffic::packets(random, 1500, span_ms);
    let place = Place::new();
    place.write("limits.jsonl", json_lines(&traffic::limits(random, 12, span_ms)));
    place.write("made.pcap", pcap(&packets));
    place
}

/// Many records go into one message, so that it takes many captures to fill partitions.
#[test]
fn packed() {
    let seed = 701;
    let random = &mut Random::new(seed);
    let span_ms = 40 * 60_000;
    let packets = traffic::packets(random, 1500, span_ms);
    let place = Place::new();
    place.write("limits.jsonl", json_lines(&traffic::limits(random, 12, span_ms)));
    let mut files = String::new();
    for (number, part) in packets.chunks(300).enumerate() {
        place.write(&format!("{number}.pcap"), pcap(part));
        files += &format!("{number}.pcap ");
    }
    let answer = Answer::of_replay(&place, &files);
    let ways: [(&str, i32, &[&str]); 3] = [
        ("--format packed --aggregate off", 1, &["-w1", "-w4"]),
        ("--format packed --aggregate 1s", 4, &["-w1", "-n2 -w2"]),
        ("--aggregate 1s", 7, &["-w4"]),
    ];
    for (written, partitions, read) in ways {
        let topic = Broker::shared().topic("flows", partitions);
        for file in files.split_whitespace() {
            capture(&place, &format!("{file} {written}"), &topic);
        }
        for workers in read {
            let line = format!("run --from {topic} {OPTIONS} --updates tick {workers}");
            answer.hold(place.floodmark(&line).start());
        }
    }
}

/// Limits take effect at several ticks, and no record is judged before all have.
#[test]
fn more_limits_than_take_effect_at_one_tick() {
    let place = made(711);
    let few = place.read("limits.jsonl");
    place.write("limits.jsonl", many_limits::rows(140_000, "\n") + "\n" + &few);
    check(&place, "made.pcap", "", &[("", 3, &["-w1", "-n2"])]);
}

#[test]
fn kv() {
    check(
        &made(702),
        "made.pcap",
        "--window 1m",
        &[("--format kv", 4, &["-w1", "-w4"]), ("--format kv", 7, &["-n2 -w2"])],
    );
}

#[test]
fn json() {
    check(
        &made(703),
        "made.pcap",
        "--updates limit",
        &[
            ("--format json --aggregate off", 4, &["-w4"]),
            ("--format json --aggregate off", 1, &["-n2 -w2"]),
            ("--format json --aggregate 1s", 7, &["-w1"]),
        ],
    );
}

#[test]
fn filtered() {
    check(
        &made(704),
        "made.pcap",
        "--source 10.0.0.0/24 --source ::/0 --destination 10.0.0.0/16 --destination 2001:db8::/48",
        &[("--format packed --aggregate off", 4, &["-w2"])],
    );
}

#[test]
fn generated() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    place.floodmark("generate --packets 40k --pairs 2k --span 30m --seed 7 made.pcap").stdout(0);
    check(
        &place,
        "made.pcap",
        "",
        &[("--aggregate 1s", 4, &["-n2 -w2"]), ("--format kv", 4, &["-w1"])],
    );
}

#[test]
fn real() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/demo/office-lan.pcapng.zst");
    let demo = demo.display().to_string();
    check(&place, &demo, "", &[("", 4, &["-w2"]), ("--format kv", 3, &["-w2"])]);
    let small = data().join("captures/mixed-vlan-mpls.pcap").display().to_string();
    check(&place, &small, "--window 1s", &[("--format json", 2, &["-w1"])]);
}

#[test]
fn formats_mixed_on_one_topic() {
    let seed = 705;
    let random = &mut Random::new(seed);
    let span_ms = 40 * 60_000;
    let packets = traffic::packets(random, 1200, span_ms);
    let place = Place::new();
    place.write("limits.jsonl", json_lines(&traffic::limits(random, 12, span_ms)));
    let topic = Broker::shared().topic("flows", 3);
    for (turn, how) in ["--format packed", "--format kv", "--format json"].iter().enumerate() {
        let part: Vec<_> = packets.iter().skip(turn).step_by(3).copied().collect();
        place.write(&format!("{turn}.pcap"), pcap(&part));
        capture(&place, &format!("{turn}.pcap {how}"), &topic);
    }
    let answer = Answer::of_replay(&place, "0.pcap 1.pcap 2.pcap");
    answer.hold(place.floodmark(&format!("run --from {topic} {OPTIONS} -w2")).start());
}
