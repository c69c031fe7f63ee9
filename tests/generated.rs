//! Generated workloads: reproducible, and with the requested properties.

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
    let result = read_bytes(&pcap(workload));
    assert!(result.error.is_none());
    assert_eq!(result.tally.frames, workload.packets);
    let expected: Vec<Packet> = workload.packets().expect("a workload").collect();
    assert_eq!(result.packets, expected);
    result.packets
}

/// Returns the FNV-1a hash, which pins down the bytes without storing them.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn same_seed_generates_the_same_bytes() {
    let bytes = pcap(WORKLOAD);
    assert_eq!(bytes, pcap(WORKLOAD));
    assert_ne!(bytes, pcap(Workload { seed: 8, ..WORKLOAD }));
    // If this changes, users no longer get the same file from the same arguments.
    assert_eq!(fingerprint(&bytes), 0x3098_d6ef_db19_2174, "{:#x}", fingerprint(&bytes));
}

#[test]
fn workload_has_the_requested_packets_pairs_and_span() {
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
fn workload_has_the_requested_share_of_ipv6() {
    for (ipv6, least, most) in [(0.0, 0, 0), (0.25, 12_000, 13_000), (1.0, 50_000, 50_000)] {
        let packets = read(Workload { ipv6, ..WORKLOAD });
        let count = packets.iter().filter(|packet| matches!(packet.pair, Pair::V6(..))).count();
        assert!((least..=most).contains(&count), "{ipv6}: {count}");
    }
    let alone = read(Workload { ipv6: 0.5, pairs: 1, packets: 10, ..WORKLOAD });
    assert!(alone.iter().all(|packet| packet.pair == alone[0].pair));
}
