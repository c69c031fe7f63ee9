//! Strays: packets with a time far ahead of the packet after them, as a wrong clock or a damaged timestamp
//! makes them. One of them would move the clock of a whole replay.
//!
//! A packet that moves the clock of its capture by more than the bound is held until the next packet is
//! there. If it is further ahead of that one than the bound, it is a stray; else the next packet confirms the
//! jump, and it is believed. The last packet has no next one, and is believed: nothing is left that its time
//! could harm, and a capture may well have a single packet, or one packet after days of silence.
//!
//! The clock of a capture is the greatest time but one that was believed, so that the packet that confirms a
//! jump is held, too: of two strays in a row the second one is dropped by the packet after it. One packet
//! alone, at the head, is the clock until there are two: a packet that follows the first one closely waits
//! for nothing, and so no packet of a pipe does, unless it comes after a jump.

use std::collections::VecDeque;

use super::packet::Packet;

/// Decides which packets of one capture are strays.
pub(super) struct Strays {
    max_ahead_ms: u64,
    /// The greatest time of a believed packet.
    greatest: u64,
    /// The greatest time but one, the clock of the capture.
    clock: u64,
    /// Packets from this time on do not pass at once; 0 while a packet is held.
    gate: u64,
    held: Option<Held>,
    /// Believed packets that had been held, or followed one that was; two at most.
    ready: VecDeque<Packet>,
}

#[derive(Clone, Copy)]
struct Held {
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

impl Strays {
    /// Believes every packet.
    pub(super) fn believed() -> Self {
        // No time is later than this clock, so that it never moves.
        Strays { clock: u64::MAX, gate: u64::MAX, ..Strays::beyond(u64::MAX) }
    }

    /// Takes a packet for a stray that is further ahead of the next one than this.
    pub(super) fn beyond(max_ahead_ms: u64) -> Self {
        let mut strays = Strays {
            max_ahead_ms,
            greatest: 0,
            clock: 0,
            gate: 0,
            held: None,
            ready: VecDeque::new(),
        };
        strays.open_gate();
        strays
    }

    /// The bound.
    pub(super) fn max_ahead_ms(&self) -> u64 {
        self.max_ahead_ms
    }

    /// Whether a packet of this time is believed at once. If not, it is to be shown to [`Strays::look`].
    #[inline(always)]
    pub(super) fn pass(&mut self, time_ms: u64) -> bool {
        if time_ms >= self.gate {
            return false;
        }
        // Without a branch: whether a packet is later than all but one before it is hard to predict.
        self.believe(time_ms);
        true
    }

    #[inline(always)]
    fn believe(&mut self, time_ms: u64) {
        self.clock = self.clock.max(time_ms.min(self.greatest));
        self.greatest = self.greatest.max(time_ms);
        self.open_gate();
    }

    #[inline(always)]
    fn open_gate(&mut self) {
        self.gate = self.clock.saturating_add(self.max_ahead_ms).saturating_add(1);
    }

    /// Decides about the packet that is held, now that the next one has come, and returns it if it is a
    /// stray. The next one is held in its place, or is ready.
    #[cold]
    pub(super) fn look(&mut self, packet: Packet, frame: u64) -> Option<Stray> {
        let held = self.held.take();
        let bound = packet.time.ms.saturating_add(self.max_ahead_ms);
        let stray = held.filter(|held| held.packet.time.ms > bound);
        if let (Some(Held { packet, .. }), None) = (held, stray) {
            self.accept(packet);
        }
        if packet.time.ms > self.clock.saturating_add(self.max_ahead_ms) {
            self.held = Some(Held { packet, frame });
            self.gate = 0;
        } else {
            self.accept(packet);
        }
        stray.map(|Held { packet, frame }| Stray { packet, frame })
    }

    /// Believes the packet that is held, if one is: no next one has come.
    pub(super) fn release(&mut self) {
        if let Some(Held { packet, .. }) = self.held.take() {
            self.accept(packet);
        }
    }

    fn accept(&mut self, packet: Packet) {
        if self.greatest == 0 {
            self.greatest = packet.time.ms;
        }
        self.believe(packet.time.ms);
        self.ready.push_back(packet);
    }

    /// Whether packets are held, or ready.
    #[inline]
    pub(super) fn has_some(&self) -> bool {
        self.held.is_some() || !self.ready.is_empty()
    }

    /// Whether a packet is held.
    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// The next packet that was held, or followed one that was, and is believed now.
    pub(super) fn ready(&mut self) -> Option<Packet> {
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

    /// The days of the packets that are believed, in order, of packets on these days.
    fn believed(days: &[u64]) -> Vec<u64> {
        let mut strays = Strays::beyond(DAY);
        let (mut all, mut dropped) = (Vec::new(), 0);
        for (frame, day) in days.iter().enumerate() {
            let packet = packet(day * DAY);
            if strays.pass(packet.time.ms) {
                assert!(strays.ready().is_none(), "packets keep their order");
                all.push(*day);
                continue;
            }
            dropped += usize::from(strays.look(packet, frame as u64 + 1).is_some());
            all.extend(std::iter::from_fn(|| strays.ready()).map(|packet| packet.time.ms / DAY));
        }
        strays.release();
        all.extend(std::iter::from_fn(|| strays.ready()).map(|packet| packet.time.ms / DAY));
        assert_eq!(all.len() + dropped, days.len());
        all
    }

    #[test]
    fn stray_is_dropped_wherever_a_packet_follows() {
        assert_eq!(believed(&[900, 100, 100, 100]), [100, 100, 100]);
        assert_eq!(believed(&[100, 900, 100, 100]), [100, 100, 100]);
        assert_eq!(believed(&[100, 100, 900, 100]), [100, 100, 100]);
        assert_eq!(believed(&[100, 100, 900, 101, 800, 101, 700, 102]), [100, 100, 101, 101, 102]);
    }

    #[test]
    fn last_packet_is_believed() {
        assert_eq!(believed(&[900]), [900]);
        assert_eq!(believed(&[100, 100, 900]), [100, 100, 900]);
    }

    #[test]
    fn second_of_two_strays_is_dropped_and_the_first_if_it_is_ahead_of_the_second() {
        assert_eq!(believed(&[100, 100, 900, 900, 100]), [100, 100, 900, 100]);
        assert_eq!(believed(&[100, 100, 900, 950, 100]), [100, 100, 900, 100]);
        assert_eq!(believed(&[100, 100, 950, 900, 100]), [100, 100, 100]);
        assert_eq!(believed(&[950, 900, 100]), [100]);
        // After them the clock is where it was.
        assert_eq!(believed(&[100, 100, 900, 900, 100, 900, 100]), [100, 100, 900, 100, 100]);
    }

    #[test]
    fn jump_that_the_next_packet_confirms_is_believed() {
        let days = [100, 100, 900, 900, 901, 901, 100, 902];
        assert_eq!(believed(&days), days);
        let ascending: Vec<u64> = (1..50).map(|day| day * 3).collect();
        assert_eq!(believed(&ascending), ascending);
    }

    #[test]
    fn packets_just_as_far_apart_as_the_bound_are_believed() {
        let descending: Vec<u64> = (1..50).rev().collect();
        assert_eq!(believed(&descending), descending);
        let two_days_each: Vec<u64> = (1..50).rev().map(|day| day * 2).collect();
        assert_eq!(believed(&two_days_each), [2]);
    }

    #[test]
    fn packet_of_the_past_takes_none_before_it_along() {
        let days = [100, 100, 101, 0, 101, 101, 0, 101];
        assert_eq!(believed(&days), days);
    }

    #[test]
    fn one_packet_is_held_and_none_without_a_bound() {
        let mut strays = Strays::believed();
        assert!(strays.pass(0) && strays.pass(u64::MAX - 1) && strays.pass(5));
        let mut strays = Strays::beyond(DAY);
        assert!(!strays.pass(100 * DAY));
        assert_eq!(strays.look(packet(100 * DAY), 1), None);
        assert!(strays.holds() && strays.ready().is_none());
        // Even a packet of the beginning of time waits until the one before it is decided.
        assert!(!strays.pass(0));
        let stray = strays.look(packet(0), 2).expect("the first one is a stray");
        assert_eq!((stray.frame, stray.packet), (1, packet(100 * DAY)));
        assert_eq!(strays.ready(), Some(packet(0)));
        assert!(!strays.holds() && strays.pass(5));
        // The latest time there is: with any bound it is only decided by look.
        assert_eq!(strays.look(packet(u64::MAX), 4), None);
        strays.release();
        assert_eq!(strays.ready(), Some(packet(u64::MAX)));
        let mut strays = Strays::beyond(u64::MAX);
        assert_eq!(strays.look(packet(u64::MAX), 1), None);
        assert_eq!(strays.ready(), Some(packet(u64::MAX)));
    }
}
