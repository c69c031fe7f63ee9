//! Link types: the kind of header that frames of an interface begin with, by the number of the type.

/// The kind of header that frames of an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// BSD loopback: an address family in either byte order.
    Loopback,
    /// Ethernet.
    Ethernet,
    /// PPP, with or without address and control bytes, or Cisco HDLC in their place.
    Ppp,
    /// PPP after a byte with the direction.
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
    /// Apple's packet metadata under a number (149) that is reserved for private use.
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
    /// A link type that is not supported, by its number.
    Other(u32),
}

pub(super) const USER2: u32 = 149;

impl LinkType {
    /// Returns the link type for its number in captures.
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

    /// Returns the name of a link type in libpcap, by its number.
    pub fn name(number: u32) -> Option<String> {
        const USER: u32 = 147;
        if (USER..USER + 16).contains(&number) {
            return Some(format!("USER{}", number - USER));
        }
        let number = i32::try_from(number).ok()?;
        pcap::Linktype(number).get_name().ok()
    }
}
