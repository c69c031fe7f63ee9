//! The block format: sections, interfaces, packets of three kinds, and blocks of no interest.
//!
//! Blocks are taken apart here rather than by a parser crate: the counting rules want obsolete Packet
//! Blocks, time offsets in the byte order of the section, no allocation for the options of a packet,
//! and blocks of any size passed over without holding them.

use super::time::Clock;
use super::{BUFFER_MAX, CAPTURED_MAX, Fault, Found, Frame, LinkType, Timing};

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

/// A section that describes more would take our memory, and no tool makes it.
const INTERFACES_MAX: usize = 65_536;

const OPTION_END: u16 = 0;
const OPTION_RESOLUTION: u16 = 9;
const OPTION_OFFSET: u16 = 14;
const MICROSECONDS: u8 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        }
    }

    fn i64(self, bytes: [u8; 8]) -> i64 {
        match self {
            Order::Little => i64::from_le_bytes(bytes),
            Order::Big => i64::from_be_bytes(bytes),
        }
    }
}

#[derive(Debug)]
struct Interface {
    link: LinkType,
    snap_length: u32,
    clock: Clock,
}

/// A block that is being passed over.
#[derive(Debug)]
struct Passing {
    /// Bytes before its second length.
    left: u32,
    length: u32,
}

/// The state of a section.
#[derive(Debug)]
pub(super) struct Pcapng {
    order: Order,
    interfaces: Vec<Interface>,
    passing: Option<Passing>,
}

/// A slice that is read from its front.
struct Fields<'a> {
    rest: &'a [u8],
    order: Order,
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
    /// Before the first section.
    pub(super) fn new() -> Self {
        Pcapng { order: Order::Little, interfaces: Vec::new(), passing: None }
    }

    /// Whether the capture may end here, if there is nothing more.
    pub(super) fn between_blocks(&self) -> bool {
        self.passing.is_none()
    }

    /// What is at the start of the bytes.
    #[inline]
    pub(super) fn next<'a>(&mut self, bytes: &'a [u8]) -> Found<'a> {
        if self.passing.is_some() {
            return self.pass(bytes);
        }
        let mut head = Fields { rest: bytes, order: self.order };
        let Some(kind) = head.array() else {
            return Found::Need(BLOCK_HEAD);
        };
        if kind == SECTION {
            return self.section(bytes);
        }
        let kind = self.order.u32(kind);
        let Some(length) = head.u32() else {
            return Found::Need(BLOCK_HEAD);
        };
        let (least, most) = match kind {
            INTERFACE => (20, BUFFER_MAX as u32),
            PACKET_SIMPLE => (16, BUFFER_MAX as u32),
            PACKET_OBSOLETE | PACKET_ENHANCED => (32, BUFFER_MAX as u32),
            _ => (12, u32::MAX - 3),
        };
        if length % 4 != 0 || !(least..=most).contains(&length) {
            return Found::Bad(Fault::BlockLength { kind, found: length, least, most });
        }
        if !matches!(kind, INTERFACE | PACKET_SIMPLE | PACKET_OBSOLETE | PACKET_ENHANCED) {
            return self.start_passing(BLOCK_HEAD, length);
        }
        let size = length as usize;
        let Some(block) = bytes.get(..size) else {
            return Found::Need(size);
        };
        self.whole_block(kind, length, block).unwrap_or_else(Found::Bad)
    }

    /// A block that is looked into, from its type to its second length.
    #[inline]
    fn whole_block<'a>(
        &mut self,
        kind: u32,
        length: u32,
        block: &'a [u8],
    ) -> Result<Found<'a>, Fault> {
        let body = block.get(BLOCK_HEAD..block.len() - BLOCK_TAIL).unwrap_or_default();
        let tail = block.last_chunk().copied().unwrap_or_default();
        let found = self.order.u32(tail);
        if found != length {
            return Err(Fault::Trailer { found, expected: length });
        }
        let fields = Fields { rest: body, order: self.order };
        if kind == INTERFACE {
            self.interface(fields)?;
            return Ok(Found::Pass(block.len()));
        }
        let frame = match kind {
            PACKET_ENHANCED => self.enhanced(fields),
            PACKET_OBSOLETE => self.obsolete(fields),
            _ => self.simple(fields),
        };
        Ok(Found::Frame(frame?, block.len()))
    }

    /// A section header: the byte order comes after the length that is written in it.
    fn section<'a>(&mut self, bytes: &'a [u8]) -> Found<'a> {
        const FIXED: usize = 16;
        let Some([_, _, _, _, length @ .., a, b, c, d, e, f, g, h]) = bytes.first_chunk::<FIXED>()
        else {
            return Found::Need(FIXED);
        };
        let order = match [*a, *b, *c, *d] {
            [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
            [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
            other => return Found::Bad(Fault::ByteOrder(other)),
        };
        let (major, minor) = (order.u16([*e, *f]), order.u16([*g, *h]));
        // Version 1.2 was written by some tools and is the same as 1.0.
        if !matches!((major, minor), (1, 0 | 2)) {
            return Found::Bad(Fault::SectionVersion { major, minor });
        }
        let length = order.u32(*length);
        let most = u32::MAX - 3;
        if length % 4 != 0 || length < SECTION_SIZE {
            let (kind, least) = (u32::from_le_bytes(SECTION), SECTION_SIZE);
            return Found::Bad(Fault::BlockLength { kind, found: length, least, most });
        }
        self.order = order;
        self.interfaces.clear();
        self.start_passing(FIXED, length)
    }

    fn start_passing<'a>(&mut self, seen: usize, length: u32) -> Found<'a> {
        let left = length.saturating_sub((seen + BLOCK_TAIL) as u32);
        self.passing = Some(Passing { left, length });
        Found::Pass(seen)
    }

    /// Over the rest of a block, as far as it is there, and its second length.
    fn pass<'a>(&mut self, bytes: &[u8]) -> Found<'a> {
        let Some(passing) = &mut self.passing else {
            return Found::Pass(0);
        };
        if passing.left > 0 {
            if bytes.is_empty() {
                return Found::Need(1);
            }
            let count = bytes.len().min(passing.left as usize);
            passing.left -= count as u32;
            return Found::Pass(count);
        }
        let Some(tail) = bytes.first_chunk() else {
            return Found::Need(BLOCK_TAIL);
        };
        let (found, expected) = (self.order.u32(*tail), passing.length);
        if found != expected {
            return Found::Bad(Fault::Trailer { found, expected });
        }
        self.passing = None;
        Found::Pass(BLOCK_TAIL)
    }

    fn interface(&mut self, mut fields: Fields<'_>) -> Result<(), Fault> {
        if self.interfaces.len() >= INTERFACES_MAX {
            return Err(Fault::Interfaces { most: INTERFACES_MAX });
        }
        let link = fields.u16().unwrap_or_default();
        let _reserved = fields.u16();
        let snap_length = fields.u32().unwrap_or_default();
        let clock = clock(fields)?;
        self.interfaces.push(Interface { link: LinkType::new(link.into()), snap_length, clock });
        Ok(())
    }

    #[inline]
    fn enhanced<'a>(&self, mut fields: Fields<'a>) -> Result<Frame<'a>, Fault> {
        let interface = fields.u32().unwrap_or_default();
        self.timed(interface, fields)
    }

    fn obsolete<'a>(&self, mut fields: Fields<'a>) -> Result<Frame<'a>, Fault> {
        let interface = fields.u16().unwrap_or_default();
        let _dropped = fields.u16();
        self.timed(interface.into(), fields)
    }

    /// What the two kinds of packets with a timestamp have in common.
    #[inline]
    fn timed<'a>(&self, interface: u32, mut fields: Fields<'a>) -> Result<Frame<'a>, Fault> {
        let interface = self.described(interface)?;
        // The least length of the block covers these four.
        let high = fields.u32().unwrap_or_default();
        let low = fields.u32().unwrap_or_default();
        let captured = fields.u32().unwrap_or_default();
        let wire = fields.u32().unwrap_or_default();
        let bytes = captured_bytes(captured, fields.rest)?;
        let ticks = u64::from(high) << 32 | u64::from(low);
        Ok(Frame { timing: interface.clock.timing(ticks), link: interface.link, wire, bytes })
    }

    /// A packet without time, and without a captured length of its own.
    fn simple<'a>(&self, mut fields: Fields<'a>) -> Result<Frame<'a>, Fault> {
        let interface = self.described(0)?;
        let wire = fields.u32().unwrap_or_default();
        let captured = match interface.snap_length {
            0 => wire,
            most => wire.min(most),
        };
        let bytes = captured_bytes(captured, fields.rest)?;
        Ok(Frame { timing: Timing::None, link: interface.link, wire, bytes })
    }

    #[inline]
    fn described(&self, number: u32) -> Result<&Interface, Fault> {
        let described = self.interfaces.len();
        self.interfaces.get(number as usize).ok_or(Fault::Interface { found: number, described })
    }
}

#[inline]
fn captured_bytes(captured: u32, room: &[u8]) -> Result<&[u8], Fault> {
    if captured > CAPTURED_MAX {
        return Err(Fault::CapturedLength { found: captured });
    }
    room.get(..captured as usize)
        .ok_or(Fault::FrameRoom { found: captured, room: room.len() as u32 })
}

/// How an interface counts time, by its options.
fn clock(mut options: Fields<'_>) -> Result<Clock, Fault> {
    let (mut resolution, mut offset_secs) = (MICROSECONDS, 0);
    while let (Some(code), Some(length)) = (options.u16(), options.u16()) {
        if code == OPTION_END {
            break;
        }
        let length = usize::from(length);
        let misfit = |expected| Fault::Option { code, found: length, expected };
        let (value, rest) =
            options.rest.split_at_checked(length).ok_or(misfit(options.rest.len()))?;
        match code {
            OPTION_RESOLUTION => {
                let [value] = *value.as_array().ok_or(misfit(1))?;
                resolution = value;
            }
            OPTION_OFFSET => offset_secs = options.order.i64(*value.as_array().ok_or(misfit(8))?),
            _ => {}
        }
        // Values are padded to four bytes; the last one's padding is the block's concern.
        options.rest = rest.get(length.next_multiple_of(4) - length..).unwrap_or_default();
    }
    Ok(Clock::new(resolution, offset_secs))
}

#[cfg(test)]
#[path = "pcapng_tests.rs"]
mod tests;
