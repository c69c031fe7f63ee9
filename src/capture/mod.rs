//! Reading captures: pcap and pcapng, plain or compressed, from files, pipes and standard input.
//!
//! - `reader`: [`Reader`], the only part that others need: packets that count, one by one.
//! - `input`: the bytes: opening, decompression (`packed`), one bounded buffer.
//! - `wait`: bounds the time that a read waits for a pipe.
//! - `pcap`, `pcapng`: from that buffer to frames, without I/O.
//! - `time`: from what a container says to [`EventTime`].
//! - `decode`: from the bytes of a frame to its pair and length, without I/O; `layer` is how far it has come.
//! - `link_type` has the link types, `link` their headers; `wireless` and `wrapped` have those that take more
//!   than a table.
//! - [`live`]: frames of a network interface, as they pass.
//! - `strays`: packets far ahead of the one after them.
//! - `tally`: counts of the frames read, and of those not counted, by reason.
//! - `error`: the errors that end the reading.
//!
//! `docs/counting.md` says which packets count, and how many bytes each has; comments here say only why the code is
//! as it is. Nothing in a capture can make this module panic, wait without end, or hold more than [`BUFFER_MAX`]
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
mod strays;
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

/// The most bytes that one frame may have in a capture; a greater number is damage, since no tool
/// writes it (it is the limit of the tools that write captures, too).
pub const CAPTURED_MAX: u32 = 262_144;

/// The byte order of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    #[inline(always)]
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        }
    }

    #[inline(always)]
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
enum Found<'a> {
    /// A frame, and how many bytes to move on by.
    Frame(Frame<'a>, usize),
    /// Bytes that hold no frame, to move on by.
    Pass(usize),
    /// The bytes are too few to parse; this many are needed.
    Need(usize),
    /// The bytes are not valid.
    Bad(Fault),
}
