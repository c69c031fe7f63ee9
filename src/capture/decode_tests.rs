//! Header stacks, each with the answer by the counting rules.

use super::*;

const MACS: [u8; 12] = [0; 12];

fn v4(length: u16) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    header
}

fn v6(payload: u16, next: u8) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&payload.to_be_bytes());
    header[6] = next;
    header[23] = 1;
    header[39] = 2;
    header
}

fn check(number: u32, parts: &[&[u8]], wire: u32, expected: Result<u64, Uncounted>) {
    let frame = parts.concat();
    let found = decode(LinkType::new(number), &frame, wire);
    assert_eq!(found.map(|(_, bytes)| bytes), expected, "link type {number}, {frame:02x?}");
}

#[test]
fn link_headers() {
    let ip = v4(77);
    let ip6 = v6(10, 17);
    check(1, &[&MACS, &[8, 0], &ip], 0, Ok(77));
    check(1, &[&MACS, &[0x86, 0xdd], &ip6], 0, Ok(50));
    check(0, &[&[2, 0, 0, 0], &ip], 0, Ok(77));
    check(108, &[&[0, 0, 0, 2], &ip], 0, Ok(77));
    check(0, &[&[0, 0, 0, 30], &ip6], 0, Ok(50));
    check(0, &[&[24, 0, 0, 0], &ip6], 0, Ok(50));
    check(0, &[&[7, 0, 0, 0], &ip], 0, Err(Uncounted::NotIp));
    check(9, &[&[0xff, 3, 0, 0x21], &ip], 0, Ok(77));
    check(9, &[&[0x21], &ip], 0, Ok(77));
    check(50, &[&[0, 0x57], &ip6], 0, Ok(50));
    check(50, &[&[0x0f, 0, 8, 0], &ip], 0, Ok(77));
    check(104, &[&[0x0f, 0, 8, 0], &ip], 0, Ok(77));
    for raw in [12, 14, 101] {
        check(raw, &[&ip], 0, Ok(77));
        check(raw, &[&ip6], 0, Ok(50));
    }
    check(228, &[&ip], 0, Ok(77));
    check(228, &[&ip6], 0, Err(Uncounted::BadVersion));
    check(229, &[&ip6], 0, Ok(50));
    check(113, &[&[0; 14], &[8, 0], &ip], 0, Ok(77));
    check(276, &[&[8, 0], &[0; 18], &ip], 0, Ok(77));
    check(147, &[&ip], 0, Err(Uncounted::LinkType));
}

#[test]
fn tags_labels_and_sessions() {
    let ip = v4(77);
    let tags = [0x88, 0xa8, 0, 1, 0x91, 0, 0, 2, 0x81, 0, 0, 3, 8, 0];
    check(1, &[&MACS, &tags, &ip], 0, Ok(77));
    let labels = [0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64];
    check(1, &[&MACS, &labels, &ip], 0, Ok(77));
    check(1, &[&MACS, &labels, &[0; 20]], 0, Err(Uncounted::Pseudowire));
    check(1, &[&MACS, &labels], 0, Err(Uncounted::TruncatedLink));
    let session = [0x88, 0x64, 0x11, 0, 0, 1, 0, 0, 0, 0x21];
    check(1, &[&MACS, &session, &ip], 0, Ok(77));
    let ppp_mpls = [0x88, 0x64, 0x11, 0, 0, 1, 0, 0, 2, 0x81, 0, 1, 1, 64];
    check(1, &[&MACS, &ppp_mpls, &ip], 0, Ok(77));
    let snap = [0, 40, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
    check(1, &[&MACS, &snap, &ip], 0, Ok(77));
    check(1, &[&MACS, &[0, 40, 0x42, 0x42, 3, 0, 0, 0]], 0, Err(Uncounted::NotIp));
    check(1, &[&MACS, &[0x81, 0, 0, 1], &snap, &ip], 0, Ok(77));
    check(1, &[&MACS, &[8, 6], &ip], 0, Err(Uncounted::NotIp));
    check(1, &[&MACS, &[0x88, 0xe7], &ip], 0, Err(Uncounted::NotIp));
}

#[test]
fn ipv4_lengths() {
    let ethernet = |ip: &[u8], wire, expected| check(1, &[&MACS, &[8, 0], ip], wire, expected);
    ethernet(&v4(1500), 60, Ok(1500));
    ethernet(&v4(0), 80_066, Ok(80_052));
    ethernet(&v4(0), 20, Err(Uncounted::BadLength));
    ethernet(&v4(0), 3, Err(Uncounted::BadLength));
    ethernet(&v4(19), 60, Err(Uncounted::BadLength));
    ethernet(&v4(60)[..19], 60, Err(Uncounted::TruncatedIp));
    let mut short = v4(60);
    short[0] = 0x44;
    ethernet(&short, 60, Err(Uncounted::BadHeader));
    // Header options need not be captured.
    let mut long = v4(60);
    long[0] = 0x4f;
    ethernet(&long, 60, Ok(60));
}

#[test]
fn ipv6_lengths() {
    let raw = |ip: &[&[u8]], wire, expected| check(229, ip, wire, expected);
    raw(&[&v6(0, 6)], 80_040, Ok(80_040));
    raw(&[&v6(0, 0), &[6, 0, 0xc2, 4, 0, 1, 0x38, 0xa8]], 9, Ok(80_080 - 40 + 40));
    raw(&[&v6(0, 0), &[6, 0, 1, 4, 0, 0, 0, 0]], 99, Ok(40));
    raw(&[&v6(0, 0), &[6, 0, 0, 0, 1, 2, 0, 0]], 99, Ok(40));
    raw(&[&v6(0, 0), &[6, 0, 0xc2, 4, 0, 1]], 99, Ok(99));
    raw(&[&v6(0, 0)], 99, Ok(99));
    // An option that runs past its header is none.
    raw(&[&v6(0, 0), &[6, 0, 1, 1, 0, 0xc2, 4, 0, 0, 9, 9]], 99, Ok(40));
    raw(&[&v6(8, 6)[..39]], 99, Err(Uncounted::TruncatedIp));
    raw(&[&v4(60), &[0; 20]], 99, Err(Uncounted::BadVersion));
}

#[test]
fn every_cut_of_a_deep_stack_is_answered() {
    let tags = [0x81, 0, 0, 1, 0x88, 0x64, 0x11, 0, 0, 1, 0, 0, 2, 0x81, 0, 1, 1, 64];
    let frame = [&MACS[..], &tags, &v4(77)].concat();
    for number in [0, 1, 9, 12, 101, 104, 113, 228, 229, 276] {
        for end in 0..frame.len() {
            assert!(decode(LinkType::new(number), &frame[..end], 99).is_err());
        }
    }
}
