//! Captures made in a test: packets at chosen times between chosen addresses, of chosen lengths.

use std::net::IpAddr;

/// A packet of a made capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Milliseconds since 1970.
    pub(crate) ms: u64,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Of the whole IP packet: at least 20, with IPv6 40, and below 65,536.
    pub(crate) bytes: u32,
}

/// A packet, with the addresses as text.
pub(crate) fn packet(ms: u64, source: &str, destination: &str, bytes: u32) -> Packet {
    let address = |text: &str| text.parse().expect("an address");
    Packet { ms, source: address(source), destination: address(destination), bytes }
}

const ETHERNET: u32 = 1;
const ETHERNET_HEADER: usize = 14;

impl Packet {
    /// Returns the Ethernet and IP headers; the rest of the packet is not captured.
    fn headers(&self) -> Vec<u8> {
        let mut frame = vec![0x02; 12];
        let bytes = u16::try_from(self.bytes).expect("a packet of fewer than 65,536 bytes");
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00, 0x45, 0]);
                frame.extend(bytes.to_be_bytes());
                frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((bytes - 40).to_be_bytes());
                // No next header: a packet without payload stays one of 40 bytes.
                frame.extend([59, 64]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            _ => panic!("a packet of two families: {self:?}"),
        }
        frame
    }

    /// Returns the packet's record in a classic capture: little-endian, with microseconds.
    pub(crate) fn record(&self) -> Vec<u8> {
        let headers = self.headers();
        let seconds = u32::try_from(self.ms / 1000).expect("a time before 2106");
        let micros = (self.ms % 1000) as u32 * 1000;
        let wire = ETHERNET_HEADER as u32 + self.bytes;
        let mut record = Vec::new();
        for number in [seconds, micros, headers.len() as u32, wire] {
            record.extend(number.to_le_bytes());
        }
        record.extend(headers);
        record
    }

    /// Returns the packet's block in a pcapng capture that counts milliseconds.
    fn block(&self) -> Vec<u8> {
        let headers = self.headers();
        let wire = ETHERNET_HEADER as u32 + self.bytes;
        let mut body = Vec::new();
        let (high, low) = ((self.ms >> 32) as u32, self.ms as u32);
        for number in [0, high, low, headers.len() as u32, wire] {
            body.extend(number.to_le_bytes());
        }
        body.extend(headers);
        block(6, body)
    }
}

/// Returns the header of a classic capture of Ethernet frames.
pub(crate) fn header() -> Vec<u8> {
    let mut header = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
    for number in [0, 0, 262_144, ETHERNET] {
        header.extend(number.to_le_bytes());
    }
    header
}

/// Returns a classic capture of these packets, in their order.
pub(crate) fn pcap(packets: &[Packet]) -> Vec<u8> {
    let records = packets.iter().flat_map(Packet::record);
    header().into_iter().chain(records).collect()
}

/// Returns a pcapng capture of these packets, of any times.
pub(crate) fn pcapng(packets: &[Packet]) -> Vec<u8> {
    let mut section = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
    section.extend([1, 0, 0, 0]);
    section.extend(u64::MAX.to_le_bytes());
    let mut interface = vec![ETHERNET as u8, 0, 0, 0, 0, 0, 4, 0];
    // Option 9, the resolution: 10^-3.
    interface.extend([9, 0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    let blocks = packets.iter().flat_map(Packet::block);
    let begin = [block(0x0a0d_0d0a, section), block(1, interface)].concat();
    begin.into_iter().chain(blocks).collect()
}

/// Returns a block of a pcapng capture.
fn block(kind: u32, mut body: Vec<u8>) -> Vec<u8> {
    body.resize(body.len().next_multiple_of(4), 0);
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, &body, &length].concat()
}
