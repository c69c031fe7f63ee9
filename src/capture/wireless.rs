//! IEEE 802.11: the headers that radios write before its frames, and its data frames.
//!
//! The fields of all these headers are little endian, those of AVS big endian.

use super::Uncounted;
use super::layer::{Layer, Radio, Rest};
use super::link_type::LinkType;

const CHECK_SEQUENCE: u32 = 4;

/// Steps over a radiotap header.
pub(super) fn radiotap(rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    const FIXED: usize = 8;
    const TIMER: u32 = 1;
    const FLAGS: u32 = 1 << 1;
    const NO_FRAME: u32 = 1 << 26;
    const MORE_WORDS: u32 = 1 << 31;
    const FLAG_CHECK_SEQUENCE: u8 = 0x10;
    const FLAG_PADDED: u8 = 0x20;
    let length = usize::from(rest.le16(2)?);
    if length < FIXED {
        return Err(Uncounted::BadLink);
    }
    let present = rest.le32(4)?;
    if present & NO_FRAME != 0 {
        return Err(Uncounted::NotIp);
    }
    // The words of the presence bits of fields, then the fields, each aligned to its size.
    let (mut at, mut word) = (FIXED, present);
    while word & MORE_WORDS != 0 {
        if at + 4 > length {
            return Err(Uncounted::BadLink);
        }
        word = rest.le32(at)?;
        at += 4;
    }
    if present & TIMER != 0 {
        at = at.next_multiple_of(8) + 8;
    }
    let flags = match present & FLAGS != 0 && at < length {
        true => rest.byte(at)?,
        false => 0,
    };
    rest.skip(length);
    Ok(Layer::Wlan(Radio {
        check_sequence: flags & FLAG_CHECK_SEQUENCE != 0,
        padded: flags & FLAG_PADDED != 0,
    }))
}

/// Steps over a header of Per-Packet Information to the frame whose link type it names.
pub(super) fn ppi(rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    const FIXED: usize = 8;
    const COMMON: u16 = 2;
    const COMMON_FLAGS: usize = 8;
    const FLAG_CHECK_SEQUENCE: u16 = 1;
    let (length, link) = (usize::from(rest.le16(2)?), LinkType::new(rest.le32(4)?));
    if length < FIXED {
        return Err(Uncounted::BadLink);
    }
    let mut radio = Radio::default();
    let mut at = FIXED;
    while link == LinkType::Wlan && at + 4 <= length {
        let (kind, size) = (rest.le16(at)?, usize::from(rest.le16(at + 2)?));
        if kind == COMMON && size >= COMMON_FLAGS + 2 {
            let flags = rest.le16(at + 4 + COMMON_FLAGS)?;
            radio.check_sequence = flags & FLAG_CHECK_SEQUENCE != 0;
            break;
        }
        at += 4 + size;
    }
    rest.skip(length);
    Ok(match link {
        LinkType::Wlan => Layer::Wlan(radio),
        other => Layer::Link(other),
    })
}

/// The start of an AVS header, of any version.
const AVS_COOKIE: [u8; 3] = [0x80, 0x21, 0x10];

/// Steps over an AVS header.
pub(super) fn avs(rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    const LENGTH_MIN: u32 = 8;
    let length = rest.be32(4)?;
    if length < LENGTH_MIN {
        return Err(Uncounted::BadLink);
    }
    rest.skip(length as usize);
    Ok(Layer::Wlan(Radio::default()))
}

/// Skips a Prism header, or the AVS header that some drivers write in its place, or none: the link type is the same
/// for all.
pub(super) fn prism(rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    const LENGTH: usize = 144;
    const MESSAGES: [u32; 2] = [0x41, 0x44];
    if rest.array(0)? == AVS_COOKIE {
        return avs(rest);
    }
    if MESSAGES.contains(&rest.le32(0)?) || MESSAGES.contains(&rest.be32(0)?) {
        rest.skip(LENGTH);
    }
    Ok(Layer::Wlan(Radio::default()))
}

/// The first two bytes of a frame: version, type, subtype and flags.
#[derive(Clone, Copy)]
struct Control(u16);

impl Control {
    const TO_DISTRIBUTION: u16 = 0x0100;
    const FROM_DISTRIBUTION: u16 = 0x0200;

    fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }

    /// A data frame of version 0.
    fn is_data(self) -> bool {
        self.0 & 0x000f == 0x0008
    }

    fn has_no_body(self) -> bool {
        self.has(0x0040)
    }

    fn has_quality(self) -> bool {
        self.has(0x0080)
    }

    fn has_more_fragments(self) -> bool {
        self.has(0x0400)
    }

    fn is_protected(self) -> bool {
        self.has(0x4000)
    }

    /// In frames with a quality of service: four bytes more of header.
    fn is_ordered(self) -> bool {
        self.has(0x8000)
    }

    fn directions(self) -> (bool, bool) {
        (self.has(Self::TO_DISTRIBUTION), self.has(Self::FROM_DISTRIBUTION))
    }
}

/// Skips the header of a data frame, and returns the layer in its body.
pub(super) fn data(radio: Radio, rest: &mut Rest<'_>) -> Result<Layer, Uncounted> {
    const SEQUENCE: usize = 22;
    const AGGREGATE: u16 = 0x0080;
    if radio.check_sequence {
        rest.trim(CHECK_SEQUENCE);
    }
    let control = Control(rest.le16(0)?);
    if !control.is_data() || control.has_no_body() {
        return Err(Uncounted::NotIp);
    }
    if control.is_protected() {
        return Err(Uncounted::Encrypted);
    }
    let sequence: [u8; 2] = rest.array(SEQUENCE)?;
    let (destination, source) = addresses(control, rest)?;
    let mut length = if control.directions() == (true, true) { 30 } else { 24 };
    if control.has_quality() {
        let quality = rest.le16(length)?;
        length += if control.is_ordered() { 6 } else { 2 };
        if quality & AGGREGATE != 0 {
            return Err(Uncounted::Aggregate);
        }
        length += mesh_length(control, quality, rest.byte(length).unwrap_or_default());
    }
    if radio.padded {
        length = length.next_multiple_of(4);
    }
    rest.skip(length);
    if sequence[0] & 0x0f != 0 && (control.has_more_fragments() || !begins_packet(rest)) {
        return Err(Uncounted::LinkFragment);
    }
    body(destination, source, sequence, rest)
}

type Address = [u8; 6];

/// The destination and the source of a data frame.
fn addresses(control: Control, rest: &Rest<'_>) -> Result<(Address, Address), Uncounted> {
    const FIRST: usize = 4;
    const SECOND: usize = 10;
    const THIRD: usize = 16;
    const FOURTH: usize = 24;
    let (destination, source) = match control.directions() {
        (false, false) => (FIRST, SECOND),
        (false, true) => (FIRST, THIRD),
        (true, false) => (THIRD, SECOND),
        (true, true) => (THIRD, FOURTH),
    };
    Ok((rest.array(destination)?, rest.array(source)?))
}

/// Returns the length of the Mesh Control field, which is present if its presence bit is set and its first byte is
/// valid.
fn mesh_length(control: Control, quality: u16, flags: u8) -> usize {
    const PRESENT: u16 = 0x0100;
    const ADDRESSES_MAX: u8 = 2;
    let (_, from_distribution) = control.directions();
    if !from_distribution || quality & PRESENT == 0 || flags > ADDRESSES_MAX {
        return 0;
    }
    6 + 6 * usize::from(flags)
}

/// Whether the body begins as a whole packet does: some radios deliver reassembled frames with the number of the last
/// fragment.
fn begins_packet(rest: &Rest<'_>) -> bool {
    matches!(
        rest.array(0),
        Ok([0xaa, 0xaa, 0x03, 0x00, 0x00, 0x00, 0x08, 0x00]
            | [0xaa, 0xaa, 0x03, 0, 0, 0, 0x86, 0xdd])
    )
}

/// Returns the layer in the body of a data frame: LLC, except that some radios write an Ethernet frame there, or two
/// bytes before LLC.
fn body(
    destination: Address,
    source: Address,
    sequence: [u8; 2],
    rest: &mut Rest<'_>,
) -> Result<Layer, Uncounted> {
    const SNAP: [u8; 2] = [0xaa, 0xaa];
    const ZEROS: [u8; 2] = [0, 0];
    let start: [u8; 2] = rest.array(0)?;
    if start == SNAP {
        return Ok(Layer::Llc);
    }
    if rest.array(0) == Ok(destination) || rest.array(6) == Ok(source) {
        return Ok(Layer::Link(LinkType::Ethernet));
    }
    if start == ZEROS || start == sequence {
        rest.skip(2);
    }
    Ok(Layer::Llc)
}
