//! Captures of many kinds, sound and damaged: the sent records sum up to the totals of a replay.

use std::collections::BTreeMap;

use floodmark::capture::{Packet, Reader};
use floodmark::record::Record;
use floodmark_dataflows::types::Pair;

use super::{expected, records, sums};
use crate::common::{captures, data, more_data, read_all};
use crate::replay::pcap::{packet, pcap};
use crate::replay::run::Place;

/// Sends each capture of a folder, and compares the sums of the records with the expected ones.
fn check(folder: &str, options: &str, bucket_ms: Option<u64>) -> usize {
    let folders = [Some(data()), more_data()].into_iter().flatten();
    let all: Vec<_> = folders.flat_map(|root| captures(&root, folder)).collect();
    let place = Place::new();
    for (path, csv) in &all {
        let run = place.floodmark(&format!("capture --to - {options}")).arg(path);
        let done = run.run();
        let damage = done.code() == 65;
        assert!(done.code() == 0 || damage && folder == "malformed", "{}", done.stderr);
        let sent = records(&done.stdout);
        assert_eq!(sums(&sent), expected(csv), "{} {options}", path.display());
        if let Some(bucket_ms) = bucket_ms {
            check_buckets(&read_all(Reader::open(path).expect("opens")).packets, bucket_ms, &sent);
        }
    }
    println!("compared {} captures of {folder}, {options}", all.len());
    all.len()
}

/// Asserts one record for each bucket and pair, with the time of its last packet; more only if packets are out of
/// order.
fn check_buckets(packets: &[Packet], bucket_ms: u64, sent: &[Record]) {
    let mut last: BTreeMap<(u64, Pair), u64> = BTreeMap::new();
    for packet in packets {
        let last = last.entry((packet.time.ms / bucket_ms, packet.pair)).or_default();
        *last = packet.time.ms.max(*last);
    }
    let mut found: BTreeMap<(u64, Pair), u64> = BTreeMap::new();
    for record in sent {
        let last = found.entry((record.time_ms / bucket_ms, record.pair)).or_default();
        *last = record.time_ms.max(*last);
    }
    assert_eq!(found, last);
    let in_order = packets.is_sorted_by_key(|packet| packet.time.ms / bucket_ms);
    assert!(!in_order || found.len() == sent.len());
}

#[test]
fn sound_captures_are_sent_in_buckets_with_the_expected_sums() {
    assert!(check("captures", "", Some(1000)) >= 20);
    check("captures", "--aggregate 5m", Some(300_000));
    check("captures", "--aggregate 100ms", Some(100));
}

#[test]
fn sound_captures_are_sent_packet_by_packet_with_the_expected_sums() {
    assert!(check("captures", "--aggregate off", None) >= 20);
}

#[test]
fn damaged_captures_are_sent_up_to_the_damage() {
    assert!(check("malformed", "", Some(1000)) >= 10);
    check("malformed", "--aggregate off", None);
}

#[test]
fn record_has_the_time_of_its_last_packet_and_lies_in_one_bucket() {
    let place = Place::new();
    let packets = [
        packet(299_000, "10.0.0.1", "10.0.0.2", 100),
        packet(299_900, "10.0.0.1", "10.0.0.2", 100),
        packet(299_950, "2001:db8::1", "2001:db8::2", 100),
        packet(300_000, "10.0.0.1", "10.0.0.2", 1000),
        packet(301_999, "10.0.0.1", "10.0.0.2", 1),
    ];
    // A packet must be as long as an IPv6 header.
    let packets = packets.map(|mut packet| {
        packet.bytes = packet.bytes.max(40);
        packet
    });
    place.write("a.pcap", pcap(&packets));
    let line = |time: &str, source: &str, destination: &str, bytes: u64, packets: u64| {
        format!(
            "{{\"time\":\"1970-01-01T00:0{time}Z\",\"source\":\"{source}\",\"destination\":\
             \"{destination}\",\"bytes\":{bytes},\"packets\":{packets}}}\n"
        )
    };
    let (a, b) = ("10.0.0.1", "10.0.0.2");
    let (c, d) = ("2001:db8::1", "2001:db8::2");
    let expected = [
        line("4:59.9", a, b, 200, 2),
        line("4:59.95", c, d, 100, 1),
        line("5:00", a, b, 1000, 1),
        line("5:01.999", a, b, 40, 1),
    ];
    assert_eq!(place.floodmark("capture a.pcap --to -").stdout(0), expected.concat());
    let whole = place.floodmark("capture a.pcap --to - --aggregate 5m").stdout(0);
    let last = line("5:01.999", a, b, 1040, 2);
    assert_eq!(whole, [expected[0].clone(), expected[1].clone(), last].concat());
    let kv = place.floodmark("capture a.pcap --to - --format kv").stdout(0);
    let lines = ["a 100", "a 100", "c 100", "a 1000", "a 40"];
    let kv_expected: Vec<String> = lines
        .iter()
        .map(|line| line.replace('a', &format!("{a} {b}")).replace('c', &format!("{c} {d}")) + "\n")
        .collect();
    assert_eq!(kv, kv_expected.concat());
}

#[test]
fn several_captures_are_merged_by_time_and_written_to_a_file() {
    let place = Place::new();
    let at = |ms: u64| packet(ms, "10.0.0.1", "10.0.0.2", 100);
    place.write("a.pcap", pcap(&[at(1_000), at(5_000), at(9_000)]));
    place.write("b.pcap", pcap(&[at(2_000), at(5_500), at(8_000)]));
    let done = place.floodmark("capture a.pcap b.pcap --to out.jsonl").run().expect(0);
    assert_eq!(done.stdout, "");
    let sent = records(&place.read("out.jsonl"));
    let times: Vec<u64> = sent.iter().map(|record| record.time_ms).collect();
    assert_eq!(times, [1_000, 2_000, 5_500, 8_000, 9_000]);
    done.assert_stderr(&[
        "counted 6 of 6 frames, 600 bytes",
        "sent 5 records of 6 packets and 600 bytes",
    ]);
}

#[test]
fn capture_is_sent_at_a_multiple_of_its_speed() {
    let place = Place::new();
    let at = |ms: u64| packet(ms, "10.0.0.1", "10.0.0.2", 100);
    place.write("a.pcap", pcap(&[at(1_000), at(61_000)]));
    let began = std::time::Instant::now();
    let sent = records(&place.floodmark("capture a.pcap --to - --speed 120x").stdout(0));
    assert!(began.elapsed() >= std::time::Duration::from_millis(500));
    assert_eq!(sent.iter().map(|record| record.time_ms).collect::<Vec<_>>(), [1_000, 61_000]);
}
