//! Replays of recorded inputs, which are compared with those of captures.

use super::fold::assert_same;
use super::pcap::{Packet, pcap};
use super::run::{Done, Place};
use super::traffic::{self, Random, json_lines};

/// 2026-01-01T00:00:00Z.
pub(crate) const START_MS: u64 = 1_767_225_600_000;

pub(crate) const SPAN_MS: u64 = 40 * 60_000;

/// Returns a directory with limits and a capture, `made.pcap`, whose packets are sorted by time, and these packets.
pub(crate) fn sorted(seed: u64) -> (Place, Vec<Packet>) {
    let random = &mut Random::new(seed);
    let mut packets = traffic::packets(random, 1500, SPAN_MS);
    packets.sort_by_key(|packet| packet.ms);
    let place = Place::new();
    place.write("limits.jsonl", json_lines(&traffic::limits(random, 12, SPAN_MS)));
    place.write("made.pcap", pcap(&packets));
    (place, packets)
}

pub(crate) fn replay(place: &Place, what: &str, code: i32) -> Done {
    let line = format!("replay {what} --limits limits.jsonl --updates tick --totals totals.csv");
    place.floodmark(&line).run().expect(code)
}

/// Asserts that two replays say the same, byte for byte, and that their totals are equal.
pub(crate) fn assert_equal(place: &Place, captured: &(Done, String), what: &str) {
    let done = replay(place, what, 0);
    let between = || format!("$ {}\n$ {}", captured.0.command_line(), done.command_line());
    assert_same(&captured.0.stdout, &done.stdout, between);
    assert_same(&captured.1, &place.read("totals.csv"), between);
}

pub(crate) fn captured(place: &Place, what: &str) -> (Done, String) {
    let done = replay(place, what, 0);
    assert!(!done.stdout.is_empty(), "nothing is violated: {what}");
    (done, place.read("totals.csv"))
}
