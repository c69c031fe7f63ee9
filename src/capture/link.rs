//! Link types: the header that frames of an interface begin with, by the number of the type.

use super::Uncounted;
use super::decode::{Layer, Rest};
use super::{wireless, wrapped};

/// The kind of header that frames of an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// BSD loopback: an address family in either byte order.
    Loopback,
    /// Ethernet.
    Ethernet,
    /// PPP, with or without address and control bytes, or Cisco HDLC in their place.
    Ppp,
    /// PPP after a byte that tells the direction.
    PppDirection,
    /// The session header of PPPoE, without Ethernet before it.
    PppoeSession,
    /// Cisco HDLC.
    CiscoHdlc,
    /// Frame Relay.
    FrameRelay,
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
    /// FDDI.
    Fddi,
    /// FDDI as AIX writes it, after three bytes of padding.
    FddiPadded,
    /// Token Ring.
    TokenRing,
    /// LLC, nothing before it: ATM as in RFC 1483.
    Llc,
    /// IP over InfiniBand.
    InfiniBand,
    /// IP over IEEE 1394 as Apple writes it.
    FireWire,
    /// The packets of a Solaris IP observability device.
    Ipnet,
    /// Netfilter's log: attributes, one of which is the packet.
    Nflog,
    /// Apple's packet metadata, then a frame of the link type that they name.
    Pktap,
    /// The same under a number that everybody may use for anything.
    User2,
    /// Per-Packet Information, then a frame of the link type that it names.
    Ppi,
    /// IEEE 802.11.
    Wlan,
    /// IEEE 802.11 after a radiotap header.
    Radiotap,
    /// IEEE 802.11 after a header of Prism or AVS, or after none.
    Prism,
    /// IEEE 802.11 after an AVS header.
    Avs,
    /// One that is not read, by its number.
    Other(u32),
}

const USER2: u32 = 149;

impl LinkType {
    /// By the number that captures have for it.
    pub fn new(number: u32) -> Self {
        match number {
            0 | 108 => LinkType::Loopback,
            1 => LinkType::Ethernet,
            6 => LinkType::TokenRing,
            9 | 50 => LinkType::Ppp,
            10 => LinkType::Fddi,
            12 | 14 | 101 => LinkType::RawIp,
            51 => LinkType::PppoeSession,
            100 => LinkType::Llc,
            104 => LinkType::CiscoHdlc,
            105 => LinkType::Wlan,
            107 => LinkType::FrameRelay,
            113 => LinkType::Cooked,
            119 => LinkType::Prism,
            127 => LinkType::Radiotap,
            138 => LinkType::FireWire,
            USER2 => LinkType::User2,
            163 => LinkType::Avs,
            192 => LinkType::Ppi,
            204 => LinkType::PppDirection,
            226 => LinkType::Ipnet,
            228 => LinkType::RawIpv4,
            229 => LinkType::RawIpv6,
            239 => LinkType::Nflog,
            242 => LinkType::InfiniBand,
            258 => LinkType::Pktap,
            276 => LinkType::Cooked2,
            other => LinkType::Other(other),
        }
    }

    /// The name that libpcap has for the number of a link type.
    pub fn name(number: u32) -> Option<String> {
        const USER: u32 = 147;
        if (USER..USER + 16).contains(&number) {
            return Some(format!("USER{}", number - USER));
        }
        let number = i32::try_from(number).ok()?;
        pcap::Linktype(number).get_name().ok()
    }
}

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
        LinkType::Wlan => fixed(Layer::Wlan(wireless::Radio::default()), 0),
        LinkType::Radiotap => return wireless::radiotap(rest),
        LinkType::Prism => return wireless::prism(rest),
        LinkType::Avs => return wireless::avs(rest),
        LinkType::Other(_) => Err(Uncounted::LinkType),
    }?;
    rest.skip(length);
    Ok(layer)
}

/// The number of the link type that is not read, of a frame that was not counted for it: its own, or
/// that of the frame within.
pub(super) fn unread_number(link: LinkType, bytes: &[u8]) -> u32 {
    let (mut link, mut rest) = (link, Rest::new(bytes, u32::MAX));
    loop {
        match (link, header(link, &mut rest)) {
            (LinkType::Other(number), _) => return number,
            (_, Ok(Layer::Link(next))) => link = next,
            _ => return USER2,
        }
    }
}

/// The protocol of a Linux cooked capture: an EtherType, or a number of Linux below all of them.
fn cooked(protocol: u16) -> Layer {
    const LLC: u16 = 4;
    match protocol {
        LLC => Layer::Llc,
        kind => Layer::Type(kind),
    }
}

/// The layer after FDDI by its frame control: LLC in asynchronous frames.
fn fddi(control: u8) -> Result<Layer, Uncounted> {
    match control & 0xf0 {
        0x50 => Ok(Layer::Llc),
        _ => Err(Uncounted::NotIp),
    }
}
