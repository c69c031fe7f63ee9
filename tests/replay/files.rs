//! Several captures of any format as one input, merged by time.

use crate::common::{gzip, zstd};

use super::fold::{assert_same, events};
use super::pcap::{Packet, packet, pcap, pcapng};
use super::run::Place;
use super::traffic::{self, Random, json_lines};

/// Writes limits and one capture of ordered traffic, and returns the packets dealt out to three captures.
fn dealt(place: &Place, seed: u64) -> [Vec<Packet>; 3] {
    let random = &mut Random::new(seed);
    let span_ms = 30 * 60_000;
    let mut packets = traffic::packets(random, 1200, span_ms);
    packets.sort_by_key(|packet| packet.ms);
    place.write("limits.jsonl", json_lines(&traffic::limits(random, 10, span_ms)));
    place.write("all.pcap", pcap(&packets));
    let mut dealt = [const { Vec::new() }; 3];
    for packet in packets {
        dealt[random.below(3) as usize].push(packet);
    }
    dealt
}

/// With these options, a packet read after one of a later window would not be counted.
const STRICT: &str =
    "--limits limits.jsonl --window 1m --lateness 0s --retention 0s --updates tick --top 2";

#[test]
fn captures_are_merged_by_time() {
    for seed in [601, 602] {
        let place = Place::new();
        for (name, packets) in ["a.pcap", "b.pcap", "c.pcap"].iter().zip(dealt(&place, seed)) {
            place.write(name, pcap(&packets));
        }
        let run = |files: &str| {
            let line = format!("replay {files} {STRICT} --totals totals.csv");
            (place.floodmark(&line).stdout(0), place.read("totals.csv"))
        };
        let (stdout, totals) = run("all.pcap");
        assert!(!stdout.is_empty());
        for files in ["a.pcap b.pcap c.pcap", "c.pcap a.pcap b.pcap", "b.pcap c.pcap a.pcap -w4"] {
            let (other, other_totals) = run(files);
            assert_same(&stdout, &other, || format!("seed {seed}: all.pcap and {files}"));
            assert_same(&totals, &other_totals, || format!("seed {seed}: totals of {files}"));
        }
    }
}

#[test]
fn captures_of_any_format_and_compression_give_the_same_result() {
    let place = Place::new();
    let [a, b, c] = dealt(&place, 603);
    // The content decides the format, and not the name.
    place.write("a.gz", pcap(&a));
    place.write("b", gzip(&pcapng(&b)));
    place.write("c.pcap", zstd(&pcap(&c)));
    let stdout = place.floodmark(&format!("replay all.pcap {STRICT}")).stdout(0);
    let other = place.floodmark(&format!("replay b c.pcap a.gz {STRICT}")).stdout(0);
    assert_same(&stdout, &other, || "plain, gzip and zstd".into());
    for (bytes, kind) in [(pcap(&b), "plain"), (gzip(&pcap(&b)), "gzip"), (zstd(&pcap(&b)), "zstd")]
    {
        let run = place.floodmark(&format!("replay a.gz - c.pcap {STRICT} -w2"));
        assert_same(&stdout, &run.stdin(bytes).stdout(0), || format!("standard input, {kind}"));
    }
    let run = place.floodmark(&format!("replay a.gz - c.pcap {STRICT} -n2"));
    assert_same(&stdout, &run.stdin(pcap(&b)).stdout(0), || "standard input of two".into());
}

#[test]
fn damaged_capture_is_read_up_to_its_damage() {
    let place = Place::new();
    let [a, b, c] = dealt(&place, 604);
    let half = b.len() / 2;
    place.write("a.pcap", pcap(&a));
    place.write("c.pcap", pcap(&c));
    // The capture lacks the last byte of its last packet.
    let mut cut = pcap(&b[..=half]);
    cut.pop();
    place.write("b.pcap", cut);
    place.write("b-whole.pcap", pcap(&b[..half]));
    let run = |files: &str, code| {
        let line = format!("replay {files} {STRICT} --totals totals.csv");
        (place.floodmark(&line).stdout(code), place.read("totals.csv"))
    };
    let expected = run("a.pcap b-whole.pcap c.pcap", 0);
    assert!(run("a.pcap b.pcap c.pcap", 65) == expected, "a file that is cut, and its whole part");
    assert!(run("b.pcap a.pcap c.pcap", 65) == expected, "the damaged file first");
}

#[test]
fn truncated_compressed_files_are_reported_as_damaged() {
    let place = Place::new();
    let [a, ..] = dealt(&place, 605);
    for (name, bytes) in [("a.gz", gzip(&pcap(&a))), ("a.zst", zstd(&pcap(&a)))] {
        place.write(name, &bytes[..bytes.len() / 2]);
        let line = format!("replay {name} all.pcap --limits limits.jsonl");
        let done = place.floodmark(&line).run().expect(65).assert_stderr(&[name]);
        assert!(done.stdout.contains("\"settled\":true"), "{line}");
    }
}

#[test]
fn file_named_twice_is_read_twice() {
    let place = Place::new();
    place.write("a.pcap", pcap(&[packet(1_000, "10.0.0.1", "10.0.0.2", 600)]));
    place.write("l", r#"{"limit_name":"l","limit_value":1000,"effective_date":"1970-01-01"}"#);
    let stdout = place.floodmark("replay a.pcap a.pcap --limits l").stdout(0);
    assert_eq!(events(&stdout), ["raised l 1200", "updated l 1200"]);
}

#[test]
fn packets_of_one_file_keep_their_order() {
    let place = Place::new();
    place.write(
        "a.pcap",
        pcap(&[
            packet(120_000, "10.0.0.1", "10.0.0.2", 600),
            packet(1_000, "10.0.0.1", "10.0.0.2", 700),
        ]),
    );
    // The greatest time so far is the clock: the packet of the first window is late.
    place.write("b.pcap", pcap(&[packet(125_000, "10.0.0.1", "10.0.0.2", 800)]));
    place.write(
        "l",
        r#"{"limit_name":"l","limit_value":650,"effective_date":"1970-01-01"}
{"limit_name":"min","limit_value":1000,"effective_date":"1970-01-01"}"#,
    );
    let stdout = place.floodmark("replay b.pcap a.pcap --window 1m --limits l").stdout(0);
    // The late packet is in the same tick as that of 120 s.
    assert_eq!(
        events(&stdout),
        [
            "raised l 700",
            "raised min 700",
            "raised l 1400",
            "updated l 700",
            "updated min 700",
            "updated l 1400"
        ],
        "{stdout}"
    );
}
