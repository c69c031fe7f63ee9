//! The block format: sections, interfaces, packets of three kinds, and blocks that are skipped.
//!
//! No parser crate is used, since the counting rules need obsolete Packet Blocks, time offsets in the byte order of
//! the section, no allocation for the options of a packet, and blocks of any size skipped without buffering them.

use super::time::InterfaceClock;
use super::{BUFFER_MAX, ByteOrder, CAPTURED_MAX, Fault, Frame, LinkType, Parsed, Timing};

/// The type of a section header, the same in either byte order; every pcapng begins with it.
pub(super) const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const INTERFACE: u32 = 1;
const PACKET_OBSOLETE: u32 = 2;
const PACKET_SIMPLE: u32 = 3;
const PACKET_ENHANCED: u32 = 6;

/// Type and length.
const BLOCK_HEAD: usize = 8;
/// The length again.
const BLOCK_TAIL: usize = 4;
/// A section's header without options.
const SECTION_SIZE: u32 = 28;

/// Maximum number of interfaces of a section. No tool writes more; hostile files could fill the memory.
const INTERFACES_MAX: usize = 65_536;

/// Code and length of an option.
const OPTION_HEAD: u32 = 4;
const OPTION_END: u16 = 0;
const OPTION_RESOLUTION: u16 = 9;
const OPTION_OFFSET: u16 = 14;
const MICROSECONDS: u8 = 6;

#[derive(Debug)]
struct Interface {
    link: LinkType,
    snap_length: u32,
    clock: InterfaceClock,
}

/// A block that is skipped piece by piece.
#[derive(Debug)]
struct SkippedBlock {
    /// Bytes left before its second length.
    left: u32,
    length: u32,
    /// The interface that the block describes.
    interface: Option<Description>,
}

/// An interface whose options are read piece by piece, since they may be longer than any buffer.
#[derive(Debug)]
struct Description {
    link: LinkType,
    snap_length: u32,
    resolution: Option<u8>,
    offset_secs: Option<i64>,
    /// Bytes of the current option that are left to skip.
    option_left: u32,
    /// Whether all options are read.
    ended: bool,
}

/// An option that an interface has more than once. The first one is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repeated {
    /// The number of the interface in its section.
    pub(super) interface: usize,
    /// The name of the option.
    pub(super) option: &'static str,
}

/// The state of a section.
#[derive(Debug)]
pub(super) struct Pcapng {
    order: ByteOrder,
    interfaces: Vec<Interface>,
    skipped: Option<SkippedBlock>,
    repeated: Option<Repeated>,
}

/// A slice that is read from its front.
struct Fields<'a> {
    rest: &'a [u8],
    order: ByteOrder,
}

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(|bytes| self.order.u16(bytes))
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(|bytes| self.order.u32(bytes))
    }
}

impl Pcapng {
    /// Creates a parser that is before the first section.
    pub(super) fn new() -> Self {
        Pcapng { order: ByteOrder::Little, interfaces: Vec::new(), skipped: None, repeated: None }
    }

    /// Returns the newest repeated option that was not returned yet.
    pub(super) fn take_repeated(&mut self) -> Option<Repeated> {
        self.repeated.take()
    }

    /// Whether the parser is at the end of a block, where a capture may end.
    pub(super) fn between_blocks(&self) -> bool {
        self.skipped.is_none()
    }

    /// Parses the start of the bytes.
    #[inline]
    pub(super) fn next<'a>(&mut self, bytes: &'a [u8]) -> Parsed<'a> {
        if self.skipped.is_some() {
            return self.skip(bytes);
        }
        let mut head = Fields { rest: bytes, order: self.order };
        let Some(kind) = head.array() else {
            return Parsed::Need(BLOCK_HEAD);
        };
        if kind == SECTION {
            return self.section(bytes);
        }
        let kind = self.order.u32(kind);
        let Some(length) = head.u32() else {
            return Parsed::Need(BLOCK_HEAD);
        };
        let least = match kind {
            INTERFACE => 20,
            PACKET_SIMPLE => 16,
            PACKET_OBSOLETE | PACKET_ENHANCED => 32,
            _ => 12,
        };
        if length % 4 != 0 || length < least {
            let most = u32::MAX - 3;
            return Parsed::Invalid(Fault::BlockLength { kind, found: length, least, most });
        }
        let packet = matches!(kind, PACKET_SIMPLE | PACKET_OBSOLETE | PACKET_ENHANCED);
        match (kind, packet) {
            (INTERFACE, _) => self.interface(length, bytes),
            (_, true) if length as usize <= BUFFER_MAX => match bytes.get(..length as usize) {
                Some(block) => self.packet_block(kind, block).unwrap_or_else(Parsed::Invalid),
                None => Parsed::Need(length as usize),
            },
            (_, true) => {
                self.long_packet_block(kind, length, bytes).unwrap_or_else(Parsed::Invalid)
            }
            (_, false) => self.start_skipping(BLOCK_HEAD, length, None),
        }
    }

    /// Parses a whole block with a packet.
    #[inline]
    fn packet_block<'a>(&self, kind: u32, block: &'a [u8]) -> Result<Parsed<'a>, Fault> {
        let body = block.get(BLOCK_HEAD..block.len() - BLOCK_TAIL).unwrap_or_default();
        let tail = block.last_chunk().copied().unwrap_or_default();
        let (found, expected) = (self.order.u32(tail), block.len() as u32);
        if found != expected {
            return Err(Fault::Trailer { found, expected });
        }
        let mut fields = Fields { rest: body, order: self.order };
        let (mut frame, captured) = self.packet(kind, &mut fields)?;
        frame.bytes = captured_bytes(captured, fields.rest)?;
        Ok(Parsed::Frame(frame, block.len()))
    }

    /// Parses a packet in a block that is longer than the buffer. Its options are skipped after the packet is
    /// returned.
    #[cold]
    fn long_packet_block<'a>(
        &mut self,
        kind: u32,
        length: u32,
        bytes: &'a [u8],
    ) -> Result<Parsed<'a>, Fault> {
        let fixed = if kind == PACKET_SIMPLE { 4 } else { 20 };
        let Some(head) = bytes.get(BLOCK_HEAD..BLOCK_HEAD + fixed) else {
            return Ok(Parsed::Need(BLOCK_HEAD + fixed));
        };
        let mut fields = Fields { rest: head, order: self.order };
        let (mut frame, captured) = self.packet(kind, &mut fields)?;
        // A packet of this length fits, since the block is longer.
        if captured > CAPTURED_MAX {
            return Err(Fault::CapturedLength { found: captured });
        }
        let used = BLOCK_HEAD + fixed + captured as usize;
        let Some(captured) = bytes.get(BLOCK_HEAD + fixed..used) else {
            return Ok(Parsed::Need(used));
        };
        frame.bytes = captured;
        self.start_skipping(used, length, None);
        Ok(Parsed::Frame(frame, used))
    }

    /// Parses a section header. The byte-order mark is behind the length that depends on it.
    fn section<'a>(&mut self, bytes: &'a [u8]) -> Parsed<'a> {
        const FIXED: usize = 16;
        let Some([_, _, _, _, length @ .., a, b, c, d, e, f, g, h]) = bytes.first_chunk::<FIXED>()
        else {
            return Parsed::Need(FIXED);
        };
        let order = match [*a, *b, *c, *d] {
            [0x4d, 0x3c, 0x2b, 0x1a] => ByteOrder::Little,
            [0x1a, 0x2b, 0x3c, 0x4d] => ByteOrder::Big,
            other => return Parsed::Invalid(Fault::ByteOrder(other)),
        };
        let (major, minor) = (order.u16([*e, *f]), order.u16([*g, *h]));
        // Version 1.2 was written by some tools and is the same as 1.0.
        if !matches!((major, minor), (1, 0 | 2)) {
            return Parsed::Invalid(Fault::SectionVersion { major, minor });
        }
        let length = order.u32(*length);
        let most = u32::MAX - 3;
        if length % 4 != 0 || length < SECTION_SIZE {
            let (kind, least) = (u32::from_le_bytes(SECTION), SECTION_SIZE);
            return Parsed::Invalid(Fault::BlockLength { kind, found: length, least, most });
        }
        self.order = order;
        self.interfaces.clear();
        self.start_skipping(FIXED, length, None)
    }

    fn start_skipping<'a>(
        &mut self,
        seen: usize,
        length: u32,
        interface: Option<Description>,
    ) -> Parsed<'a> {
        let left = length.saturating_sub((seen + BLOCK_TAIL) as u32);
        self.skipped = Some(SkippedBlock { left, length, interface });
        Parsed::Skip(seen)
    }

    /// Skips the buffered part of the rest of a block, and checks its second length.
    fn skip<'a>(&mut self, bytes: &[u8]) -> Parsed<'a> {
        let Some(skipped) = &mut self.skipped else {
            return Parsed::Skip(0);
        };
        if skipped.left > 0 {
            let most = match &mut skipped.interface {
                Some(interface) if !interface.ended => {
                    let number = self.interfaces.len();
                    let options = Fields { rest: bytes, order: self.order };
                    match interface.option(skipped.left, options, number, &mut self.repeated) {
                        Ok(found) => found,
                        Err(fault) => return Parsed::Invalid(fault),
                    }
                }
                _ => OptionStep::Skip(skipped.left),
            };
            return match most {
                OptionStep::Need(need) => Parsed::Need(need),
                OptionStep::Skip(_) if bytes.is_empty() => Parsed::Need(1),
                OptionStep::Skip(most) => {
                    let count = bytes.len().min(most as usize);
                    skipped.left -= count as u32;
                    Parsed::Skip(count)
                }
            };
        }
        let Some(tail) = bytes.first_chunk() else {
            return Parsed::Need(BLOCK_TAIL);
        };
        let (found, expected) = (self.order.u32(*tail), skipped.length);
        if found != expected {
            return Parsed::Invalid(Fault::Trailer { found, expected });
        }
        let described = self.skipped.take().and_then(|skipped| skipped.interface);
        self.interfaces.extend(described.map(Description::finish));
        Parsed::Skip(BLOCK_TAIL)
    }

    /// Parses the start of a block that describes an interface.
    fn interface<'a>(&mut self, length: u32, bytes: &[u8]) -> Parsed<'a> {
        const FIXED: usize = BLOCK_HEAD + 8;
        let Some([.., l0, l1, _, _, s0, s1, s2, s3]) = bytes.first_chunk::<FIXED>() else {
            return Parsed::Need(FIXED);
        };
        if self.interfaces.len() >= INTERFACES_MAX {
            return Parsed::Invalid(Fault::Interfaces { most: INTERFACES_MAX });
        }
        let description = Description {
            link: LinkType::new(self.order.u16([*l0, *l1]).into()),
            snap_length: self.order.u32([*s0, *s1, *s2, *s3]),
            resolution: None,
            offset_secs: None,
            option_left: 0,
            ended: false,
        };
        self.start_skipping(FIXED, length, Some(description))
    }

    /// Parses the fields of a packet; returns it without its bytes, with its captured length.
    #[inline]
    fn packet<'a>(&self, kind: u32, fields: &mut Fields<'_>) -> Result<(Frame<'a>, u32), Fault> {
        // The minimum length of the block covers all fields.
        let interface = match kind {
            PACKET_ENHANCED => fields.u32().unwrap_or_default(),
            PACKET_OBSOLETE => {
                let interface = fields.u16().unwrap_or_default();
                let _dropped = fields.u16();
                interface.into()
            }
            _ => return self.simple(fields),
        };
        let interface = self.described_interface(interface)?;
        let high = fields.u32().unwrap_or_default();
        let low = fields.u32().unwrap_or_default();
        let captured = fields.u32().unwrap_or_default();
        let wire = fields.u32().unwrap_or_default();
        let ticks = u64::from(high) << 32 | u64::from(low);
        let timing = interface.clock.timing(ticks);
        Ok((Frame { timing, link: interface.link, wire, bytes: &[] }, captured))
    }

    /// Parses a packet without a time and without a captured length.
    fn simple<'a>(&self, fields: &mut Fields<'_>) -> Result<(Frame<'a>, u32), Fault> {
        let interface = self.described_interface(0)?;
        let wire = fields.u32().unwrap_or_default();
        let captured = match interface.snap_length {
            0 => wire,
            most => wire.min(most),
        };
        Ok((Frame { timing: Timing::None, link: interface.link, wire, bytes: &[] }, captured))
    }

    #[inline]
    fn described_interface(&self, number: u32) -> Result<&Interface, Fault> {
        let described = self.interfaces.len();
        self.interfaces.get(number as usize).ok_or(Fault::Interface { found: number, described })
    }
}

#[inline]
fn captured_bytes(captured: u32, available: &[u8]) -> Result<&[u8], Fault> {
    if captured > CAPTURED_MAX {
        return Err(Fault::CapturedLength { found: captured });
    }
    available
        .get(..captured as usize)
        .ok_or(Fault::FrameLength { found: captured, available: available.len() as u32 })
}

/// The next step of reading options.
#[derive(Debug)]
enum OptionStep {
    /// So many bytes are needed to parse.
    Need(usize),
    /// So many bytes are to be skipped.
    Skip(u32),
}

impl Description {
    /// Reads the option at the start of the bytes, of which `left` belong to the block.
    fn option(
        &mut self,
        left: u32,
        mut options: Fields<'_>,
        interface: usize,
        repeated: &mut Option<Repeated>,
    ) -> Result<OptionStep, Fault> {
        if self.option_left > 0 {
            if options.rest.is_empty() {
                return Ok(OptionStep::Need(1));
            }
            let count = self.option_left.min(options.rest.len() as u32);
            self.option_left -= count;
            return Ok(OptionStep::Skip(count));
        }
        if left < OPTION_HEAD {
            self.ended = true;
            return Ok(OptionStep::Skip(left));
        }
        let (Some(code), Some(length)) = (options.u16(), options.u16()) else {
            return Ok(OptionStep::Need(OPTION_HEAD as usize));
        };
        if code == OPTION_END {
            self.ended = true;
            return Ok(OptionStep::Skip(left));
        }
        let (found, available) = (usize::from(length), (left - OPTION_HEAD) as usize);
        let wrong_length = |expected| Fault::Option { code, found, expected };
        if found > available {
            return Err(wrong_length(available));
        }
        let mut note_repeated = |option| *repeated = Some(Repeated { interface, option });
        match code {
            OPTION_RESOLUTION if found != 1 => return Err(wrong_length(1)),
            OPTION_RESOLUTION => match (options.array(), self.resolution) {
                (None, _) => return Ok(OptionStep::Need(OPTION_HEAD as usize + found)),
                (_, Some(_)) => note_repeated("if_tsresol"),
                (Some([value]), None) => self.resolution = Some(value),
            },
            OPTION_OFFSET if found != 8 => return Err(wrong_length(8)),
            OPTION_OFFSET => match (options.array(), self.offset_secs) {
                (None, _) => return Ok(OptionStep::Need(OPTION_HEAD as usize + found)),
                (_, Some(_)) => note_repeated("if_tsoffset"),
                (Some(value), None) => self.offset_secs = Some(options.order.i64(value)),
            },
            _ => {}
        }
        // Values are padded to four bytes, and so is the block.
        self.option_left = u32::from(length).next_multiple_of(4);
        Ok(OptionStep::Skip(OPTION_HEAD))
    }

    fn finish(self) -> Interface {
        let resolution = self.resolution.unwrap_or(MICROSECONDS);
        let clock = InterfaceClock::new(resolution, self.offset_secs.unwrap_or_default());
        Interface { link: self.link, snap_length: self.snap_length, clock }
    }
}

#[cfg(test)]
#[path = "pcapng_tests.rs"]
mod tests;
