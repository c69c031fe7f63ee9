//! Header stacks, each with the expected result by the counting rules.

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
fn header_of_each_link_type_leads_to_ip_or_a_reason() {
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
fn tags_labels_and_sessions_lead_to_ip_or_a_reason() {
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
fn ipv4_bytes_are_the_total_length_or_the_wire_length() {
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
fn ipv6_bytes_are_the_payload_or_jumbo_or_wire_length() {
    let raw = |ip: &[&[u8]], wire, expected| check(229, ip, wire, expected);
    raw(&[&v6(0, 6)], 80_040, Ok(80_040));
    raw(&[&v6(0, 0), &[6, 0, 0xc2, 4, 0, 1, 0x38, 0xa8]], 9, Ok(80_080 - 40 + 40));
    raw(&[&v6(0, 0), &[6, 0, 1, 4, 0, 0, 0, 0]], 99, Ok(40));
    raw(&[&v6(0, 0), &[6, 0, 0, 0, 1, 2, 0, 0]], 99, Ok(40));
    raw(&[&v6(0, 0), &[6, 0, 0xc2, 4, 0, 1]], 99, Ok(99));
    raw(&[&v6(0, 0)], 99, Ok(99));
    // An option beyond the end of its header is ignored.
    raw(&[&v6(0, 0), &[6, 0, 1, 1, 0, 0xc2, 4, 0, 0, 9, 9]], 99, Ok(40));
    raw(&[&v6(8, 6)[..39]], 99, Err(Uncounted::TruncatedIp));
    raw(&[&v4(60), &[0; 20]], 99, Err(Uncounted::BadVersion));
}

#[test]
fn header_stack_cut_at_any_byte_is_rejected() {
    let tags = [0x81, 0, 0, 1, 0x88, 0x64, 0x11, 0, 0, 1, 0, 0, 2, 0x81, 0, 1, 1, 64];
    let frame = [&MACS[..], &tags, &v4(77)].concat();
    for number in [0, 1, 9, 12, 101, 104, 113, 228, 229, 276] {
        for end in 0..frame.len() {
            assert!(decode(LinkType::new(number), &frame[..end], 99).is_err());
        }
    }
}

/// Little-endian words.
fn le32s(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

const SNAP_IPV4: [u8; 8] = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];

/// The header of an 802.11 data frame: subtype, flags, fragment, and the bytes after three addresses.
fn wlan(subtype: u8, flags: u8, fragment: u8, more: &[u8]) -> Vec<u8> {
    let start = [0x08 | subtype << 4, flags, 0, 0];
    let addresses = [[1u8; 6], [2; 6], [3; 6]].concat();
    [&start[..], &addresses, &[fragment, 0x12], more].concat()
}

#[test]
fn wlan_header_length_follows_its_flags() {
    let ip = [&SNAP_IPV4[..], &v4(77)].concat();
    let counts = |header: Vec<u8>| check(105, &[&header, &ip], 0, Ok(77));
    for flags in [0, 1, 2, 0x08, 0x10, 0x20, 0x80] {
        counts(wlan(0, flags, 0, &[]));
    }
    counts(wlan(0, 3, 0, &[4; 6]));
    counts(wlan(8, 0, 0, &[0, 0]));
    counts(wlan(8, 3, 0, &[4, 4, 4, 4, 4, 4, 0, 0]));
    counts(wlan(8, 0x80, 0, &[0, 0, 9, 9, 9, 9]));
    // Mesh control: flags for no, one and two more addresses.
    counts(wlan(8, 2, 0, &[0, 1, 0, 9, 9, 9, 9, 9]));
    counts(wlan(8, 2, 0, &[&[0, 1, 1][..], &[9; 11]].concat()));
    counts(wlan(8, 2, 0, &[&[0, 1, 2][..], &[9; 17]].concat()));
    // An Ethernet frame, zeros, or the sequence control before LLC.
    let ethernet = [[1u8; 6], [9; 6]].concat();
    check(105, &[&wlan(0, 2, 0, &ethernet), &[8, 0], &v4(77)], 0, Ok(77));
    counts(wlan(0, 0, 0, &[0, 0]));
    counts(wlan(0, 0, 0, &[0, 0x12]));
}

#[test]
fn wlan_frame_without_a_readable_packet_has_its_own_reason() {
    let ip = [&SNAP_IPV4[..], &v4(77)].concat();
    let kind = |header: Vec<u8>, kind| check(105, &[&header, &ip], 0, Err(kind));
    kind(wlan(0, 0x40, 0, &[]), Uncounted::Encrypted);
    kind(wlan(8, 0x40, 0, &[0x80, 0]), Uncounted::Encrypted);
    kind(wlan(8, 0, 0, &[0x80, 0]), Uncounted::Aggregate);
    // The first fragment has the header; a later one has not, unless the radio reassembled it.
    check(105, &[&wlan(0, 4, 0, &[]), &ip], 0, Ok(77));
    kind(wlan(0, 4, 1, &[]), Uncounted::LinkFragment);
    check(105, &[&wlan(0, 0, 1, &[]), &[7; 40]], 0, Err(Uncounted::LinkFragment));
    check(105, &[&wlan(0, 0, 1, &[]), &ip], 0, Ok(77));
    // Null, QoS null, management, control, another version.
    for first in [0x48, 0xc8, 0x80, 0xd4, 0x09] {
        check(105, &[&[first], &wlan(0, 0, 0, &[])[1..], &ip], 0, Err(Uncounted::NotIp));
    }
}

#[test]
fn radiotap_flags_are_read_behind_all_words_and_the_timer() {
    let body = [&wlan(8, 0, 0, &[0, 0])[..], &[0, 0], &SNAP_IPV4, &v4(0), &[1, 2, 3, 4]].concat();
    // Padded to 28 bytes of header; 20 bytes of IP on the wire, and a check sequence.
    let flags: u8 = 0x10 | 0x20;
    let one = [&[0u8, 0, 9, 0][..], &le32s(&[2]), &[flags]].concat();
    let timer = [&[0u8, 0, 17, 0][..], &le32s(&[3]), &[7; 8], &[flags]].concat();
    let words = [0x8000_0003, 0xa000_0020, 0x20];
    let words = [&[0u8, 0, 26, 0][..], &le32s(&words), &[7; 8], &[flags, 1]].concat();
    for header in [one, timer, words] {
        let wire = (header.len() + body.len()) as u32;
        check(127, &[&header, &body], wire, Ok(20));
    }
    check(127, &[&[0, 0, 7, 0, 0, 0, 0, 0], &body], 0, Err(Uncounted::BadLink));
    check(127, &[&[0, 0, 8, 0, 0, 0, 0, 0x80], &body], 0, Err(Uncounted::BadLink));
    let no_frame = [&[0u8, 0, 9, 0][..], &le32s(&[1 << 26]), &[0]].concat();
    check(127, &[&no_frame, &body], 0, Err(Uncounted::NotIp));
}

#[test]
fn metadata_header_leads_to_the_link_type_of_the_inner_frame() {
    let ip = v4(77);
    let pktap = |length: u32, link: u32| {
        let mut header = le32s(&[length, 1, link]);
        header.resize(length as usize, 0);
        header
    };
    for number in [149, 258] {
        check(number, &[&pktap(108, 12), &ip], 0, Ok(77));
        check(number, &[&pktap(156, 258), &pktap(108, 0), &[2, 0, 0, 0], &ip], 0, Ok(77));
        check(number, &[&pktap(108, 195), &ip], 0, Err(Uncounted::LinkType));
        let frame = [pktap(108, 195), ip.clone()].concat();
        assert_eq!(link::unsupported_number(LinkType::new(number), &frame), 195);
    }
    check(258, &[&le32s(&[12, 1, 12]), &ip], 0, Err(Uncounted::BadLink));
    check(149, &[&le32s(&[12, 1, 12]), &ip], 0, Err(Uncounted::LinkType));
    assert_eq!(link::unsupported_number(LinkType::User2, &[0; 60]), 149);
    assert_eq!(link::unsupported_number(LinkType::Other(147), &[]), 147);
    let ppi = [0, 0, 8, 0, 12, 0, 0, 0];
    check(192, &[&ppi, &ip], 0, Ok(77));
    check(192, &[&[0, 0, 4, 0, 12, 0, 0, 0], &ip], 0, Err(Uncounted::BadLink));
    // Metadata within metadata without end are rejected.
    let deep = pktap(108, 258).repeat(2000);
    check(258, &[&deep], 0, Err(Uncounted::TruncatedLink));
}

#[test]
fn nflog_attributes_are_read_in_either_byte_order() {
    let ip = v4(0);
    let little = |family: u8, more: &[u8]| {
        [&[family, 0, 0, 5][..], more, &[24, 0, 9, 0], &ip, &[8, 0, 11, 0, 0, 0, 0, 0]].concat()
    };
    let named = [8, 0, 1, 0, 8, 0, 0, 0, 7, 0, 10, 0, b'a', b'b', 0, 0];
    let big = [&[2u8, 0, 0, 5, 0, 7, 0, 10, b'a', b'b', 0, 0, 0, 24, 0, 9][..], &ip].concat();
    // The length of the attribute stands for the length on the wire.
    check(239, &[&little(2, &[])], 500, Ok(20));
    check(239, &[&little(7, &named)], 500, Ok(20));
    check(239, &[&big], 500, Ok(20));
    check(239, &[&little(7, &[])], 500, Err(Uncounted::NotIp));
    check(239, &[&[2, 0, 0, 5, 3, 0, 1, 0]], 500, Err(Uncounted::BadLink));
    check(239, &[&[2, 0, 0, 5, 8, 0, 5, 0, 0, 0, 0, 0]], 12, Err(Uncounted::NotIp));
    check(239, &[&[2, 0, 0, 5, 8, 0, 5, 0, 0, 0, 0, 0]], 50, Err(Uncounted::TruncatedLink));
}

#[test]
fn frame_relay_address_of_any_length_is_skipped_in_both_encapsulations() {
    let ip = v4(77);
    for address in [&[0x18, 0x41][..], &[0x18, 0x40, 0x11], &[0x18, 0x40, 0x10, 0x21]] {
        check(107, &[address, &[3, 0xcc], &ip], 0, Ok(77));
        check(107, &[address, &[3, 0, 0xcc], &ip], 0, Ok(77));
        check(107, &[address, &[3, 0x8e], &v6(10, 17)], 0, Ok(50));
        check(107, &[address, &[3, 0xcf, 0, 0x21], &ip], 0, Ok(77));
        check(107, &[address, &[3, 0x80, 0, 0, 0, 8, 0], &ip], 0, Ok(77));
        check(107, &[address, &[8, 0], &ip], 0, Ok(77));
        let bridged = [&[3u8, 0x80, 0, 0x80, 0xc2, 0, 7][..], &MACS, &[8, 0]].concat();
        check(107, &[address, &bridged, &ip], 0, Ok(77));
        check(107, &[address, &[3, 8], &ip], 0, Err(Uncounted::NotIp));
        check(107, &[address, &[0xaf], &ip], 0, Err(Uncounted::NotIp));
    }
    check(107, &[&[0, 1, 8, 0], &ip], 0, Err(Uncounted::NotIp));
    check(107, &[&[0x18, 0x40, 0x10, 0x20, 0x21, 3, 0xcc], &ip], 0, Err(Uncounted::BadLink));
}

#[test]
fn any_bytes_are_decoded_or_rejected_under_every_link_type() {
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let starts: [&[u8]; 9] = [
        &[],
        &[0x88, 0x02, 0, 0],
        &[0, 0, 8, 0],
        &[0x44, 0, 0, 0],
        &[0x80, 0x21, 0x10, 1, 0, 0, 0, 64],
        &[108, 0, 0, 0, 1, 0, 0, 0, 127, 0, 0, 0],
        &[2, 0, 0, 0, 8, 0, 1, 0],
        &[0x18, 0x41, 3],
        &SNAP_IPV4,
    ];
    for _ in 0..20_000 {
        let number = random(300) as u32;
        let mut frame = starts[random(starts.len())].to_vec();
        frame.resize_with(frame.len() + random(160), || random(256) as u8);
        for end in [frame.len(), random(frame.len() + 1)] {
            let link = LinkType::new(number);
            let found = decode(link, &frame[..end], random(2) as u32 * 2000);
            if found == Err(Uncounted::LinkType) {
                link::unsupported_number(link, &frame[..end]);
            }
        }
    }
}
