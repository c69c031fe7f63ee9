//! The classic format: a header, then records.

use pcap_parser::pcap::{
    parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header,
};

use super::{CAPTURED_MAX, EventTime, Fault, Found, Frame, LinkType, Timing};

/// Bytes of the header of a file.
pub(super) const HEADER: usize = 24;

const RECORD: usize = 16;

/// The "modified" format adds interface, protocol and direction to each record.
const RECORD_MODIFIED: usize = 24;

/// The link type has 26 bits; the others tell of a frame check sequence.
const LINK_TYPE_BITS: u32 = 0x03ff_ffff;

/// How the records of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    LittleEndian,
    BigEndian,
    Modified,
}

/// What the header of a pcap file says about its records.
#[derive(Debug)]
pub(super) struct Pcap {
    link: LinkType,
    layout: Layout,
    nanos_per_unit: u64,
}

impl Pcap {
    /// Whether a file that begins so is meant to be a pcap.
    pub(super) fn begins(magic: [u8; 4]) -> bool {
        matches!(
            u32::from_le_bytes(magic),
            0xa1b2_c3d4 | 0xa1b2_3c4d | 0xd4c3_b2a1 | 0x4d3c_b2a1 | 0xa1b2_cd34
        )
    }

    pub(super) fn new(header: &[u8; HEADER]) -> Result<Self, Fault> {
        let Ok((_, header)) = parse_pcap_header(header) else {
            let [a, b, c, d, ..] = *header;
            return Err(Fault::Magic([a, b, c, d]));
        };
        if header.version_major != 2 {
            let (major, minor) = (header.version_major, header.version_minor);
            return Err(Fault::PcapVersion { major, minor });
        }
        let layout = match (header.is_modified_format(), header.is_bigendian()) {
            (true, _) => Layout::Modified,
            (false, true) => Layout::BigEndian,
            (false, false) => Layout::LittleEndian,
        };
        Ok(Pcap {
            link: LinkType::new(header.network.0 as u32 & LINK_TYPE_BITS),
            layout,
            nanos_per_unit: if header.is_nanosecond_precision() { 1 } else { 1000 },
        })
    }

    /// The record at the start of the bytes.
    #[inline(always)]
    pub(super) fn next<'a>(&self, bytes: &'a [u8]) -> Found<'a> {
        let Some([.., a, b, c, d]) = bytes.first_chunk::<12>() else {
            return Found::Need(RECORD);
        };
        let (captured, header) = match self.layout {
            Layout::LittleEndian => (u32::from_le_bytes([*a, *b, *c, *d]), RECORD),
            Layout::BigEndian => (u32::from_be_bytes([*a, *b, *c, *d]), RECORD),
            Layout::Modified => (u32::from_le_bytes([*a, *b, *c, *d]), RECORD_MODIFIED),
        };
        // The parser would wait for any number of bytes.
        if captured > CAPTURED_MAX {
            return Found::Bad(Fault::CapturedLength { found: captured });
        }
        let size = header + captured as usize;
        let record = match self.layout {
            Layout::LittleEndian => parse_pcap_frame(bytes),
            Layout::BigEndian => parse_pcap_frame_be(bytes),
            Layout::Modified => parse_pcap_frame_modified(bytes),
        };
        let Ok((_, record)) = record else {
            return Found::Need(size);
        };
        let nanos = u64::from(record.ts_usec) * self.nanos_per_unit;
        let timing =
            EventTime::from_secs(record.ts_sec.into(), nanos).map_or(Timing::Bad, Timing::At);
        let frame = Frame { timing, link: self.link, wire: record.origlen, bytes: record.data };
        Found::Frame(frame, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(magic: u32, big: bool, link: u32) -> Vec<u8> {
        let words = |word: u32| {
            if big { word.to_be_bytes() } else { word.to_le_bytes() }
        };
        let version: [u8; 4] = if big { [0, 2, 0, 4] } else { [2, 0, 4, 0] };
        [words(magic), version, [0; 4], [0; 4], [0; 4], words(link)].concat()
    }

    fn check(magic: u32, big: bool, extra: usize, expected_nanos: u32) {
        let header = header(magic, big, 0x3000_0001);
        assert!(Pcap::begins(*header.first_chunk().expect("24 bytes")));
        let pcap = Pcap::new(header.first_chunk().expect("24 bytes")).expect("a header");
        let words = |word: u32| {
            if big { word.to_be_bytes() } else { word.to_le_bytes() }
        };
        let mut record = [words(9), words(1_000_001), words(3), words(60)].concat();
        record.extend(vec![0; extra]);
        record.extend([1, 2, 3]);
        for end in 0..record.len() {
            let Found::Need(need) = pcap.next(&record[..end]) else { panic!("a cut record") };
            assert!(need > end);
        }
        let Found::Frame(frame, size) = pcap.next(&record) else { panic!("a whole record") };
        assert_eq!((frame.bytes, frame.wire, size), (&[1, 2, 3][..], 60, record.len()));
        assert_eq!(frame.link, LinkType::Ethernet);
        let Timing::At(time) = frame.timing else { panic!("a time") };
        assert_eq!(time.nanos, expected_nanos);
    }

    #[test]
    fn byte_orders_resolutions_and_the_modified_format() {
        check(0xa1b2_c3d4, false, 0, 1000);
        check(0xa1b2_c3d4, true, 0, 1000);
        check(0xa1b2_3c4d, false, 0, 1);
        check(0xa1b2_3c4d, true, 0, 1);
        check(0xa1b2_cd34, false, 8, 1000);
    }

    #[test]
    fn a_hostile_captured_length_is_not_waited_for() {
        let header = header(0xa1b2_c3d4, false, 1);
        let pcap = Pcap::new(header.first_chunk().expect("24 bytes")).expect("a header");
        let mut record = [0; 16];
        record[8..12].copy_from_slice(&(CAPTURED_MAX + 1).to_le_bytes());
        assert!(matches!(pcap.next(&record), Found::Bad(Fault::CapturedLength { .. })));
        record[8..12].copy_from_slice(&CAPTURED_MAX.to_le_bytes());
        assert!(matches!(pcap.next(&record), Found::Need(_)));
    }
}
