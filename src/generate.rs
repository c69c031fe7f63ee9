//! Generates a workload from a few numbers: the same packets for the same numbers, on every machine.
//!
//! Popularity is Zipf-like with exponent 1: the pair of rank `r` of `n` has the share
//! `ln(1 + 1/r) / ln(n + 1)` of the packets, about `1 / r` of the first one's. So few pairs have
//! most of the traffic and most pairs have little, as on real links.
//!
//! Random numbers come from SplitMix64. Floating-point numbers are only added, multiplied and
//! divided, which every machine rounds alike. Logarithms and powers differ between machines, so this module
//! has its own.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use floodmark_dataflows::types::Pair;

use crate::capture::{EventTime, Packet};

/// The parameters of a workload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    /// The number of packets.
    pub packets: u64,
    /// The number of pairs that the packets are drawn from, of both families together.
    pub pairs: u32,
    /// The time of the first packet, in microseconds since 1970, give or take the jitter.
    pub start_micros: u64,
    /// The time over which the packets are spread, in microseconds.
    pub span_micros: u64,
    /// The seed of all random choices.
    pub seed: u64,
    /// The share of packets that are IPv6, and of pairs.
    pub ipv6: f64,
}

/// The reason why a workload can't be generated.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum WorkloadError {
    /// There are packets but no pairs.
    #[error("no pairs; give at least 1")]
    NoPairs,
    /// The share is not between 0 and 1.
    #[error("share \"{0}\" of IPv6; give a number from 0 to 1")]
    Share(f64),
    /// A pcap file has 32 bits for seconds.
    #[error("packets end in second {0} since 1970; a pcap file can hold times up to {max}", max = u32::MAX)]
    TooLate(u64),
}

impl Workload {
    /// The packets, in the order of time.
    ///
    /// # Errors
    /// If the parameters allow no workload.
    pub fn packets(&self) -> Result<Packets, WorkloadError> {
        if self.pairs == 0 {
            return Err(WorkloadError::NoPairs);
        }
        if !(0.0..=1.0).contains(&self.ipv6) {
            return Err(WorkloadError::Share(self.ipv6));
        }
        let end_secs = self.start_micros.saturating_add(self.span_micros) / 1_000_000;
        if end_secs > u64::from(u32::MAX) {
            return Err(WorkloadError::TooLate(end_secs));
        }
        let (v4, v6) = self.families();
        let mut random = Random(self.seed);
        Ok(Packets {
            next: 0,
            workload: *self,
            ipv6_below: match (v4, v6) {
                (_, 0) => 0,
                (0, _) => 1 << 32,
                _ => (self.ipv6 * (1u64 << 32) as f64) as u64,
            },
            v4: Family::new(v4, random.next()),
            v6: Family::new(v6, random.next()),
            random,
        })
    }

    /// Returns the numbers of IPv4 and IPv6 pairs. A family that has a share of the packets has at least one
    /// pair if there are two.
    fn families(&self) -> (u32, u32) {
        let v6 = (f64::from(self.pairs) * self.ipv6 + 0.5) as u32;
        let v6 = match self.ipv6 > 0.0 && self.ipv6 < 1.0 && self.pairs > 1 {
            true => v6.clamp(1, self.pairs - 1),
            false => v6.min(self.pairs),
        };
        (self.pairs - v6, v6)
    }
}

/// The packets of a workload.
#[derive(Clone, Debug)]
pub struct Packets {
    next: u64,
    workload: Workload,
    /// A packet is IPv6 if 32 random bits are below this.
    ipv6_below: u64,
    v4: Family,
    v6: Family,
    random: Random,
}

impl Iterator for Packets {
    type Item = Packet;

    fn next(&mut self) -> Option<Packet> {
        if self.next == self.workload.packets {
            return None;
        }
        let place = self.random.next();
        let choice = self.random.next();
        let time = self.time(choice & 0xffff);
        let ipv6 = choice >> 32 < self.ipv6_below;
        let length = length((choice >> 16) as u16, place as u16);
        let (pair, bytes) = match ipv6 {
            false => (v4_pair(self.v4.draw(place)), length),
            // The minimum: an IPv6 header and a TCP header.
            true => (v6_pair(self.v6.draw(place)), length.max(60)),
        };
        self.next += 1;
        Some(Packet { time, pair, bytes: bytes.into() })
    }
}

impl Packets {
    /// Returns the time of the next packet: each has an equal slot of the span, and the jitter (of 2^16) moves
    /// it within its slot.
    fn time(&self, jitter: u64) -> EventTime {
        let slot = u128::from(self.next) << 16 | u128::from(jitter);
        let slots = u128::from(self.workload.packets) << 16;
        let into_span = (slot * u128::from(self.workload.span_micros) / slots) as u64;
        let micros = self.workload.start_micros + into_span;
        EventTime { ms: micros / 1000, nanos: (micros % 1000) as u32 * 1000 }
    }
}

/// The length of an IP packet: half are short, such as acknowledgements, a third are full, the others have any
/// length.
fn length(class: u16, within: u16) -> u16 {
    match class % 6 {
        0 | 1 => 40 + within % 13,
        2 => 53 + within % 76,
        3 => 129 + within % 1271,
        _ => 1400 + within % 101,
    }
}

/// The pairs of one address family.
#[derive(Clone, Copy, Debug)]
struct Family {
    /// The binary logarithm of the number of pairs plus one.
    log2: f64,
    pairs: u32,
    /// Half of the bits of a pair's number are its source, half its destination.
    half_bits: u32,
    /// Odd; spreads ranks over the numbers.
    stride: u64,
}

impl Family {
    fn new(pairs: u32, seed: u64) -> Self {
        // Numbers for four times the pairs, so that most hosts have several pairs, as on real links.
        let bits = (u64::from(pairs) * 4).next_power_of_two().ilog2().max(2);
        let half_bits = bits.div_ceil(2);
        Family { log2: log2(u64::from(pairs) + 1), pairs, half_bits, stride: seed | 1 }
    }

    /// Returns a source and a destination number, from 64 random bits.
    fn draw(&self, random: u64) -> (u32, u32) {
        let uniform = (random >> 16) as f64 / (1u64 << 48) as f64;
        let rank = (exp2(uniform * self.log2) as u64).clamp(1, u64::from(self.pairs.max(1)));
        // Both steps are invertible, so different ranks have different numbers.
        let mask = (1u64 << (2 * self.half_bits)) - 1;
        let number = rank.wrapping_mul(self.stride) & mask;
        let number = number ^ (number >> self.half_bits);
        let half = (1u64 << self.half_bits) - 1;
        ((number >> self.half_bits) as u32, (number & half) as u32)
    }
}

/// Sources are in 10.0.0.0/8, destinations in 172.16.0.0/12; a number has 17 bits at most.
fn v4_pair((source, destination): (u32, u32)) -> Pair {
    Pair::V4(Ipv4Addr::from(0x0a00_0000 | source), Ipv4Addr::from(0xac10_0000 | destination))
}

/// Sources and destinations are in the prefix for documentation, 2001:db8::/32.
fn v6_pair((source, destination): (u32, u32)) -> Pair {
    const PREFIX: u128 = 0x2001_0db8 << 96;
    let source = PREFIX | 0x1 << 64 | u128::from(source);
    let destination = PREFIX | 0x2 << 64 | u128::from(destination);
    Pair::V6(Ipv6Addr::from(source), Ipv6Addr::from(destination))
}

/// 2 to the power of a number from 0 to 33, to about eleven digits.
fn exp2(power: f64) -> f64 {
    let whole = power as u64;
    let x = (power - whole as f64) * std::f64::consts::LN_2;
    let mut sum = 1.0;
    for divisor in (1..=12u32).rev() {
        sum = 1.0 + x * sum / f64::from(divisor);
    }
    (1u64 << whole) as f64 * sum
}

/// The logarithm of a number of at least 1, bit by bit.
fn log2(number: u64) -> f64 {
    let whole = number.max(1).ilog2();
    let mut rest = number as f64 / (1u64 << whole) as f64;
    let (mut log, mut bit) = (f64::from(whole), 0.5);
    for _ in 0..48 {
        rest *= rest;
        if rest >= 2.0 {
            rest /= 2.0;
            log += bit;
        }
        bit /= 2.0;
    }
    log
}

/// SplitMix64.
#[derive(Clone, Copy, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

const ETHERNET: usize = 14;
/// The length of the UDP header.
const TRANSPORT: usize = 8;
/// A record's header, and the longest headers that are kept.
const RECORD_MAX: usize = 16 + ETHERNET + 40 + TRANSPORT;
/// The shortest frame on the wire, without its check sequence.
const FRAME_MIN: u64 = 60;
const SNAP_LENGTH: u32 = 96;
const UDP: u8 = 17;

/// Writes packets as a classic pcap: little endian, microseconds, Ethernet. Only the headers are
/// kept, 58 bytes for an IPv4 packet and 78 for an IPv6 packet with the record's own header; the
/// length on the wire is the whole one.
///
/// # Errors
/// The writer fails.
pub fn write_pcap(packets: impl Iterator<Item = Packet>, mut out: impl Write) -> io::Result<()> {
    let mut header = Vec::with_capacity(24);
    header.extend(0xa1b2_c3d4u32.to_le_bytes());
    header.extend([2, 0, 4, 0]);
    header.extend([0; 8]);
    header.extend(SNAP_LENGTH.to_le_bytes());
    header.extend(1u32.to_le_bytes());
    out.write_all(&header)?;
    for packet in packets {
        let (record, length) = record(&packet);
        out.write_all(record.get(..length).unwrap_or(&record))?;
    }
    out.flush()
}

/// Encodes a packet as a record; returns the array and the used length.
fn record(packet: &Packet) -> ([u8; RECORD_MAX], usize) {
    let mut record = [0; RECORD_MAX];
    let mut fields = Fields { record: &mut record, at: 0 };
    let micros = packet.time.ms % 1000 * 1000 + u64::from(packet.time.nanos) / 1000;
    let ip_header: u32 = if matches!(packet.pair, Pair::V4(..)) { 20 } else { 40 };
    let captured = ETHERNET as u32 + ip_header + TRANSPORT as u32;
    let wire = (ETHERNET as u64 + packet.bytes).max(FRAME_MIN);
    fields.put(&((packet.time.ms / 1000) as u32).to_le_bytes());
    fields.put(&(micros as u32).to_le_bytes());
    fields.put(&captured.to_le_bytes());
    fields.put(&(wire as u32).to_le_bytes());
    // Locally administered addresses.
    fields.put(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    match packet.pair {
        Pair::V4(source, destination) => {
            fields.put(&[0x08, 0x00]);
            fields.put(&ipv4_header(source, destination, packet.bytes as u16));
        }
        Pair::V6(source, destination) => {
            fields.put(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            fields.put(&(packet.bytes.saturating_sub(40) as u16).to_be_bytes());
            fields.put(&[UDP, 64]);
            fields.put(&source.octets());
            fields.put(&destination.octets());
        }
    }
    let payload = packet.bytes.saturating_sub(ip_header.into()) as u16;
    fields.put(&[0xc3, 0x50, 0x01, 0xbb]);
    fields.put(&payload.to_be_bytes());
    let length = fields.at + 2;
    (record, length)
}

fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr, length: u16) -> [u8; 20] {
    let mut header = [0; 20];
    let mut fields = Fields { record: &mut header, at: 0 };
    fields.put(&[0x45, 0]);
    fields.put(&length.to_be_bytes());
    fields.put(&[0, 0, 0x40, 0, 64, UDP, 0, 0]);
    fields.put(&source.octets());
    fields.put(&destination.octets());
    let sum: u32 =
        header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let mut checksum = Fields { record: &mut header, at: 10 };
    checksum.put(&(!(folded as u16)).to_be_bytes());
    header
}

/// An array that is written from its front.
struct Fields<'a> {
    record: &'a mut [u8],
    at: usize,
}

impl Fields<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.record.get_mut(self.at..self.at + bytes.len()) {
            room.copy_from_slice(bytes);
        }
        self.at += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_and_logarithms_match_the_standard_library() {
        for number in [1u64, 2, 3, 10, 1_000_001, u64::from(u32::MAX) + 1] {
            assert!((log2(number) - (number as f64).log2()).abs() < 1e-9, "{number}");
        }
        for power in [0.0, 0.25, 0.999_999, 1.0, 19.93, 32.0] {
            assert!((exp2(power) / 2f64.powf(power) - 1.0).abs() < 1e-11, "{power}");
        }
    }

    #[test]
    fn ranks_have_their_share_and_different_pairs() {
        let family = Family::new(1000, 99);
        let mut random = Random(1);
        let mut counts = std::collections::BTreeMap::<_, u64>::new();
        for _ in 0..200_000 {
            *counts.entry(family.draw(random.next())).or_default() += 1;
        }
        assert_eq!(counts.len(), 1000);
        let most = counts.values().max().copied().unwrap_or_default();
        // ln(2) / ln(1001)
        assert!((19_500..20_600).contains(&most), "{most}");
    }

    #[test]
    fn impossible_workload_is_rejected() {
        let good =
            Workload { packets: 1, pairs: 1, start_micros: 0, span_micros: 0, seed: 0, ipv6: 0.0 };
        let refused = |workload: Workload| workload.packets().err();
        assert_eq!(refused(good), None);
        assert_eq!(refused(Workload { pairs: 0, ..good }), Some(WorkloadError::NoPairs));
        assert!(refused(Workload { ipv6: f64::NAN, ..good }).is_some());
        assert!(refused(Workload { span_micros: u64::MAX, ..good }).is_some());
    }
}
