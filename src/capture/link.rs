//! Parses the headers of link types.

use super::Uncounted;
use super::layer::{Layer, Radio, Rest};
use super::link_type::{LinkType, USER2};
use super::{wireless, wrapped};

/// Steps over the header of a link type, and returns the layer after it.
pub(super) fn header(link: LinkType, rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    let fixed = |layer, length| Ok((layer, length));
    let (layer, length) = match link {
        LinkType::Loopback => {
            let family: [u8; 4] = rest.array(0)?;
            match u32::from_be_bytes(family).min(u32::from_le_bytes(family)) {
                2 => fixed(Layer::Ipv4, 4),
                // AF_INET6 of the BSDs, FreeBSD and Darwin.
                24 | 28 | 30 => fixed(Layer::Ipv6, 4),
                _ => Err(Uncounted::NotIp),
            }
        }
        LinkType::Ethernet => fixed(Layer::TypeOrLength(rest.be16(12)?), 14),
        LinkType::Ppp => match rest.array(0)? {
            [0xff, 0x03] => fixed(Layer::Ppp, 2),
            [0x0f | 0x8f, _] => fixed(Layer::Type(rest.be16(2)?), 4),
            _ => fixed(Layer::Ppp, 0),
        },
        LinkType::PppDirection => fixed(Layer::Link(LinkType::Ppp), 1),
        LinkType::PppoeSession => fixed(Layer::Ppp, 6),
        LinkType::CiscoHdlc => fixed(Layer::Type(rest.be16(2)?), 4),
        LinkType::FrameRelay => return wrapped::frame_relay(rest),
        LinkType::RawIp => fixed(Layer::Ip, 0),
        LinkType::RawIpv4 => fixed(Layer::Ipv4, 0),
        LinkType::RawIpv6 => fixed(Layer::Ipv6, 0),
        LinkType::Cooked => fixed(cooked(rest.be16(14)?), 16),
        LinkType::Cooked2 => fixed(cooked(rest.be16(0)?), 20),
        LinkType::Fddi => fixed(fddi(rest.byte(0)?)?, 13),
        LinkType::FddiPadded => fixed(Layer::Link(LinkType::Fddi), 3),
        LinkType::TokenRing => fixed(Layer::Llc, wrapped::token_ring(rest)?),
        LinkType::Llc => fixed(Layer::Llc, 0),
        LinkType::InfiniBand => fixed(Layer::Type(rest.be16(40)?), 44),
        LinkType::FireWire => fixed(Layer::Type(rest.be16(16)?), 18),
        LinkType::Ipnet => match rest.byte(1)? {
            2 => fixed(Layer::Ip, 24),
            26 => fixed(Layer::Ipv6, 24),
            _ => Err(Uncounted::NotIp),
        },
        LinkType::Nflog => return wrapped::nflog(rest),
        LinkType::Pktap => return wrapped::pktap(rest),
        LinkType::User2 => return wrapped::user2(rest),
        LinkType::Ppi => return wireless::ppi(rest),
        LinkType::Wlan => fixed(Layer::Wlan(Radio::default()), 0),
        LinkType::Radiotap => return wireless::radiotap(rest),
        LinkType::Prism => return wireless::prism(rest),
        LinkType::Avs => return wireless::avs(rest),
        LinkType::Other(_) => Err(Uncounted::LinkType),
    }?;
    rest.skip(length);
    Ok(layer)
}

/// Returns the number of the unsupported link type of a frame: that of the frame, or that of the frame within it.
pub(super) fn unsupported_number(link: LinkType, bytes: &[u8]) -> u32 {
    let (mut link, mut rest) = (link, Rest::new(bytes, u32::MAX));
    loop {
        match (link, header(link, &mut rest)) {
            (LinkType::Other(number), _) => return number,
            (_, Ok(Layer::Link(next))) => link = next,
            _ => return USER2,
        }
    }
}

/// Returns the layer for the protocol of a Linux cooked capture: an EtherType, or a number of Linux below all of them.
fn cooked(protocol: u16) -> Layer {
    const LLC: u16 = 4;
    match protocol {
        LLC => Layer::Llc,
        kind => Layer::Type(kind),
    }
}

/// Returns the layer after FDDI by its frame control: LLC in asynchronous frames.
fn fddi(control: u8) -> Result<Layer, Uncounted> {
    match control & 0xf0 {
        0x50 => Ok(Layer::Llc),
        _ => Err(Uncounted::NotIp),
    }
}
