//! Reading captures: pcap and pcapng, plain or compressed, from files, pipes and standard input.
//!
//! - `reader`: [`Reader`], the only part that others need: packets that count, one by one.
//! - `input`: the bytes: opening, decompression (`packed`), one bounded buffer.
//! - `wait`: bounds the time that a read waits for a pipe.
//! - `pcap`, `pcapng`: from that buffer to frames, without I/O.
//! - `time`: from the timestamps of a container to [`EventTime`].
//! - `decode`: from the bytes of a frame to its pair and length, without I/O; `layer` holds its position.
//! - `link_type` lists the link types, `link` parses their headers; `wireless` and `wrapped` parse those that take
//!   more than a table.
//! - [`live`]: frames of a network interface, as they pass.
//! - `tally`: counts of the frames read, and of those not counted, by reason.
//! - `error`: the errors that end the reading.
//!
//! `docs/counting.md` defines which packets count, and how many bytes each has; comments here only give reasons for
//! the code. Nothing in a capture can make this module panic, wait without end, or hold more than [`BUFFER_MAX`]
//! bytes of it.

mod decode;
mod error;
mod input;
mod layer;
mod link;
mod link_type;
pub mod live;
pub mod merge;
mod packed;
mod packet;
mod pcap;
mod pcapng;
mod reader;
mod tally;
mod time;
mod wait;
mod wireless;
mod wrapped;

pub use error::{Class, Fault, ReadError};
pub use input::BUFFER_MAX;
pub(crate) use input::Input;
pub use link_type::LinkType;
pub use packet::Packet;
pub use reader::{Reader, Warn};
pub use tally::{LINK_TYPES_MAX, Tally, Uncounted};
pub use time::{EventTime, Timing};

/// Maximum number of captured bytes of a frame. It is the limit of the tools that write captures, so a greater
/// number is damage.
pub const CAPTURED_MAX: u32 = 262_144;

/// The byte order of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    #[inline(always)]
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            ByteOrder::Little => u16::from_le_bytes(bytes),
            ByteOrder::Big => u16::from_be_bytes(bytes),
        }
    }

    #[inline(always)]
    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            ByteOrder::Little => u32::from_le_bytes(bytes),
            ByteOrder::Big => u32::from_be_bytes(bytes),
        }
    }

    fn i64(self, bytes: [u8; 8]) -> i64 {
        match self {
            ByteOrder::Little => i64::from_le_bytes(bytes),
            ByteOrder::Big => i64::from_be_bytes(bytes),
        }
    }
}

/// A frame as its container holds it.
#[derive(Clone, Copy, Debug)]
struct Frame<'a> {
    timing: Timing,
    link: LinkType,
    /// Length on the wire.
    wire: u32,
    /// The bytes that were captured, at most [`CAPTURED_MAX`].
    bytes: &'a [u8],
}

/// The result of parsing the start of a container's bytes.
#[derive(Debug)]
enum Parsed<'a> {
    /// A frame, and the number of bytes to consume.
    Frame(Frame<'a>, usize),
    /// The number of bytes to consume, which hold no frame.
    Skip(usize),
    /// The bytes end too early to parse; this many are needed.
    Need(usize),
    /// The bytes are not valid.
    Invalid(Fault),
}
