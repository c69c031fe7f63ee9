//! What was read from captures, and what of it was not counted, by kind.

use std::collections::BTreeMap;

/// Why a frame was not counted. The first reason that applies, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Uncounted {
    /// It has no timestamp (pcapng Simple Packet Block), so it is in no window.
    NoTimestamp,
    /// Its time is before 1970, or beyond 64 bits of milliseconds.
    BadTime,
    /// Its link type is not one that is read; [`Tally::link_types`] has the numbers.
    LinkType,
    /// It carries something other than IP, such as ARP.
    NotIp,
    /// After its MPLS labels comes neither IPv4 nor IPv6.
    Pseudowire,
    /// Its captured bytes end before the IP header begins.
    TruncatedLink,
    /// Its captured bytes end within the IP header.
    TruncatedIp,
    /// The version in its IP header is not the one that was announced.
    BadVersion,
    /// Its IPv4 header length is below 20.
    BadHeader,
    /// Its IPv4 length is below its header length.
    BadLength,
}

impl Uncounted {
    /// Every kind, in the order of the enum.
    pub const ALL: [Uncounted; 10] = [
        Uncounted::NoTimestamp,
        Uncounted::BadTime,
        Uncounted::LinkType,
        Uncounted::NotIp,
        Uncounted::Pseudowire,
        Uncounted::TruncatedLink,
        Uncounted::TruncatedIp,
        Uncounted::BadVersion,
        Uncounted::BadHeader,
        Uncounted::BadLength,
    ];

    /// A name for metrics and machine-readable output. It does not change between versions.
    pub fn name(self) -> &'static str {
        match self {
            Uncounted::NoTimestamp => "no_timestamp",
            Uncounted::BadTime => "bad_time",
            Uncounted::LinkType => "link_type",
            Uncounted::NotIp => "not_ip",
            Uncounted::Pseudowire => "pseudowire",
            Uncounted::TruncatedLink => "truncated_link",
            Uncounted::TruncatedIp => "truncated_ip",
            Uncounted::BadVersion => "bad_version",
            Uncounted::BadHeader => "bad_header",
            Uncounted::BadLength => "bad_length",
        }
    }

    /// The same for people, after a number of frames.
    pub fn text(self) -> &'static str {
        match self {
            Uncounted::NoTimestamp => "without a timestamp",
            Uncounted::BadTime => "with a time before 1970 or out of range",
            Uncounted::LinkType => "of a link type that is not supported",
            Uncounted::NotIp => "that are not IP",
            Uncounted::Pseudowire => "with MPLS labels and no IP after them",
            Uncounted::TruncatedLink => "cut before the IP header",
            Uncounted::TruncatedIp => "cut within the IP header",
            Uncounted::BadVersion => "with a wrong IP version",
            Uncounted::BadHeader => "with an IPv4 header length below 20",
            Uncounted::BadLength => "with an IPv4 length below the header length",
        }
    }
}

/// What was read. `frames` is `packets` and all that was not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Whole frames found.
    pub frames: u64,
    /// Packets that count.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    uncounted: [u64; Uncounted::ALL.len()],
    link_types: BTreeMap<u32, u64>,
}

impl Tally {
    /// How many frames were not counted for this reason.
    pub fn uncounted(&self, kind: Uncounted) -> u64 {
        self.uncounted.get(kind as usize).copied().unwrap_or(0)
    }

    /// How many frames were not counted, by reason, for people.
    pub fn uncounted_texts(&self) -> impl Iterator<Item = String> + '_ {
        let counts = Uncounted::ALL.into_iter().map(|kind| (kind, self.uncounted(kind)));
        counts
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{count} {}", kind.text()))
    }

    /// The frames of link types that are not supported, by number.
    pub fn link_types(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.link_types.iter().map(|(number, frames)| (*number, *frames))
    }

    /// Adds what another reader read.
    pub fn merge(&mut self, other: &Tally) {
        self.frames += other.frames;
        self.packets += other.packets;
        self.bytes = self.bytes.saturating_add(other.bytes);
        for (mine, theirs) in self.uncounted.iter_mut().zip(other.uncounted) {
            *mine += theirs;
        }
        for (number, frames) in other.link_types() {
            *self.link_types.entry(number).or_default() += frames;
        }
    }

    pub(super) fn count(&mut self, bytes: u64) {
        self.frames += 1;
        self.packets += 1;
        // Only absurd jumbo lengths get there, and a tally is no reason to stop.
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(super) fn pass(&mut self, kind: Uncounted) {
        self.frames += 1;
        if let Some(count) = self.uncounted.get_mut(kind as usize) {
            *count += 1;
        }
    }

    pub(super) fn pass_link_type(&mut self, number: u32) {
        self.pass(Uncounted::LinkType);
        // A pcapng link type has 16 bits and a pcap file has one, so the map stays small.
        *self.link_types.entry(number).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_in_order_and_merge_by_kind() {
        for (index, kind) in Uncounted::ALL.into_iter().enumerate() {
            assert_eq!(index, kind as usize);
            assert!(kind.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
        let mut one = Tally::default();
        one.count(40);
        one.pass(Uncounted::NotIp);
        let mut two = Tally::default();
        two.pass_link_type(105);
        two.merge(&one);
        assert_eq!((two.frames, two.packets, two.bytes), (3, 1, 40));
        assert_eq!(two.uncounted(Uncounted::NotIp), 1);
        assert_eq!(two.link_types().collect::<Vec<_>>(), [(105, 1)]);
    }
}
