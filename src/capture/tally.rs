//! Counts of the frames read from captures, and of those not counted, by reason.

use std::collections::BTreeMap;

use super::link_type::LinkType;

/// Maximum number of unsupported link types with a count each. Hostile captures name any number.
pub const LINK_TYPES_MAX: usize = 16;

/// The reason why a frame was not counted: the first that applies, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Uncounted {
    /// It has no timestamp (pcapng Simple Packet Block), so it is in no window.
    NoTimestamp,
    /// Its time is before 1970, or beyond 64 bits of milliseconds.
    BadTime,
    /// Its link type is not supported; [`Tally::link_types`] has the numbers.
    LinkType,
    /// It carries something other than IP, such as ARP.
    NotIp,
    /// Its MPLS labels are followed by neither IPv4 nor IPv6.
    Pseudowire,
    /// A data frame of IEEE 802.11 that is encrypted.
    Encrypted,
    /// A data frame of IEEE 802.11 that aggregates several packets (A-MSDU).
    Aggregate,
    /// A fragment of an IEEE 802.11 frame after the first one, which has the IP header.
    LinkFragment,
    /// A header before IP states an impossible length.
    BadLink,
    /// Its captured bytes end before the IP header begins.
    TruncatedLink,
    /// Its captured bytes end within the IP header.
    TruncatedIp,
    /// The version in its IP header is not the one that the header before announces.
    BadVersion,
    /// Its IPv4 header length is below 20.
    BadHeader,
    /// Its IPv4 length is below its header length.
    BadLength,
    /// It is further ahead of the next packet than the bound of its reader.
    Stray,
}

impl Uncounted {
    /// Every kind, in the order of the enum.
    pub const ALL: [Uncounted; 15] = [
        Uncounted::NoTimestamp,
        Uncounted::BadTime,
        Uncounted::LinkType,
        Uncounted::NotIp,
        Uncounted::Pseudowire,
        Uncounted::Encrypted,
        Uncounted::Aggregate,
        Uncounted::LinkFragment,
        Uncounted::BadLink,
        Uncounted::TruncatedLink,
        Uncounted::TruncatedIp,
        Uncounted::BadVersion,
        Uncounted::BadHeader,
        Uncounted::BadLength,
        Uncounted::Stray,
    ];

    /// Returns the name for metrics and machine-readable output. It does not change between versions.
    pub fn name(self) -> &'static str {
        match self {
            Uncounted::NoTimestamp => "no_timestamp",
            Uncounted::BadTime => "bad_time",
            Uncounted::LinkType => "link_type",
            Uncounted::NotIp => "not_ip",
            Uncounted::Pseudowire => "pseudowire",
            Uncounted::Encrypted => "encrypted",
            Uncounted::Aggregate => "aggregate",
            Uncounted::LinkFragment => "link_fragment",
            Uncounted::BadLink => "bad_link",
            Uncounted::TruncatedLink => "truncated_link",
            Uncounted::TruncatedIp => "truncated_ip",
            Uncounted::BadVersion => "bad_version",
            Uncounted::BadHeader => "bad_header",
            Uncounted::BadLength => "bad_length",
            Uncounted::Stray => "stray",
        }
    }

    /// Returns the reason for people, to follow a number of frames.
    pub fn text(self) -> &'static str {
        match self {
            Uncounted::NoTimestamp => "without a timestamp",
            Uncounted::BadTime => "with a time before 1970 or out of range",
            Uncounted::LinkType => "of a link type that is not supported",
            Uncounted::NotIp => "that are not IP",
            Uncounted::Pseudowire => "with MPLS labels and no IP after them",
            Uncounted::Encrypted => "encrypted by IEEE 802.11",
            Uncounted::Aggregate => "of several packets each (A-MSDU)",
            Uncounted::LinkFragment => "that are later fragments of IEEE 802.11 frames",
            Uncounted::BadLink => "with an invalid link header",
            Uncounted::TruncatedLink => "cut before the IP header",
            Uncounted::TruncatedIp => "cut within the IP header",
            Uncounted::BadVersion => "with a wrong IP version",
            Uncounted::BadHeader => "with an IPv4 header length below 20",
            Uncounted::BadLength => "with an IPv4 length below the header length",
            Uncounted::Stray => "that are strays, more than --max-ahead after the next packet",
        }
    }
}

/// Counts of frames. `frames` is the sum of `packets` and all frames that were not counted.
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
    /// Returns the number of frames not counted for this reason.
    pub fn uncounted(&self, kind: Uncounted) -> u64 {
        self.uncounted.get(kind as usize).copied().unwrap_or(0)
    }

    /// Returns the numbers of frames not counted, by reason, for people.
    pub fn uncounted_texts(&self) -> impl Iterator<Item = String> + '_ {
        let counts = Uncounted::ALL.into_iter().map(|kind| (kind, self.uncounted(kind)));
        counts.filter(|(_, count)| *count > 0).map(|(kind, count)| {
            let text = format!("{count} {}", kind.text());
            match kind {
                Uncounted::LinkType => format!("{text} ({})", self.link_type_texts()),
                _ => text,
            }
        })
    }

    /// Returns the numbers of frames of unsupported link types, by number. Only the first [`LINK_TYPES_MAX`] numbers
    /// have a count; [`Tally::uncounted`] has the sum of all.
    pub fn link_types(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.link_types.iter().map(|(number, frames)| (*number, *frames))
    }

    /// Returns the number, name and frames of each unsupported link type, for people.
    fn link_type_texts(&self) -> String {
        let text = |(number, frames): (u32, u64)| match LinkType::name(number) {
            Some(name) => format!("{frames} of {number} {name}"),
            None => format!("{frames} of {number}"),
        };
        let mut texts: Vec<String> = self.link_types().map(text).collect();
        let named: u64 = self.link_types.values().sum();
        let others = self.uncounted(Uncounted::LinkType).saturating_sub(named);
        if others > 0 {
            texts.push(format!("{others} of others"));
        }
        texts.join(", ")
    }

    /// Adds the counts of another reader.
    pub fn merge(&mut self, other: &Tally) {
        self.frames += other.frames;
        self.packets += other.packets;
        self.bytes = self.bytes.saturating_add(other.bytes);
        for (mine, theirs) in self.uncounted.iter_mut().zip(other.uncounted) {
            *mine += theirs;
        }
        for (number, frames) in other.link_types() {
            self.add_link_type(number, frames);
        }
    }

    pub(super) fn count(&mut self, bytes: u64) {
        self.frames += 1;
        self.packets += 1;
        // Only absurd jumbo lengths saturate, and they must not end the reading.
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Counts a frame as a stray instead of as a packet.
    pub(super) fn recount_as_stray(&mut self, bytes: u64) {
        self.frames -= 1;
        self.packets -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.count_uncounted(Uncounted::Stray);
    }

    pub(super) fn count_uncounted(&mut self, kind: Uncounted) {
        self.frames += 1;
        if let Some(count) = self.uncounted.get_mut(kind as usize) {
            *count += 1;
        }
    }

    /// Counts a frame of a link type that is not supported.
    pub(super) fn count_unsupported_link(&mut self, number: u32) {
        self.count_uncounted(Uncounted::LinkType);
        self.add_link_type(number, 1);
    }

    fn add_link_type(&mut self, number: u32, frames: u64) {
        let has_capacity = self.link_types.len() < LINK_TYPES_MAX;
        match self.link_types.get_mut(&number) {
            Some(count) => *count += frames,
            None if has_capacity => drop(self.link_types.insert(number, frames)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_listed_in_order_and_merged_by_reason() {
        for (index, kind) in Uncounted::ALL.into_iter().enumerate() {
            assert_eq!(index, kind as usize);
            assert!(kind.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
        let mut one = Tally::default();
        one.count(40);
        one.count_uncounted(Uncounted::NotIp);
        let mut two = Tally::default();
        two.count_unsupported_link(147);
        two.merge(&one);
        assert_eq!((two.frames, two.packets, two.bytes), (3, 1, 40));
        assert_eq!(two.uncounted(Uncounted::NotIp), 1);
        assert_eq!(two.link_types().collect::<Vec<_>>(), [(147, 1)]);
    }

    #[test]
    fn unsupported_link_type_is_reported_by_number_and_name() {
        let mut tally = Tally::default();
        (0..3).for_each(|_| tally.count_unsupported_link(147));
        tally.count_unsupported_link(70_000);
        let texts: Vec<String> = tally.uncounted_texts().collect();
        let expected = "4 of a link type that is not supported \
                        (3 of 147 USER0, 1 of 70000)";
        assert_eq!(texts, [expected]);
    }

    #[test]
    fn memory_of_unsupported_link_types_is_bounded() {
        let mut one = Tally::default();
        (1000..2000).for_each(|number| one.count_unsupported_link(number));
        let mut two = Tally::default();
        (3000..3010).for_each(|number| two.count_unsupported_link(number));
        two.merge(&one);
        assert_eq!((one.link_types().count(), two.link_types().count()), (16, 16));
        assert_eq!(two.uncounted(Uncounted::LinkType), 1010);
        let texts: Vec<String> = two.uncounted_texts().collect();
        assert!(texts[0].ends_with(", 994 of others)"), "{texts:?}");
    }
}
