//! From the bytes of a frame to its pair and length. No I/O, no state, no panic: every access is
//! checked, and what is missing is a reason not to count.

use floodmark_dataflows::types::Pair;
use pnet_packet::Packet as _;
use pnet_packet::ethernet::{EtherTypes, EthernetPacket};
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;

use super::Uncounted;

/// How frames of an interface begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// BSD loopback: an address family in either byte order.
    Loopback,
    /// Ethernet.
    Ethernet,
    /// PPP, with or without address and control bytes, or Cisco HDLC in their place.
    Ppp,
    /// Cisco HDLC.
    CiscoHdlc,
    /// IP of either version, nothing before it.
    RawIp,
    /// IPv4, nothing before it.
    RawIpv4,
    /// IPv6, nothing before it.
    RawIpv6,
    /// Linux cooked capture, version 1.
    Cooked,
    /// Linux cooked capture, version 2.
    Cooked2,
    /// One that is not read, by its number.
    Other(u32),
}

impl LinkType {
    /// By the number that captures have for it.
    pub fn new(number: u32) -> Self {
        match number {
            0 | 108 => LinkType::Loopback,
            1 => LinkType::Ethernet,
            9 | 50 => LinkType::Ppp,
            12 | 14 | 101 => LinkType::RawIp,
            104 => LinkType::CiscoHdlc,
            113 => LinkType::Cooked,
            228 => LinkType::RawIpv4,
            229 => LinkType::RawIpv6,
            276 => LinkType::Cooked2,
            other => LinkType::Other(other),
        }
    }
}

/// What stands at an offset of a frame.
#[derive(Clone, Copy, Debug)]
enum Layer {
    /// What an EtherType announces.
    Type(u16),
    /// The same, or an 802.3 length, as after Ethernet and VLAN headers.
    TypeOrLength(u16),
    Ppp,
    Mpls,
    /// IP of the version that its first bits tell.
    Ip,
    Ipv4,
    Ipv6,
}

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
const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0x00, 0x00, 0x00];

/// The pair and the bytes on the wire of the outermost IP packet of a frame.
#[inline(always)]
pub(super) fn decode(link: LinkType, frame: &[u8], wire: u32) -> Result<(Pair, u64), Uncounted> {
    // Nearly all frames are this one.
    if link == LinkType::Ethernet
        && let Some(ethernet) = EthernetPacket::new(frame)
        && ethernet.get_ethertype() == EtherTypes::Ipv4
    {
        return ipv4(frame, EthernetPacket::minimum_packet_size(), wire);
    }
    decode_any(link, frame, wire)
}

#[inline(never)]
fn decode_any(link: LinkType, frame: &[u8], wire: u32) -> Result<(Pair, u64), Uncounted> {
    let (layer, at) = link_header(link, frame)?;
    walk(layer, at, frame, wire)
}

/// What follows the header of the link type, and where.
fn link_header(link: LinkType, frame: &[u8]) -> Result<(Layer, usize), Uncounted> {
    Ok(match link {
        LinkType::Loopback => {
            let family: [u8; 4] = array(frame, 0)?;
            match u32::from_be_bytes(family).min(u32::from_le_bytes(family)) {
                2 => (Layer::Ipv4, 4),
                // What the BSDs, FreeBSD and Darwin call IPv6.
                24 | 28 | 30 => (Layer::Ipv6, 4),
                _ => return Err(Uncounted::NotIp),
            }
        }
        LinkType::Ethernet => (Layer::TypeOrLength(be16(frame, 12)?), 14),
        LinkType::Ppp => match array(frame, 0)? {
            [0xff, 0x03] => (Layer::Ppp, 2),
            [0x0f | 0x8f, _] => (Layer::Type(be16(frame, 2)?), 4),
            _ => (Layer::Ppp, 0),
        },
        LinkType::CiscoHdlc => (Layer::Type(be16(frame, 2)?), 4),
        LinkType::RawIp => (Layer::Ip, 0),
        LinkType::RawIpv4 => (Layer::Ipv4, 0),
        LinkType::RawIpv6 => (Layer::Ipv6, 0),
        LinkType::Cooked => (Layer::Type(be16(frame, 14)?), 16),
        LinkType::Cooked2 => (Layer::Type(be16(frame, 0)?), 20),
        LinkType::Other(_) => return Err(Uncounted::LinkType),
    })
}

/// Down to IP. Every round but a last one moves on in the frame, so this ends.
fn walk(
    mut layer: Layer,
    mut at: usize,
    frame: &[u8],
    wire: u32,
) -> Result<(Pair, u64), Uncounted> {
    loop {
        (layer, at) = match layer {
            Layer::Type(kind) => ether_type(kind, frame, at)?,
            Layer::TypeOrLength(length) if length <= LENGTH_MAX => {
                if array(frame, at)? != SNAP {
                    return Err(Uncounted::NotIp);
                }
                (Layer::Type(be16(frame, at + 6)?), at + 8)
            }
            Layer::TypeOrLength(kind) => (Layer::Type(kind), at),
            Layer::Ppp => ppp(frame, at)?,
            Layer::Mpls => mpls(frame, at)?,
            Layer::Ip => match byte(frame, at)? >> 4 {
                4 => (Layer::Ipv4, at),
                6 => (Layer::Ipv6, at),
                _ => return Err(Uncounted::BadVersion),
            },
            Layer::Ipv4 => return ipv4(frame, at, wire),
            Layer::Ipv6 => return ipv6(frame, at, wire),
        }
    }
}

/// What an EtherType announces; headers of a fixed size are stepped over.
fn ether_type(kind: u16, frame: &[u8], at: usize) -> Result<(Layer, usize), Uncounted> {
    Ok(match kind {
        0x0800 => (Layer::Ipv4, at),
        0x86dd => (Layer::Ipv6, at),
        VLAN | VLAN_PROVIDER | VLAN_OLD => (Layer::TypeOrLength(be16(frame, at + 2)?), at + 4),
        MPLS | MPLS_UPSTREAM => (Layer::Mpls, at),
        PPPOE_SESSION => (Layer::Ppp, at + 6),
        _ => return Err(Uncounted::NotIp),
    })
}

/// A PPP protocol number. An odd first byte is the whole number, its zero byte left out.
fn ppp(frame: &[u8], at: usize) -> Result<(Layer, usize), Uncounted> {
    let first = byte(frame, at)?;
    let (protocol, size) = match first & 1 {
        1 => (u16::from(first), 1),
        _ => (be16(frame, at)?, 2),
    };
    let layer = match protocol {
        PPP_IPV4 => Layer::Ipv4,
        PPP_IPV6 => Layer::Ipv6,
        PPP_MPLS => Layer::Mpls,
        _ => return Err(Uncounted::NotIp),
    };
    Ok((layer, at + size))
}

/// To the bottom of the stack; the labels say nothing about what follows, its first bits do.
fn mpls(frame: &[u8], at: usize) -> Result<(Layer, usize), Uncounted> {
    let bottom = byte(frame, at + 2)? & 1 == 1;
    let next = at + 4;
    match bottom {
        false => Ok((Layer::Mpls, next)),
        true => match byte(frame, next)? >> 4 {
            4 => Ok((Layer::Ipv4, next)),
            6 => Ok((Layer::Ipv6, next)),
            _ => Err(Uncounted::Pseudowire),
        },
    }
}

#[inline]
fn ipv4(frame: &[u8], at: usize, wire: u32) -> Result<(Pair, u64), Uncounted> {
    let header = frame.get(at..).and_then(Ipv4Packet::new).ok_or(Uncounted::TruncatedIp)?;
    if header.get_version() != 4 {
        return Err(Uncounted::BadVersion);
    }
    let header_length = u64::from(header.get_header_length()) * 4;
    if header_length < 20 {
        return Err(Uncounted::BadHeader);
    }
    let bytes = match header.get_total_length() {
        // The length did not fit, or segmentation was left to the network card.
        0 => on_wire(wire, at),
        length => u64::from(length),
    };
    if bytes < header_length {
        return Err(Uncounted::BadLength);
    }
    Ok((Pair::V4(header.get_source(), header.get_destination()), bytes))
}

const IPV6_HEADER: u64 = 40;

fn ipv6(frame: &[u8], at: usize, wire: u32) -> Result<(Pair, u64), Uncounted> {
    let header = frame.get(at..).and_then(Ipv6Packet::new).ok_or(Uncounted::TruncatedIp)?;
    if header.get_version() != 6 {
        return Err(Uncounted::BadVersion);
    }
    let bytes = match (header.get_payload_length(), header.get_next_header().0) {
        (0, 0) => match jumbo(header.packet().get(40..).unwrap_or_default()) {
            Jumbo::Length(length) => IPV6_HEADER + u64::from(length),
            Jumbo::Absent => IPV6_HEADER,
            Jumbo::NotCaptured => on_wire(wire, at),
        },
        (0, _) => on_wire(wire, at),
        (length, _) => IPV6_HEADER + u64::from(length),
    };
    Ok((Pair::V6(header.get_source(), header.get_destination()), bytes))
}

/// The jumbo-payload option of a hop-by-hop header.
#[derive(Debug, PartialEq, Eq)]
enum Jumbo {
    Length(u32),
    Absent,
    /// The captured bytes end before it can be told.
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
            return array(hop_by_hop, value)
                .map_or(Jumbo::NotCaptured, |length| Jumbo::Length(u32::from_be_bytes(length)));
        }
    }
    Jumbo::Absent
}

/// The bytes of a frame on the wire from an offset on.
fn on_wire(wire: u32, at: usize) -> u64 {
    u64::from(wire).saturating_sub(at as u64)
}

fn byte(frame: &[u8], at: usize) -> Result<u8, Uncounted> {
    frame.get(at).copied().ok_or(Uncounted::TruncatedLink)
}

fn be16(frame: &[u8], at: usize) -> Result<u16, Uncounted> {
    array(frame, at).map(u16::from_be_bytes)
}

fn array<const N: usize>(frame: &[u8], at: usize) -> Result<[u8; N], Uncounted> {
    frame.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Uncounted::TruncatedLink)
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
