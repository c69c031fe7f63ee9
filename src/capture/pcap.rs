//! The classic format: a header, then records.

use super::{ByteOrder, CAPTURED_MAX, EventTime, Fault, Frame, LinkType, Parsed, Timing};

/// Bytes of the header of a file.
pub(super) const HEADER: usize = 24;

/// Bytes of the header of a file of Ixia's software, which adds a length.
const HEADER_IXIA: usize = 28;

/// Bytes of the header of a record.
const RECORD_HEADER: usize = 16;

/// Bytes of the header of a record of the "modified" format, which adds interface, protocol and direction.
const RECORD_HEADER_MODIFIED: usize = 24;

/// The bits of the link type; the others describe the frame check sequence.
const LINK_TYPE_BITS: u32 = 0x03ff_ffff;

/// The properties of a pcap file's records, from its header.
#[derive(Debug)]
pub(super) struct Pcap {
    link: LinkType,
    order: ByteOrder,
    /// Bytes of the header of a record.
    record_header: usize,
    nanos_per_unit: u64,
    lengths: Lengths,
}

/// The order of the two lengths of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lengths {
    /// Captured, then on the wire.
    CapturedFirst,
    /// Before version 2.4: on the wire, then captured. Some writers swapped the two, so the lesser one is the
    /// captured one.
    Either,
}

/// The variants of the format, by the first four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Magic {
    Microseconds,
    Nanoseconds,
    /// Kuznetsov's records of 24 bytes, with microseconds.
    Modified,
    /// Ixia's header of 28 bytes, with nanoseconds.
    Ixia,
}

impl Magic {
    fn new(bytes: [u8; 4]) -> Option<(Magic, ByteOrder)> {
        let magic = |number| match number {
            0xa1b2_c3d4u32 => Some(Magic::Microseconds),
            0xa1b2_3c4d => Some(Magic::Nanoseconds),
            0xa1b2_cd34 => Some(Magic::Modified),
            0x1c00_01ac | 0x1c00_01ab => Some(Magic::Ixia),
            _ => None,
        };
        let in_order = |order: ByteOrder| magic(order.u32(bytes)).map(|magic| (magic, order));
        in_order(ByteOrder::Little).or_else(|| in_order(ByteOrder::Big))
    }
}

impl Pcap {
    /// Whether these are the first bytes of a pcap file.
    pub(super) fn has_magic(magic: [u8; 4]) -> bool {
        Magic::new(magic).is_some()
    }

    /// Parses the header of a file, and returns its size too.
    pub(super) fn new(header: &[u8; HEADER]) -> Result<(Self, usize), Fault> {
        let [m0, m1, m2, m3, a0, a1, i0, i1, .., n0, n1, n2, n3] = *header;
        let Some((magic, order)) = Magic::new([m0, m1, m2, m3]) else {
            return Err(Fault::Magic([m0, m1, m2, m3]));
        };
        let (major, minor) = (order.u16([a0, a1]), order.u16([i0, i1]));
        let lengths = match (major, minor) {
            // The tcpdump of DG/UX writes version 543.0.
            (2, 0..=3) | (543, 0) => Lengths::Either,
            (2, _) => Lengths::CapturedFirst,
            _ => return Err(Fault::PcapVersion { major, minor }),
        };
        let number = order.u32([n0, n1, n2, n3]) & LINK_TYPE_BITS;
        let aix = aix_link(number).filter(|_| (major, minor) == (2, 2));
        let nanos = aix.is_some() || matches!(magic, Magic::Nanoseconds | Magic::Ixia);
        let pcap = Pcap {
            link: aix.unwrap_or_else(|| LinkType::new(number)),
            order,
            record_header: if magic == Magic::Modified {
                RECORD_HEADER_MODIFIED
            } else {
                RECORD_HEADER
            },
            nanos_per_unit: if nanos { 1 } else { 1000 },
            lengths,
        };
        Ok((pcap, if magic == Magic::Ixia { HEADER_IXIA } else { HEADER }))
    }

    /// Parses the record at the start of the bytes.
    #[inline(always)]
    pub(super) fn next<'a>(&self, bytes: &'a [u8]) -> Parsed<'a> {
        let Some([s0, s1, s2, s3, f0, f1, f2, f3, c0, c1, c2, c3, w0, w1, w2, w3]) =
            bytes.first_chunk::<RECORD_HEADER>()
        else {
            return Parsed::Need(self.record_header);
        };
        let (mut captured, mut wire) =
            (self.order.u32([*c0, *c1, *c2, *c3]), self.order.u32([*w0, *w1, *w2, *w3]));
        if self.lengths == Lengths::Either {
            (captured, wire) = (captured.min(wire), captured.max(wire));
        }
        if captured > CAPTURED_MAX {
            return Parsed::Invalid(Fault::CapturedLength { found: captured });
        }
        let size = self.record_header + captured as usize;
        let Some(data) = bytes.get(self.record_header..size) else {
            return Parsed::Need(size);
        };
        let secs = self.order.u32([*s0, *s1, *s2, *s3]);
        let fraction = self.order.u32([*f0, *f1, *f2, *f3]);
        let nanos = u64::from(fraction) * self.nanos_per_unit;
        let timing = EventTime::from_secs(secs.into(), nanos).map_or(Timing::Bad, Timing::At);
        Parsed::Frame(Frame { timing, link: self.link, wire, bytes: data }, size)
    }
}

/// Returns the link type for a number of AIX, whose tcpdump writes version 2.2, numbers of its own, and
/// nanoseconds. A number with a meaning for both is taken as that of AIX, the likelier writer of version 2.2.
fn aix_link(number: u32) -> Option<LinkType> {
    match number {
        6 => Some(LinkType::Ethernet),
        9 => Some(LinkType::TokenRing),
        15 => Some(LinkType::FddiPadded),
        24 => Some(LinkType::Loopback),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(big: bool, words: &[u32]) -> Vec<u8> {
        let word = |word: &u32| if big { word.to_be_bytes() } else { word.to_le_bytes() };
        words.iter().flat_map(word).collect()
    }

    fn header(magic: u32, big: bool, version: [u16; 2], link: u32) -> [u8; HEADER] {
        let half = |half: u16| if big { half.to_be_bytes() } else { half.to_le_bytes() };
        let version = [half(version[0]), half(version[1])].concat();
        let parts = [words(big, &[magic]), version, words(big, &[0, 0, 0, link])].concat();
        *parts.first_chunk().expect("24 bytes")
    }

    fn check(magic: u32, big: bool, extra: usize, expected_nanos: u32) {
        let header = header(magic, big, [2, 4], 0x3000_0001);
        assert!(Pcap::has_magic(*header.first_chunk().expect("24 bytes")));
        let (pcap, _) = Pcap::new(&header).expect("a header");
        let mut record = words(big, &[9, 1_000_001, 3, 60]);
        record.extend(vec![0; extra]);
        record.extend([1, 2, 3]);
        for end in 0..record.len() {
            let Parsed::Need(need) = pcap.next(&record[..end]) else { panic!("a cut record") };
            assert!(need > end);
        }
        let Parsed::Frame(frame, size) = pcap.next(&record) else { panic!("a whole record") };
        assert_eq!((frame.bytes, frame.wire, size), (&[1, 2, 3][..], 60, record.len()));
        assert_eq!(frame.link, LinkType::Ethernet);
        let Timing::At(time) = frame.timing else { panic!("a time") };
        assert_eq!(time.nanos, expected_nanos);
    }

    #[test]
    fn record_of_every_byte_order_resolution_and_variant_is_read() {
        for big in [false, true] {
            check(0xa1b2_c3d4, big, 0, 1000);
            check(0xa1b2_3c4d, big, 0, 1);
            check(0xa1b2_cd34, big, 8, 1000);
            check(0x1c00_01ac, big, 0, 1);
            check(0x1c00_01ab, big, 0, 1);
        }
        let size = |magic| Pcap::new(&header(magic, false, [2, 4], 1)).expect("a header").1;
        assert_eq!((size(0xa1b2_c3d4), size(0x1c00_01ac)), (24, 28));
    }

    /// Captured length, length on the wire, link type and nanoseconds of a record.
    fn record(version: [u16; 2], link: u32, lengths: [u32; 2]) -> (usize, u32, LinkType, u32) {
        let header = header(0xa1b2_c3d4, true, version, link);
        let (pcap, _) = Pcap::new(&header).expect("a header");
        let record = [words(true, &[0, 5, lengths[0], lengths[1]]), vec![0; 100]].concat();
        let Parsed::Frame(frame, _) = pcap.next(&record) else { panic!("a whole record") };
        let Timing::At(time) = frame.timing else { panic!("a time") };
        (frame.bytes.len(), frame.wire, frame.link, time.nanos)
    }

    #[test]
    fn lengths_before_version_2_4_are_read_in_either_order() {
        for version in [[2, 0], [2, 1], [2, 2], [2, 3], [543, 0]] {
            for lengths in [[90, 60], [60, 90]] {
                assert_eq!(record(version, 1, lengths), (60, 90, LinkType::Ethernet, 5000));
            }
        }
        // From version 2.4 on, the first one is the captured one, even if it is the greater one.
        assert_eq!(record([2, 4], 1, [90, 60]), (90, 60, LinkType::Ethernet, 5000));
    }

    #[test]
    fn version_that_no_tool_writes_is_rejected() {
        for version in [[1, 4], [3, 0], [543, 1], [0, 0]] {
            let header = header(0xa1b2_c3d4, false, version, 1);
            assert!(matches!(Pcap::new(&header), Err(Fault::PcapVersion { .. })), "{version:?}");
        }
    }

    #[test]
    fn aix_capture_is_read_with_its_link_types_and_nanoseconds() {
        assert_eq!(record([2, 2], 6, [60, 60]), (60, 60, LinkType::Ethernet, 5));
        assert_eq!(record([2, 2], 9, [60, 60]), (60, 60, LinkType::TokenRing, 5));
        assert_eq!(record([2, 2], 15, [60, 60]), (60, 60, LinkType::FddiPadded, 5));
        assert_eq!(record([2, 2], 24, [60, 60]), (60, 60, LinkType::Loopback, 5));
        assert_eq!(record([2, 4], 9, [60, 60]), (60, 60, LinkType::Ppp, 5000));
    }

    #[test]
    fn captured_length_above_the_maximum_is_rejected_at_once() {
        for (version, wire) in [([2, 4], 0), ([2, 3], u32::MAX), ([2, 0], u32::MAX)] {
            let header = header(0xa1b2_c3d4, false, version, 1);
            let (pcap, _) = Pcap::new(&header).expect("a header");
            let record = words(false, &[0, 0, CAPTURED_MAX + 1, wire]);
            assert!(matches!(pcap.next(&record), Parsed::Invalid(Fault::CapturedLength { .. })));
            let record = words(false, &[0, 0, CAPTURED_MAX, wire]);
            assert!(matches!(pcap.next(&record), Parsed::Need(_)));
        }
    }
}
