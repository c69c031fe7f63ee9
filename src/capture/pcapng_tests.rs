//! Blocks built by hand, in both byte orders.

use super::*;
use crate::capture::EventTime;

fn u32s(order: Order, words: &[u32]) -> Vec<u8> {
    let bytes = |word: &u32| match order {
        Order::Little => word.to_le_bytes(),
        Order::Big => word.to_be_bytes(),
    };
    words.iter().flat_map(bytes).collect()
}

fn u16s(order: Order, words: &[u16]) -> Vec<u8> {
    let bytes = |word: &u16| match order {
        Order::Little => word.to_le_bytes(),
        Order::Big => word.to_be_bytes(),
    };
    words.iter().flat_map(bytes).collect()
}

fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u32 + 12;
    [&u32s(order, &[kind, length])[..], body, &u32s(order, &[length])].concat()
}

fn section(order: Order, version: [u16; 2]) -> Vec<u8> {
    let body = [u32s(order, &[0x1a2b_3c4d]), u16s(order, &version), vec![0xff; 8]];
    block(order, 0x0a0d_0d0a, &body.concat())
}

fn interface(order: Order, link: u16, options: &[u8]) -> Vec<u8> {
    let body = [&u16s(order, &[link, 0])[..], &u32s(order, &[0]), options];
    block(order, INTERFACE, &body.concat())
}

/// Link type, time, wire length, captured bytes.
type Seen = (LinkType, Timing, u32, Vec<u8>);

/// The frames of a capture shown whole.
fn frames(capture: &[u8]) -> Result<Vec<Seen>, Fault> {
    let mut pcapng = Pcapng::new();
    let mut rest = capture;
    let mut frames = Vec::new();
    loop {
        let used = match pcapng.next(rest) {
            Found::Frame(frame, used) => {
                frames.push((frame.link, frame.timing, frame.wire, frame.bytes.to_vec()));
                used
            }
            Found::Pass(used) => used,
            Found::Bad(fault) => return Err(fault),
            Found::Need(expected) if !rest.is_empty() || !pcapng.between_blocks() => {
                return Err(Fault::Cut { found: rest.len(), expected });
            }
            Found::Need(_) => return Ok(frames),
        };
        rest = &rest[used..];
    }
}

fn at(ms: u64) -> Timing {
    Timing::At(EventTime { ms, nanos: 0 })
}

#[test]
fn sections_interfaces_and_the_three_kinds_of_packets() {
    for order in [Order::Little, Order::Big] {
        let offset: [u8; 8] = match order {
            Order::Little => 10i64.to_le_bytes(),
            Order::Big => 10i64.to_be_bytes(),
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
fn damage_is_told_apart() {
    let order = Order::Little;
    let start = [section(order, [1, 0]), interface(order, 1, &[])].concat();
    let fault = |block: &[u8]| frames(&[&start[..], block].concat()).expect_err("damage");
    assert!(matches!(fault(&section(order, [2, 0])), Fault::SectionVersion { major: 2, .. }));
    let packet = |words: &[u32]| block(order, PACKET_ENHANCED, &u32s(order, words));
    assert!(matches!(fault(&packet(&[1, 0, 0, 0, 0])), Fault::Interface { found: 1, .. }));
    assert!(matches!(fault(&packet(&[0, 0, 0, 1, 0])), Fault::FrameRoom { found: 1, room: 0 }));
    let huge = packet(&[0, 0, 0, CAPTURED_MAX + 1, 0]);
    assert!(matches!(fault(&huge), Fault::CapturedLength { .. }));
    assert!(matches!(fault(&packet(&[0, 0, 0, 0])), Fault::BlockLength { found: 28, .. }));
    let endless = u32s(order, &[PACKET_ENHANCED, 0xffff_fff0]);
    assert!(matches!(fault(&endless), Fault::BlockLength { .. }));
    assert!(matches!(fault(&u32s(order, &[0x4444, 13])), Fault::BlockLength { .. }));
    let mut trailer = block(order, 0x4444, &[]);
    trailer[8] = 13;
    assert!(matches!(fault(&trailer), Fault::Trailer { found: 13, expected: 12 }));
    let long = interface(order, 1, &u16s(order, &[9, 5, 0, 0]));
    assert!(matches!(fault(&long), Fault::Option { code: 9, found: 5, expected: 4 }));
    let cut = &block(order, 0x4444, &[0; 8])[..16];
    assert!(matches!(fault(cut), Fault::Cut { .. }));
    // After a new section the interfaces of the one before are gone.
    let again = [section(order, [1, 0]), packet(&[0, 0, 0, 0, 0])].concat();
    assert!(matches!(fault(&again), Fault::Interface { found: 0, described: 0 }));
}
