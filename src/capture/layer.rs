//! The unread bytes of a frame, and the kind of header at their start.

use super::link_type::LinkType;
use super::tally::Uncounted;

/// The unread bytes of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest<'a> {
    /// The captured ones.
    pub(super) bytes: &'a [u8],
    /// Their number on the wire.
    pub(super) wire: u32,
}

impl<'a> Rest<'a> {
    #[inline]
    pub(super) fn new(bytes: &'a [u8], wire: u32) -> Self {
        Rest { bytes, wire }
    }

    /// Steps over bytes, captured or not.
    #[inline]
    pub(super) fn skip(&mut self, count: usize) {
        self.bytes = self.bytes.get(count..).unwrap_or_default();
        self.wire = self.wire.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Drops all bytes after the first `count`.
    pub(super) fn limit(&mut self, count: u32) {
        self.wire = self.wire.min(count);
        self.bytes = self.bytes.get(..self.wire as usize).unwrap_or(self.bytes);
    }

    /// Drops the last `count` bytes.
    pub(super) fn trim(&mut self, count: u32) {
        self.limit(self.wire.saturating_sub(count));
    }

    /// Whether no bytes of the frame on the wire are left.
    pub(super) fn is_empty(&self) -> bool {
        self.wire == 0
    }

    #[inline]
    pub(super) fn byte(&self, at: usize) -> Result<u8, Uncounted> {
        self.bytes.get(at).copied().ok_or(Uncounted::TruncatedLink)
    }

    #[inline]
    pub(super) fn be16(&self, at: usize) -> Result<u16, Uncounted> {
        self.array(at).map(u16::from_be_bytes)
    }

    pub(super) fn le16(&self, at: usize) -> Result<u16, Uncounted> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(super) fn be32(&self, at: usize) -> Result<u32, Uncounted> {
        self.array(at).map(u32::from_be_bytes)
    }

    pub(super) fn le32(&self, at: usize) -> Result<u32, Uncounted> {
        self.array(at).map(u32::from_le_bytes)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Uncounted> {
        let rest = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        rest.copied().ok_or(Uncounted::TruncatedLink)
    }
}

/// The kind of header at the start of the unread bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layer {
    /// The header of a link type.
    Link(LinkType),
    /// IEEE 802.11.
    Wlan(Radio),
    Llc,
    /// A SNAP header, announced by LLC or an NLPID.
    Snap {
        /// Bytes between the header and a bridged Ethernet frame.
        bridge_padding: usize,
    },
    /// The layer of this EtherType.
    Type(u16),
    /// The layer of this EtherType, or an 802.3 length, as after Ethernet and VLAN headers.
    TypeOrLength(u16),
    Ppp,
    Mpls,
    /// IP of the version in its first bits.
    Ip,
    Ipv4,
    Ipv6,
}

/// Properties of a frame, from its radio header.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Radio {
    /// Whether the frame ends with its check sequence.
    pub(super) check_sequence: bool,
    /// Whether the header of the frame is padded to a multiple of four bytes.
    pub(super) padded: bool,
}
