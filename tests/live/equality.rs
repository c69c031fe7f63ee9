//! The settled violations of a run equal those of a replay of the same records, for each format and any number of
//! partitions, workers and processes.

use std::path::Path;

use super::kit::{LIMITS, ReplayResult, capture, topic_of};
use crate::common::broker::Broker;
use crate::common::data;
use crate::replay::many_limits;
use crate::replay::pcap::pcap;
use crate::replay::run::Place;
use crate::replay::traffic::{self, Random, json_lines};

/// A partition read to its end holds the watermark for one second only. The lateness exceeds that of random packets,
/// 20 minutes.
const OPTIONS: &str = "--limits limits.jsonl --idle-timeout 1s --lateness 2h --tick 200ms";

/// Options of the capture, number of partitions, and options of the runs.
type Variant = (&'static str, i32, &'static [&'static str]);

/// Sends the capture in each of these variants, and compares every run over it with the replay.
fn check(place: &Place, file: &str, more: &str, variants: &[Variant]) {
    let replayed = ReplayResult::of(place, &format!("{file} {more}"));
    for (written, partitions, read) in variants {
        let topic = topic_of(place, &format!("{file} {written}"), *partitions);
        for workers in *read {
            let line = format!("run --from {topic} {OPTIONS} {more} {workers}");
            replayed.check_run(place.floodmark(&line).start());
        }
    }
}

/// Returns a directory with a random capture of 40 minutes, `made.pcap`, and random limits.
pub(super) fn made(seed: u64) -> Place {
    let random = &mut Random::new(seed);
    let span_ms = 40 * 60_000;
    let packets = traffic::packets(random, 1500, span_ms);
    let place = Place::new();
    place.write("limits.jsonl", json_lines(&traffic::limits(random, 12, span_ms)));
    place.write("made.pcap", pcap(&packets));
    place
}

/// A message holds many records, so that several captures are needed to fill the partitions.
#[test]
fn packed_records_settle_like_a_replay() {
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
    let replayed = ReplayResult::of(&place, &files);
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
            replayed.check_run(place.floodmark(&line).start());
        }
    }
}

/// The limits take effect over several ticks, and no record is judged before the last of them.
#[test]
fn limits_that_take_effect_over_several_ticks_settle_like_a_replay() {
    let place = made(711);
    let few = place.read("limits.jsonl");
    place.write("limits.jsonl", many_limits::rows(140_000, "\n") + "\n" + &few);
    check(&place, "made.pcap", "", &[("", 3, &["-w1", "-n2"])]);
}

#[test]
fn kv_records_settle_like_a_replay() {
    check(
        &made(702),
        "made.pcap",
        "--window 1m",
        &[("--format kv", 4, &["-w1", "-w4"]), ("--format kv", 7, &["-n2 -w2"])],
    );
}

#[test]
fn json_records_settle_like_a_replay() {
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
fn filtered_records_settle_like_a_replay() {
    check(
        &made(704),
        "made.pcap",
        "--source 10.0.0.0/24 --source ::/0 --destination 10.0.0.0/16 --destination 2001:db8::/48",
        &[("--format packed --aggregate off", 4, &["-w2"])],
    );
}

#[test]
fn generated_traffic_settles_like_a_replay() {
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
fn real_captures_settle_like_a_replay() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/demo/office-lan.pcapng.zst");
    let demo = demo.display().to_string();
    check(&place, &demo, "", &[("", 4, &["-w2"]), ("--format kv", 3, &["-w2"])]);
    let small = data().join("captures/mixed-vlan-mpls.pcap").display().to_string();
    check(&place, &small, "--window 1s", &[("--format json", 2, &["-w1"])]);
}

#[test]
fn mixed_formats_on_one_topic_settle_like_a_replay() {
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
    let replayed = ReplayResult::of(&place, "0.pcap 1.pcap 2.pcap");
    replayed.check_run(place.floodmark(&format!("run --from {topic} {OPTIONS} -w2")).start());
}
