//! Blocks built by hand, in both byte orders.

use super::*;
use crate::capture::EventTime;

fn u32s(order: ByteOrder, words: &[u32]) -> Vec<u8> {
    let bytes = |word: &u32| match order {
        ByteOrder::Little => word.to_le_bytes(),
        ByteOrder::Big => word.to_be_bytes(),
    };
    words.iter().flat_map(bytes).collect()
}

fn u16s(order: ByteOrder, words: &[u16]) -> Vec<u8> {
    let bytes = |word: &u16| match order {
        ByteOrder::Little => word.to_le_bytes(),
        ByteOrder::Big => word.to_be_bytes(),
    };
    words.iter().flat_map(bytes).collect()
}

fn block(order: ByteOrder, kind: u32, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u32 + 12;
    [&u32s(order, &[kind, length])[..], body, &u32s(order, &[length])].concat()
}

fn section(order: ByteOrder, version: [u16; 2]) -> Vec<u8> {
    let body = [u32s(order, &[0x1a2b_3c4d]), u16s(order, &version), vec![0xff; 8]];
    block(order, 0x0a0d_0d0a, &body.concat())
}

fn interface(order: ByteOrder, link: u16, options: &[u8]) -> Vec<u8> {
    let body = [&u16s(order, &[link, 0])[..], &u32s(order, &[0]), options];
    block(order, INTERFACE, &body.concat())
}

/// Link type, time, wire length, captured bytes.
type Seen = (LinkType, Timing, u32, Vec<u8>);

/// Parses a capture from one slice.
fn frames(capture: &[u8]) -> Result<Vec<Seen>, Fault> {
    let mut pcapng = Pcapng::new();
    let mut rest = capture;
    let mut frames = Vec::new();
    loop {
        let used = match pcapng.next(rest) {
            Parsed::Frame(frame, used) => {
                frames.push((frame.link, frame.timing, frame.wire, frame.bytes.to_vec()));
                used
            }
            Parsed::Skip(used) => used,
            Parsed::Invalid(fault) => return Err(fault),
            Parsed::Need(expected) if !rest.is_empty() || !pcapng.between_blocks() => {
                return Err(Fault::Cut { found: rest.len(), expected });
            }
            Parsed::Need(_) => return Ok(frames),
        };
        rest = &rest[used..];
    }
}

fn at(ms: u64) -> Timing {
    Timing::At(EventTime { ms, nanos: 0 })
}

#[test]
fn packet_block_of_every_type_is_read_in_both_byte_orders() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let offset: [u8; 8] = match order {
            ByteOrder::Little => 10i64.to_le_bytes(),
            ByteOrder::Big => 10i64.to_be_bytes(),
        };
        let options = [
            &u16s(order, &[2, 3])[..],
            b"abc\0",
            &u16s(order, &[9, 1]),
            &[3, 0, 0, 0],
            &u16s(order, &[14, 8]),
            &offset,
            &u16s(order, &[0, 0]),
        ];
        let capture = [
            section(order, [1, 0]),
            interface(order, 1, &[]),
            interface(order, 101, &options.concat()),
            block(order, 0x4444, &[0; 100]),
            block(
                order,
                PACKET_ENHANCED,
                &[&u32s(order, &[1, 0, 7, 3, 60])[..], b"abc\0"].concat(),
            ),
            block(
                order,
                PACKET_OBSOLETE,
                &[&u16s(order, &[0, 5])[..], &u32s(order, &[0, 2000, 1, 61]), b"x\0\0\0"].concat(),
            ),
            block(order, PACKET_SIMPLE, &[&u32s(order, &[2])[..], b"yz\0\0"].concat()),
            section(order, [1, 2]),
        ]
        .concat();
        let expected = [
            (LinkType::RawIp, at(10_007), 60, b"abc".to_vec()),
            (LinkType::Ethernet, at(2), 61, b"x".to_vec()),
            (LinkType::Ethernet, Timing::None, 2, b"yz".to_vec()),
        ];
        assert_eq!(frames(&capture).expect("a sound capture"), expected);
    }
}

#[test]
fn damage_of_each_kind_has_its_own_fault() {
    let order = ByteOrder::Little;
    let start = [section(order, [1, 0]), interface(order, 1, &[])].concat();
    let fault = |block: &[u8]| frames(&[&start[..], block].concat()).expect_err("damage");
    assert!(matches!(fault(&section(order, [2, 0])), Fault::SectionVersion { major: 2, .. }));
    let packet = |words: &[u32]| block(order, PACKET_ENHANCED, &u32s(order, words));
    assert!(matches!(fault(&packet(&[1, 0, 0, 0, 0])), Fault::Interface { found: 1, .. }));
    assert!(matches!(
        fault(&packet(&[0, 0, 0, 1, 0])),
        Fault::FrameLength { found: 1, available: 0 }
    ));
    let huge = packet(&[0, 0, 0, CAPTURED_MAX + 1, 0]);
    assert!(matches!(fault(&huge), Fault::CapturedLength { .. }));
    assert!(matches!(fault(&packet(&[0, 0, 0, 0])), Fault::BlockLength { found: 28, .. }));
    let endless = u32s(order, &[PACKET_ENHANCED, 0xffff_fff0]);
    assert!(matches!(fault(&endless), Fault::Cut { found: 8, expected: 28 }));
    let endless = u32s(order, &[PACKET_ENHANCED, 0xffff_fff0, 0, 0, 0, CAPTURED_MAX + 1, 0]);
    assert!(matches!(fault(&endless), Fault::CapturedLength { .. }));
    assert!(matches!(fault(&u32s(order, &[0x4444, 13])), Fault::BlockLength { .. }));
    let mut trailer = block(order, 0x4444, &[]);
    trailer[8] = 13;
    assert!(matches!(fault(&trailer), Fault::Trailer { found: 13, expected: 12 }));
    let long = interface(order, 1, &u16s(order, &[9, 5, 0, 0]));
    assert!(matches!(fault(&long), Fault::Option { code: 9, found: 5, expected: 4 }));
    let cut = &block(order, 0x4444, &[0; 8])[..16];
    assert!(matches!(fault(cut), Fault::Cut { .. }));
    // A new section drops the interfaces of the section before.
    let again = [section(order, [1, 0]), packet(&[0, 0, 0, 0, 0])].concat();
    assert!(matches!(fault(&again), Fault::Interface { found: 0, described: 0 }));
}

/// A padded option of an interface, without an end of options.
fn option(order: ByteOrder, code: u16, value: &[u8]) -> Vec<u8> {
    let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
    [&u16s(order, &[code, value.len() as u16])[..], value, &padding].concat()
}

/// Comments longer than the buffer.
fn comments(order: ByteOrder) -> Vec<u8> {
    let comment = option(order, 1, &[b'c'; 60_001]);
    comment.repeat(BUFFER_MAX / comment.len() + 2)
}

/// Parses a capture in pieces of at most so many bytes, as from a buffer.
fn frames_in_pieces(capture: &[u8], piece: usize) -> Result<Vec<Seen>, Fault> {
    let mut pcapng = Pcapng::new();
    let (mut start, mut end) = (0, 0);
    let mut frames = Vec::new();
    loop {
        let used = match pcapng.next(&capture[start..end]) {
            Parsed::Frame(frame, used) => {
                frames.push((frame.link, frame.timing, frame.wire, frame.bytes.to_vec()));
                used
            }
            Parsed::Skip(used) => used,
            Parsed::Invalid(fault) => return Err(fault),
            Parsed::Need(_) if end == capture.len() => {
                assert!(start == end && pcapng.between_blocks(), "it ends at {start}");
                return Ok(frames);
            }
            Parsed::Need(need) => {
                assert!(need > end - start && need <= BUFFER_MAX, "{need}");
                end = (end + piece).min(capture.len());
                0
            }
        };
        start += used;
    }
}

#[test]
fn block_of_any_type_longer_than_the_buffer_is_streamed() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let long = comments(order);
        let names = [long.clone(), option(order, OPTION_RESOLUTION, &[3]), long.clone()].concat();
        let enhanced = [&u32s(order, &[0, 0, 7, 3, 60])[..], b"abc\0", &long].concat();
        let obsolete = [&u16s(order, &[0, 5])[..], &u32s(order, &[0, 8, 1, 61]), b"x\0\0\0", &long];
        let simple = [&u32s(order, &[2])[..], b"yz\0\0", &long].concat();
        let body = [u32s(order, &[0x1a2b_3c4d]), u16s(order, &[1, 0]), vec![0xff; 8], long.clone()];
        let capture = [
            block(order, 0x0a0d_0d0a, &body.concat()),
            interface(order, 1, &names),
            // Names, secrets, statistics, and a private type.
            block(order, 4, &long),
            block(order, 10, &long),
            block(order, 5, &long),
            block(order, 0x4000_0bad, &long),
            block(order, PACKET_ENHANCED, &enhanced),
            block(order, PACKET_OBSOLETE, &obsolete.concat()),
            block(order, PACKET_SIMPLE, &simple),
            block(order, PACKET_ENHANCED, &u32s(order, &[0, 0, 9, 0, 62])),
        ]
        .concat();
        let ethernet = LinkType::Ethernet;
        let expected = [
            (ethernet, at(7), 60, b"abc".to_vec()),
            (ethernet, at(8), 61, b"x".to_vec()),
            (ethernet, Timing::None, 2, b"yz".to_vec()),
            (ethernet, at(9), 62, Vec::new()),
        ];
        assert_eq!(frames(&capture).expect("a sound capture"), expected);
        for piece in [4096, 65_537, BUFFER_MAX] {
            assert_eq!(frames_in_pieces(&capture, piece).expect("a sound capture"), expected);
        }
    }
}

#[test]
fn damage_in_a_block_longer_than_the_buffer_is_reported() {
    let order = ByteOrder::Little;
    let start = [section(order, [1, 0]), interface(order, 1, &[])].concat();
    let fault = |blocks: &[u8]| frames(&[&start[..], blocks].concat()).expect_err("damage");
    let long = |captured| [u32s(order, &[0, 0, 7, captured, 60]), comments(order)].concat();
    let mut trailer = block(order, PACKET_ENHANCED, &long(3));
    *trailer.last_mut().expect("a byte") = 9;
    assert!(matches!(fault(&trailer), Fault::Trailer { .. }));
    let huge = block(order, PACKET_ENHANCED, &long(CAPTURED_MAX + 1));
    assert!(matches!(fault(&huge), Fault::CapturedLength { .. }));
    let described = [u32s(order, &[1, 0, 7, 3, 60]), comments(order)].concat();
    let unknown = block(order, PACKET_ENHANCED, &described);
    assert!(matches!(fault(&unknown), Fault::Interface { found: 1, described: 1 }));
    let options = [comments(order), option(order, OPTION_OFFSET, &[0; 7])].concat();
    let offset = interface(order, 1, &options);
    assert!(matches!(fault(&offset), Fault::Option { code: 14, found: 7, expected: 8 }));
    let options = [comments(order), u16s(order, &[1, 5, 0, 0])].concat();
    let room = interface(order, 1, &options);
    assert!(matches!(fault(&room), Fault::Option { code: 1, found: 5, expected: 4 }));
}

#[test]
fn repeated_option_is_reported_and_the_first_one_used() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let secs = |secs: i64| match order {
            ByteOrder::Little => secs.to_le_bytes(),
            ByteOrder::Big => secs.to_be_bytes(),
        };
        let options = [
            option(order, OPTION_RESOLUTION, &[3]),
            option(order, OPTION_OFFSET, &secs(10)),
            option(order, OPTION_RESOLUTION, &[9]),
            option(order, OPTION_OFFSET, &secs(-10)),
        ];
        let packet = block(order, PACKET_ENHANCED, &u32s(order, &[0, 0, 7, 0, 60]));
        for (options, expected) in [
            (&options[..], Some("if_tsoffset")),
            (&options[..3], Some("if_tsresol")),
            (&options[..2], None),
        ] {
            let start = [section(order, [1, 0]), interface(order, 1, &options.concat())].concat();
            let mut pcapng = Pcapng::new();
            let mut rest = &start[..];
            while !rest.is_empty() {
                let Parsed::Skip(used) = pcapng.next(rest) else { panic!("a sound capture") };
                rest = &rest[used..];
            }
            let repeated = pcapng.take_repeated();
            assert_eq!(repeated, expected.map(|option| Repeated { interface: 0, option }));
            assert_eq!(pcapng.take_repeated(), None);
            let Parsed::Frame(frame, _) = pcapng.next(&packet) else { panic!("a packet") };
            assert_eq!(frame.timing, at(10_007));
        }
    }
}

#[test]
fn option_after_the_end_of_options_is_ignored() {
    let order = ByteOrder::Little;
    let options = [option(order, OPTION_END, &[]), option(order, OPTION_RESOLUTION, &[3])].concat();
    let packet = block(order, PACKET_ENHANCED, &u32s(order, &[0, 0, 7000, 0, 60]));
    let capture = [section(order, [1, 0]), interface(order, 1, &options), packet].concat();
    assert_eq!(frames(&capture).expect("a sound capture")[0].1, at(7));
}
