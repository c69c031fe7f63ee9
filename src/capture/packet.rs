//! Packets as a reader of captures returns them.

use floodmark_dataflows::types::Pair;

use super::time::EventTime;

/// A packet that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The time of capture.
    pub time: EventTime,
    /// The addresses of its outermost IP header.
    pub pair: Pair,
    /// Its bytes on the wire, from that header on.
    pub bytes: u64,
}
