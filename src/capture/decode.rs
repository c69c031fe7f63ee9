//! From the bytes of a frame to its pair and length. No I/O, no state, no panic: every access is checked, and a missing
//! byte is a reason not to count the frame.

use floodmark_dataflows::types::Pair;
use pnet_packet::Packet as _;
use pnet_packet::ethernet::{EtherTypes, EthernetPacket};
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;

use super::Uncounted;
use super::layer::{Layer, Rest};
use super::link;
use super::link_type::LinkType;
use super::wireless;

const VLAN: u16 = 0x8100;
const VLAN_PROVIDER: u16 = 0x88a8;
const VLAN_OLD: u16 = 0x9100;
const MPLS: u16 = 0x8847;
const MPLS_UPSTREAM: u16 = 0x8848;
const PPPOE_SESSION: u16 = 0x8864;
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
const PPP_MPLS: u16 = 0x0281;
const LENGTH_MAX: u16 = 1500;

/// Returns the pair and the bytes on the wire of the outermost IP packet of a frame.
#[inline(always)]
pub(super) fn decode(link: LinkType, frame: &[u8], wire: u32) -> Result<(Pair, u64), Uncounted> {
    // The fast path of nearly all frames.
    if link == LinkType::Ethernet
        && let Some(ethernet) = EthernetPacket::new(frame)
        && ethernet.get_ethertype() == EtherTypes::Ipv4
    {
        let mut rest = Rest::new(frame, wire);
        rest.skip(EthernetPacket::minimum_packet_size());
        return ipv4(rest);
    }
    decode_any(link, frame, wire)
}

/// Skips headers down to IP. Every iteration skips bytes or moves to a layer that does, so the loop ends.
#[inline(never)]
fn decode_any(link: LinkType, frame: &[u8], wire: u32) -> Result<(Pair, u64), Uncounted> {
    let mut rest = Rest::new(frame, wire);
    let mut layer = link::header(link, &mut rest)?;
    loop {
        layer = match layer {
            Layer::Type(kind) => ether_type(kind, &mut rest)?,
            Layer::TypeOrLength(length) if length <= LENGTH_MAX => Layer::Llc,
            Layer::TypeOrLength(kind) => Layer::Type(kind),
            Layer::Ppp => ppp(&mut rest)?,
            Layer::Mpls => mpls(&mut rest)?,
            Layer::Llc => llc(&mut rest)?,
            Layer::Snap { bridge_padding } => snap(bridge_padding, &mut rest)?,
            Layer::Link(link) => link::header(link, &mut rest)?,
            Layer::Wlan(radio) => wireless::data(radio, &mut rest)?,
            Layer::Ip => match rest.byte(0)? >> 4 {
                4 => Layer::Ipv4,
                6 => Layer::Ipv6,
                _ => return Err(Uncounted::BadVersion),
            },
            Layer::Ipv4 => return ipv4(rest),
            Layer::Ipv6 => return ipv6(rest),
        }
    }
}

/// Returns the layer that an EtherType announces, after stepping over headers of a fixed size.
fn ether_type(kind: u16, rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    let (layer, length) = match kind {
        0x0800 => (Layer::Ipv4, 0),
        0x86dd => (Layer::Ipv6, 0),
        VLAN | VLAN_PROVIDER | VLAN_OLD => (Layer::TypeOrLength(rest.be16(2)?), 4),
        MPLS | MPLS_UPSTREAM => (Layer::Mpls, 0),
        PPPOE_SESSION => (Layer::Ppp, 6),
        _ => return Err(Uncounted::NotIp),
    };
    rest.skip(length);
    Ok(layer)
}

/// Parses a PPP protocol number. An odd first byte is the whole number, without its zero byte.
fn ppp(rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    let first = rest.byte(0)?;
    let (protocol, size) = match first & 1 {
        1 => (u16::from(first), 1),
        _ => (rest.be16(0)?, 2),
    };
    rest.skip(size);
    match protocol {
        PPP_IPV4 => Ok(Layer::Ipv4),
        PPP_IPV6 => Ok(Layer::Ipv6),
        PPP_MPLS => Ok(Layer::Mpls),
        _ => Err(Uncounted::NotIp),
    }
}

/// Skips an MPLS label. The first bits after the bottom of the stack give the version of IP; the labels do not.
fn mpls(rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    let bottom = rest.byte(2)? & 1 == 1;
    rest.skip(4);
    match bottom {
        false => Ok(Layer::Mpls),
        true => match rest.byte(0)? >> 4 {
            4 => Ok(Layer::Ipv4),
            6 => Ok(Layer::Ipv6),
            _ => Err(Uncounted::Pseudowire),
        },
    }
}

/// Parses LLC: an unnumbered information frame of SNAP or of IP itself.
fn llc(rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    const SNAP: u8 = 0xaa;
    const IP: u8 = 0x06;
    const INFORMATION: u8 = 0x03;
    let layer = match rest.array(0)? {
        [SNAP, SNAP, INFORMATION] => Layer::Snap { bridge_padding: 2 },
        [IP, _, INFORMATION] => Layer::Ip,
        _ => return Err(Uncounted::NotIp),
    };
    rest.skip(3);
    Ok(layer)
}

/// Parses SNAP: an organization, and its number for the protocol, an EtherType for those supported.
fn snap(bridge_padding: usize, rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    const ETHERNET: [u8; 3] = [0x00, 0x00, 0x00];
    const BRIDGE_TUNNEL: [u8; 3] = [0x00, 0x00, 0xf8];
    const BRIDGED: [u8; 3] = [0x00, 0x80, 0xc2];
    const WITH_CHECK_SEQUENCE: u16 = 1;
    const WITHOUT_CHECK_SEQUENCE: u16 = 7;
    let organization: [u8; 3] = rest.array(0)?;
    let kind = rest.be16(3)?;
    rest.skip(5);
    match (organization, kind) {
        (ETHERNET | BRIDGE_TUNNEL, _) => Ok(Layer::Type(kind)),
        (BRIDGED, WITH_CHECK_SEQUENCE | WITHOUT_CHECK_SEQUENCE) => {
            rest.skip(bridge_padding);
            if kind == WITH_CHECK_SEQUENCE {
                rest.trim(4);
            }
            Ok(Layer::Link(LinkType::Ethernet))
        }
        _ => Err(Uncounted::NotIp),
    }
}

#[inline]
fn ipv4(rest: Rest<'_>) -> Result<(Pair, u64), Uncounted> {
    let header = Ipv4Packet::new(rest.bytes).ok_or(Uncounted::TruncatedIp)?;
    if header.get_version() != 4 {
        return Err(Uncounted::BadVersion);
    }
    let header_length = u64::from(header.get_header_length()) * 4;
    if header_length < 20 {
        return Err(Uncounted::BadHeader);
    }
    let bytes = match header.get_total_length() {
        // The length did not fit, or segmentation was left to the network card.
        0 => u64::from(rest.wire),
        length => u64::from(length),
    };
    if bytes < header_length {
        return Err(Uncounted::BadLength);
    }
    Ok((Pair::V4(header.get_source(), header.get_destination()), bytes))
}

const IPV6_HEADER: u64 = 40;

fn ipv6(rest: Rest<'_>) -> Result<(Pair, u64), Uncounted> {
    let header = Ipv6Packet::new(rest.bytes).ok_or(Uncounted::TruncatedIp)?;
    if header.get_version() != 6 {
        return Err(Uncounted::BadVersion);
    }
    let bytes = match (header.get_payload_length(), header.get_next_header().0) {
        (0, 0) => match jumbo(header.packet().get(40..).unwrap_or_default()) {
            Jumbo::Length(length) => IPV6_HEADER + u64::from(length),
            Jumbo::Absent => IPV6_HEADER,
            Jumbo::NotCaptured => u64::from(rest.wire),
        },
        (0, _) => u64::from(rest.wire),
        (length, _) => IPV6_HEADER + u64::from(length),
    };
    Ok((Pair::V6(header.get_source(), header.get_destination()), bytes))
}

/// The jumbo-payload option of a hop-by-hop header.
#[derive(Debug, PartialEq, Eq)]
enum Jumbo {
    Length(u32),
    Absent,
    /// The captured bytes end before the option.
    NotCaptured,
}

const OPTION_PAD1: u8 = 0;
const OPTION_JUMBO: u8 = 0xc2;

fn jumbo(hop_by_hop: &[u8]) -> Jumbo {
    let Some(units) = hop_by_hop.get(1) else {
        return Jumbo::NotCaptured;
    };
    let end = 8 + 8 * usize::from(*units);
    let mut at = 2;
    while at < end {
        let Some(kind) = hop_by_hop.get(at) else {
            return Jumbo::NotCaptured;
        };
        if *kind == OPTION_PAD1 {
            at += 1;
            continue;
        }
        let Some(length) = hop_by_hop.get(at + 1) else {
            return Jumbo::NotCaptured;
        };
        let value = at + 2;
        at = value + usize::from(*length);
        if *kind == OPTION_JUMBO && *length == 4 && at <= end {
            let length = hop_by_hop.get(value..).and_then(|rest| rest.first_chunk());
            return length
                .map_or(Jumbo::NotCaptured, |length| Jumbo::Length(u32::from_be_bytes(*length)));
        }
    }
    Jumbo::Absent
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
