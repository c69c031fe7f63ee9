//! Generated workloads: the same bytes for the same arguments, and what was asked for in them.

use std::collections::HashSet;

use floodmark::capture::Packet;
use floodmark::generate::{Workload, write_pcap};
use floodmark_dataflows::types::Pair;

use crate::common::read_bytes;

const WORKLOAD: Workload = Workload {
    packets: 50_000,
    pairs: 500,
    start_micros: 1_767_225_600_000_000,
    span_micros: 3_600_000_000,
    seed: 7,
    ipv6: 0.25,
};

fn pcap(workload: Workload) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_pcap(workload.packets().expect("a workload"), &mut bytes).expect("memory");
    bytes
}

fn read(workload: Workload) -> Vec<Packet> {
    let answer = read_bytes(&pcap(workload));
    assert!(answer.error.is_none());
    assert_eq!(answer.tally.frames, workload.packets);
    let expected: Vec<Packet> = workload.packets().expect("a workload").collect();
    assert_eq!(answer.packets, expected);
    answer.packets
}

/// FNV-1a, to pin bytes down without keeping them.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let bytes = pcap(WORKLOAD);
    assert_eq!(bytes, pcap(WORKLOAD));
    assert_ne!(bytes, pcap(Workload { seed: 8, ..WORKLOAD }));
    // If this changes, files that others made with the same arguments are no longer the same.
    assert_eq!(fingerprint(&bytes), 0x3098_d6ef_db19_2174, "{:#x}", fingerprint(&bytes));
}

#[test]
fn packets_pairs_and_span_are_as_asked() {
    let packets = read(WORKLOAD);
    let pairs: HashSet<Pair> = packets.iter().map(|packet| packet.pair).collect();
    assert_eq!(pairs.len(), 500);
    assert!(packets.is_sorted_by_key(|packet| packet.time));
    let start = WORKLOAD.start_micros / 1000;
    let (first, last) = (packets[0].time.ms, packets[packets.len() - 1].time.ms);
    assert!(first - start < 200 && start + 3_600_000 - last < 200, "{first} {last}");
    assert!(packets.iter().all(|packet| (40..=1500).contains(&packet.bytes)));
}

#[test]
fn the_share_of_ipv6_is_as_asked() {
    for (ipv6, least, most) in [(0.0, 0, 0), (0.25, 12_000, 13_000), (1.0, 50_000, 50_000)] {
        let packets = read(Workload { ipv6, ..WORKLOAD });
        let count = packets.iter().filter(|packet| matches!(packet.pair, Pair::V6(..))).count();
        assert!((least..=most).contains(&count), "{ipv6}: {count}");
    }
    let alone = read(Workload { ipv6: 0.5, pairs: 1, packets: 10, ..WORKLOAD });
    assert!(alone.iter().all(|packet| packet.pair == alone[0].pair));
}
