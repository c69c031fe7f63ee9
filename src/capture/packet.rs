//! Packets as a reader of captures returns them.

use floodmark_dataflows::types::Pair;

use super::time::EventTime;
use crate::base::strays::Timed;

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

impl Timed for Packet {
    #[inline(always)]
    fn time_ms(&self) -> u64 {
        self.time.ms
    }
}
