//! Headers that take more than a table to skip: Frame Relay, Token Ring, Netfilter's log, and metadata that name the
//! link type of the frame after them.

use super::Uncounted;
use super::layer::{Layer, Rest};
use super::link_type::LinkType;

/// An unnumbered frame of HDLC, the only one with a network protocol in it.
const UNNUMBERED: u8 = 0x03;
/// Identification of stations.
const XID: u8 = 0xaf;

const NLPID_PADDING: u8 = 0x00;
const NLPID_SNAP: u8 = 0x80;
const NLPID_IPV6: u8 = 0x8e;
const NLPID_IPV4: u8 = 0xcc;
const NLPID_PPP: u8 = 0xcf;

/// Steps over the address of Frame Relay, and the NLPID of RFC 2427 or the EtherType of Cisco.
pub(super) fn frame_relay(rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    let (length, circuit) = frame_relay_address(rest)?;
    rest.skip(length);
    match rest.byte(0)? {
        UNNUMBERED => {
            rest.skip(1);
            nlpid(rest)
        }
        // Signalling between the stations.
        _ if circuit == 0 => Err(Uncounted::NotIp),
        XID => Err(Uncounted::NotIp),
        _ => {
            let kind = rest.be16(0)?;
            rest.skip(2);
            Ok(Layer::Type(kind))
        }
    }
}

/// Returns the length of the address, and the number of the circuit in it. The lowest bit of each byte marks the last
/// one.
fn frame_relay_address(rest: &Rest<'_>) -> Result<(usize, u32), Uncounted> {
    const LAST: u8 = 1;
    const CONTROL: u8 = 2;
    const LENGTH_MAX: usize = 4;
    let first = rest.byte(0)?;
    if first & LAST != 0 {
        // Too short to name a circuit; tshark continues, too.
        return Ok((1, 0));
    }
    let mut circuit = u32::from(first >> 2);
    for at in 1..LENGTH_MAX {
        let byte = rest.byte(at)?;
        let last = byte & LAST != 0;
        circuit = match (at, last) {
            (1, _) => circuit << 4 | u32::from(byte >> 4),
            (_, false) => circuit << 7 | u32::from(byte >> 1),
            (_, true) if byte & CONTROL == 0 => circuit << 6 | u32::from(byte >> 2),
            (_, true) => circuit,
        };
        if last {
            return Ok((at + 1, circuit));
        }
    }
    Err(Uncounted::BadLink)
}

fn nlpid(rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    if rest.byte(0)? == NLPID_PADDING {
        rest.skip(1);
    }
    let layer = match rest.byte(0)? {
        NLPID_IPV4 => Layer::Ip,
        NLPID_IPV6 => Layer::Ipv6,
        NLPID_PPP => Layer::Ppp,
        NLPID_SNAP => Layer::Snap { bridge_padding: 0 },
        _ => return Err(Uncounted::NotIp),
    };
    rest.skip(1);
    Ok(layer)
}

/// Returns the length of a Token Ring header, source routing included, before LLC.
pub(super) fn token_ring(rest: &Rest<'_>) -> Result<usize, Uncounted> {
    const FIXED: usize = 14;
    const LLC_FRAME: u8 = 0x40;
    const FRAME_TYPE: u8 = 0xc0;
    const ROUTED: u8 = 0x80;
    if rest.byte(1)? & FRAME_TYPE != LLC_FRAME {
        return Err(Uncounted::NotIp);
    }
    if rest.byte(8)? & ROUTED == 0 {
        return Ok(FIXED);
    }
    Ok(FIXED + usize::from(rest.byte(FIXED)? & 0x1f))
}

/// The attribute that begins with the EtherType of the packet.
const NFLOG_HEADER: u16 = 1;
const NFLOG_PAYLOAD: u16 = 9;
/// The range of types, which tells the byte order of the capturing host: only in the right order is the first type in
/// it, since all types are small.
const NFLOG_TYPES: std::ops::Range<u16> = 1..0x100;
/// The bits of a type without its flags.
const NFLOG_TYPE_BITS: u16 = 0x7fff;
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;

/// Skips to the packet among the attributes of Netfilter's log. Its layer is that of its EtherType or, without one, of
/// the family of the rule that logged it.
pub(super) fn nflog(rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    let family = rest.byte(0)?;
    rest.skip(4);
    let big_endian = rest.be16(0)? >= 4 && NFLOG_TYPES.contains(&(rest.be16(2)? & NFLOG_TYPE_BITS));
    let mut ether_type = 0;
    while !rest.is_empty() {
        let [length, kind] = match big_endian {
            true => [rest.be16(0)?, rest.be16(2)?],
            false => [rest.le16(0)?, rest.le16(2)?],
        };
        let Some(value) = length.checked_sub(4) else {
            return Err(Uncounted::BadLink);
        };
        match kind & NFLOG_TYPE_BITS {
            NFLOG_HEADER if value >= 2 => ether_type = rest.be16(4)?,
            NFLOG_PAYLOAD => {
                rest.skip(4);
                rest.limit(value.into());
                return match (ether_type, family) {
                    (1.., _) => Ok(Layer::Type(ether_type)),
                    (0, FAMILY_IPV4) => Ok(Layer::Ip),
                    (0, FAMILY_IPV6) => Ok(Layer::Ipv6),
                    (0, _) => Err(Uncounted::NotIp),
                };
            }
            _ => {}
        }
        rest.skip(usize::from(length).next_multiple_of(4));
    }
    Err(Uncounted::NotIp)
}

/// Minimum length of a PKTAP header.
const PKTAP: u32 = 108;
/// The kind of PKTAP record that is a packet.
const PKTAP_PACKET: u32 = 1;

/// Steps over a PKTAP header to the frame whose link type it names.
pub(super) fn pktap(rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    let (length, kind, link) = (rest.le32(0)?, rest.le32(4)?, rest.le32(8)?);
    if length < PKTAP {
        return Err(Uncounted::BadLink);
    }
    if kind != PKTAP_PACKET {
        return Err(Uncounted::NotIp);
    }
    rest.skip(length as usize);
    Ok(Layer::Link(LinkType::new(link)))
}

/// Does the same as [`pktap`] for link type 149, which macOS uses for PKTAP and others for anything.
pub(super) fn user2(rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    // A PKTAP header of a kilobyte leaves space for any extension.
    const PLAUSIBLE: std::ops::RangeInclusive<u32> = PKTAP..=1024;
    if !PLAUSIBLE.contains(&rest.le32(0)?) || rest.le32(4)? > PKTAP_PACKET {
        return Err(Uncounted::LinkType);
    }
    pktap(rest)
}
