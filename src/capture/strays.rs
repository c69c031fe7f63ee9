//! Strays: packets with a time far ahead of the next packet, from a wrong clock or a damaged timestamp. A single stray
//! would move the clock of a whole replay.
//!
//! A packet that moves the clock of its capture by more than the bound is held until the next packet arrives. If the
//! held packet is ahead of the next one by more than the bound, it is a stray and is dropped; else the next packet
//! confirms the jump, and the held packet is accepted. The last packet of a capture is accepted: no later packet is
//! left to suffer from its time, and a capture may well have a single packet, or one packet after days of silence.
//!
//! The clock of a capture is the second-greatest accepted time, so that the packet that confirms a jump is held, too:
//! of two strays in a row, the packet after them drops the second one. Until two packets are accepted, the first one
//! is the clock, so that a packet that closely follows the first one is not held. A packet of a pipe therefore waits
//! for the next one only after a jump.

use std::collections::VecDeque;

use super::packet::Packet;

/// Decides which packets of one capture are strays.
pub(super) struct StrayFilter {
    max_ahead_ms: u64,
    /// The greatest time of an accepted packet.
    greatest: u64,
    /// The clock of the capture: the second-greatest time of an accepted packet.
    clock: u64,
    /// Packets before this time are accepted at once; 0 while a packet is held.
    gate: u64,
    held: Option<HeldPacket>,
    /// Accepted packets that were held or came right after a held one; at most two.
    ready: VecDeque<Packet>,
}

#[derive(Clone, Copy)]
struct HeldPacket {
    packet: Packet,
    frame: u64,
}

/// A packet far ahead of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stray {
    pub(super) packet: Packet,
    /// The number of its frame in the capture, from 1.
    pub(super) frame: u64,
}

impl StrayFilter {
    /// Creates a filter that accepts every packet.
    pub(super) fn disabled() -> Self {
        // No time is later than this clock, so that it never moves.
        StrayFilter { clock: u64::MAX, gate: u64::MAX, ..StrayFilter::new(u64::MAX) }
    }

    /// Creates a filter with this bound on how far a packet may be ahead of the next one.
    pub(super) fn new(max_ahead_ms: u64) -> Self {
        let mut strays = StrayFilter {
            max_ahead_ms,
            greatest: 0,
            clock: 0,
            gate: 0,
            held: None,
            ready: VecDeque::new(),
        };
        strays.update_gate();
        strays
    }

    /// Returns the bound.
    pub(super) fn max_ahead_ms(&self) -> u64 {
        self.max_ahead_ms
    }

    /// Accepts a packet of this time at once if it can. Returns false for a packet that [`StrayFilter::examine`] must
    /// decide on.
    #[inline(always)]
    pub(super) fn try_accept(&mut self, time_ms: u64) -> bool {
        if time_ms >= self.gate {
            return false;
        }
        // No branch: a processor can hardly predict whether a packet is later than all but one before it.
        self.advance_clock(time_ms);
        true
    }

    #[inline(always)]
    fn advance_clock(&mut self, time_ms: u64) {
        self.clock = self.clock.max(time_ms.min(self.greatest));
        self.greatest = self.greatest.max(time_ms);
        self.update_gate();
    }

    #[inline(always)]
    fn update_gate(&mut self) {
        self.gate = self.clock.saturating_add(self.max_ahead_ms).saturating_add(1);
    }

    /// Decides on the held packet by the next one, and returns the held packet if it is a stray. The next packet is
    /// held in its place, or becomes ready.
    #[cold]
    pub(super) fn examine(&mut self, packet: Packet, frame: u64) -> Option<Stray> {
        let held = self.held.take();
        let bound = packet.time.ms.saturating_add(self.max_ahead_ms);
        let stray = held.filter(|held| held.packet.time.ms > bound);
        if let (Some(HeldPacket { packet, .. }), None) = (held, stray) {
            self.confirm(packet);
        }
        if packet.time.ms > self.clock.saturating_add(self.max_ahead_ms) {
            self.held = Some(HeldPacket { packet, frame });
            self.gate = 0;
        } else {
            self.confirm(packet);
        }
        stray.map(|HeldPacket { packet, frame }| Stray { packet, frame })
    }

    /// Accepts the held packet, if any, when no next one arrived.
    pub(super) fn release(&mut self) {
        if let Some(HeldPacket { packet, .. }) = self.held.take() {
            self.confirm(packet);
        }
    }

    fn confirm(&mut self, packet: Packet) {
        if self.greatest == 0 {
            self.greatest = packet.time.ms;
        }
        self.advance_clock(packet.time.ms);
        self.ready.push_back(packet);
    }

    /// Whether a packet is held or ready.
    #[inline]
    pub(super) fn has_packets(&self) -> bool {
        self.held.is_some() || !self.ready.is_empty()
    }

    /// Whether a packet is held.
    pub(super) fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Returns the next accepted packet that was held or came right after a held one.
    pub(super) fn next_ready(&mut self) -> Option<Packet> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::types::Pair;

    use super::*;
    use crate::capture::EventTime;

    const DAY: u64 = 86_400_000;

    fn packet(ms: u64) -> Packet {
        let pair = Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        Packet { time: EventTime { ms, nanos: 0 }, pair, bytes: 40 }
    }

    /// Filters packets of these days, and returns the days of the accepted ones in order.
    fn accepted(days: &[u64]) -> Vec<u64> {
        let mut strays = StrayFilter::new(DAY);
        let (mut all, mut dropped) = (Vec::new(), 0);
        for (frame, day) in days.iter().enumerate() {
            let packet = packet(day * DAY);
            if strays.try_accept(packet.time.ms) {
                assert!(strays.next_ready().is_none(), "packets keep their order");
                all.push(*day);
                continue;
            }
            dropped += usize::from(strays.examine(packet, frame as u64 + 1).is_some());
            all.extend(
                std::iter::from_fn(|| strays.next_ready()).map(|packet| packet.time.ms / DAY),
            );
        }
        strays.release();
        all.extend(std::iter::from_fn(|| strays.next_ready()).map(|packet| packet.time.ms / DAY));
        assert_eq!(all.len() + dropped, days.len());
        all
    }

    #[test]
    fn stray_before_another_packet_is_dropped() {
        assert_eq!(accepted(&[900, 100, 100, 100]), [100, 100, 100]);
        assert_eq!(accepted(&[100, 900, 100, 100]), [100, 100, 100]);
        assert_eq!(accepted(&[100, 100, 900, 100]), [100, 100, 100]);
        assert_eq!(accepted(&[100, 100, 900, 101, 800, 101, 700, 102]), [100, 100, 101, 101, 102]);
    }

    #[test]
    fn last_packet_is_accepted() {
        assert_eq!(accepted(&[900]), [900]);
        assert_eq!(accepted(&[100, 100, 900]), [100, 100, 900]);
    }

    #[test]
    fn second_of_two_strays_is_dropped_and_the_first_if_far_ahead_of_the_second() {
        assert_eq!(accepted(&[100, 100, 900, 900, 100]), [100, 100, 900, 100]);
        assert_eq!(accepted(&[100, 100, 900, 950, 100]), [100, 100, 900, 100]);
        assert_eq!(accepted(&[100, 100, 950, 900, 100]), [100, 100, 100]);
        assert_eq!(accepted(&[950, 900, 100]), [100]);
        // Two strays in a row leave the clock unchanged.
        assert_eq!(accepted(&[100, 100, 900, 900, 100, 900, 100]), [100, 100, 900, 100, 100]);
    }

    #[test]
    fn jump_confirmed_by_the_next_packet_is_accepted() {
        let days = [100, 100, 900, 900, 901, 901, 100, 902];
        assert_eq!(accepted(&days), days);
        let ascending: Vec<u64> = (1..50).map(|day| day * 3).collect();
        assert_eq!(accepted(&ascending), ascending);
    }

    #[test]
    fn packets_exactly_the_bound_apart_are_accepted() {
        let descending: Vec<u64> = (1..50).rev().collect();
        assert_eq!(accepted(&descending), descending);
        let two_days_each: Vec<u64> = (1..50).rev().map(|day| day * 2).collect();
        assert_eq!(accepted(&two_days_each), [2]);
    }

    #[test]
    fn packet_of_the_past_makes_no_stray_of_packets_before_it() {
        let days = [100, 100, 101, 0, 101, 101, 0, 101];
        assert_eq!(accepted(&days), days);
    }

    #[test]
    fn filter_holds_one_packet_with_a_bound_and_none_without() {
        let mut strays = StrayFilter::disabled();
        assert!(strays.try_accept(0) && strays.try_accept(u64::MAX - 1) && strays.try_accept(5));
        let mut strays = StrayFilter::new(DAY);
        assert!(!strays.try_accept(100 * DAY));
        assert_eq!(strays.examine(packet(100 * DAY), 1), None);
        assert!(strays.is_holding() && strays.next_ready().is_none());
        // Even a packet of time 0 waits until the held packet is decided.
        assert!(!strays.try_accept(0));
        let stray = strays.examine(packet(0), 2).expect("the first one is a stray");
        assert_eq!((stray.frame, stray.packet), (1, packet(100 * DAY)));
        assert_eq!(strays.next_ready(), Some(packet(0)));
        assert!(!strays.is_holding() && strays.try_accept(5));
        // Only `examine` decides on the greatest possible time, under any bound.
        assert_eq!(strays.examine(packet(u64::MAX), 4), None);
        strays.release();
        assert_eq!(strays.next_ready(), Some(packet(u64::MAX)));
        let mut strays = StrayFilter::new(u64::MAX);
        assert_eq!(strays.examine(packet(u64::MAX), 1), None);
        assert_eq!(strays.next_ready(), Some(packet(u64::MAX)));
    }
}
