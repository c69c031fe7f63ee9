//! The default format: many records in one message, column by column, so that similar values lie side by side
//! for the compressor, and a reader needs a few nanoseconds a record.
//!
//! `docs/records.md` describes the layout byte by byte, and a test freezes it. All integers are little endian.
//! The message is not compressed here: the client compresses whole batches.

use std::net::{Ipv4Addr, Ipv6Addr};

use floodmark_dataflows::types::Pair;

use super::bounds::AMOUNT_MAX;
use super::message;
use super::message::{Observation, Record};
use super::reason::{Excerpt, TimeFault};
use super::reason::{RecordError, Skip};

/// No text begins with it: UTF-8 has no byte 0xff.
const MAGIC: [u8; 4] = *b"\xffFMR";
const VERSION: u8 = 1;

const VERSION_AT: usize = 4;
const WIDTHS_AT: usize = 5;
const BASES_AT: usize = 8;
const V4_COUNT_AT: usize = 32;
const V6_COUNT_AT: usize = 36;
const CHECKSUM_AT: usize = 40;
const HEADER: usize = 44;

const V4_BYTES: usize = 8;
const V6_BYTES: usize = 32;

/// The columns are time, bytes and packets.
const COLUMNS: usize = 3;

/// Whether a message begins with the magic number of a packed one.
pub(super) fn has_magic(payload: &[u8]) -> bool {
    payload.starts_with(&MAGIC)
}

/// Returns an upper bound on the distance of two event times of a packed message, by the width of their column.
pub(super) fn span_max(payload: &[u8]) -> u64 {
    match payload.get(WIDTHS_AT) {
        Some(0) => 0,
        Some(1) => u8::MAX.into(),
        Some(2) => u16::MAX.into(),
        Some(4) => u32::MAX.into(),
        _ => u64::MAX,
    }
}

/// Collects records for one message.
#[derive(Clone, Debug, Default)]
pub struct Packer {
    v4: Vec<Record>,
    v6: Vec<Record>,
    ranges: [ColumnRange; COLUMNS],
}

/// A message that is ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The value of the message.
    pub payload: Vec<u8>,
    /// The timestamp of the message: the greatest event time in it, in milliseconds since 1970.
    pub greatest_ms: u64,
    /// The number of records in the message.
    pub records: usize,
}

impl Packer {
    /// The number of records that fit into [`Packer::BYTES_MAX`] for any values.
    pub const RECORDS_MAX: usize = 16_000;

    /// Greatest size of a message of [`Packer::RECORDS_MAX`] records. With the header that Kafka adds, it is
    /// below the 1,000,000 bytes that clients and brokers accept by default.
    pub const BYTES_MAX: usize = HEADER + Packer::RECORDS_MAX * (V6_BYTES + COLUMNS * 8);

    /// Creates a packer without records.
    pub fn new() -> Self {
        Packer::default()
    }

    /// Adds a record. The message has records of IPv4 before those of IPv6, each in the order of the calls.
    ///
    /// # Errors
    /// If a record may not have this volume, so that no reader would accept it.
    pub fn push(&mut self, record: &Record) -> Result<(), RecordError> {
        let columns = columns(record)?;
        for (range, value) in self.ranges.iter_mut().zip(columns) {
            range.include(value);
        }
        match record.pair {
            Pair::V4(..) => self.v4.push(*record),
            Pair::V6(..) => self.v6.push(*record),
        }
        Ok(())
    }

    /// Returns the number of records since the last message.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the message is full: with another record, clients or brokers might reject it.
    pub fn is_full(&self) -> bool {
        self.len() >= Packer::RECORDS_MAX
    }

    /// Returns the message of the records that were pushed since the last one; `None` if there are none.
    pub fn take(&mut self) -> Option<Packed> {
        if self.is_empty() {
            return None;
        }
        let ranges = std::mem::take(&mut self.ranges);
        let widths = ranges.map(|range| range.width());
        let size = size(widths, self.v4.len() as u64, self.v6.len() as u64);
        let mut payload = Vec::with_capacity(size.unwrap_or_default() as usize);
        payload.extend(MAGIC);
        payload.push(VERSION);
        payload.extend(widths);
        for range in ranges {
            payload.extend(range.least.to_le_bytes());
        }
        payload.extend((self.v4.len() as u32).to_le_bytes());
        payload.extend((self.v6.len() as u32).to_le_bytes());
        payload.extend([0; HEADER - CHECKSUM_AT]);
        let records = || self.v4.iter().chain(&self.v6);
        let column = |values: fn(&Record) -> u64, range: ColumnRange, payload: &mut Vec<u8>| {
            for record in records() {
                let delta = (values(record) - range.least).to_le_bytes();
                payload.extend_from_slice(&delta[..usize::from(range.width())]);
            }
        };
        let [times, bytes, packets] = ranges;
        column(|record| record.time_ms, times, &mut payload);
        column(|record| record.volume.bytes as u64, bytes, &mut payload);
        column(|record| record.volume.packets as u64, packets, &mut payload);
        for side in [Pair::source, Pair::destination] {
            for record in records() {
                match side(&record.pair) {
                    std::net::IpAddr::V4(address) => payload.extend(address.octets()),
                    std::net::IpAddr::V6(address) => payload.extend(address.octets()),
                }
            }
        }
        let checksum = checksum(&payload);
        payload[CHECKSUM_AT..HEADER].copy_from_slice(&checksum.to_le_bytes());
        let packed = Packed { payload, greatest_ms: times.greatest, records: self.len() };
        self.v4.clear();
        self.v6.clear();
        Some(packed)
    }
}

/// Returns the numbers of a record, in the order of the columns.
fn columns(record: &Record) -> Result<[u64; COLUMNS], RecordError> {
    let amount = |value: i64| u64::try_from(value).ok();
    let volume = amount(record.volume.bytes).zip(amount(record.volume.packets));
    let (bytes, packets) = volume.ok_or(RecordError::BadNumber { field: "volume" })?;
    message::volume(bytes, packets)?;
    Ok([record.time_ms, bytes, packets])
}

/// The least and the greatest value of a column.
#[derive(Clone, Copy, Debug)]
struct ColumnRange {
    least: u64,
    greatest: u64,
}

impl Default for ColumnRange {
    fn default() -> Self {
        ColumnRange { least: u64::MAX, greatest: 0 }
    }
}

impl ColumnRange {
    fn include(&mut self, value: u64) {
        self.least = self.least.min(value);
        self.greatest = self.greatest.max(value);
    }

    /// Returns the number of bytes for a difference from the least value.
    fn width(self) -> u8 {
        match self.greatest - self.least {
            0 => 0,
            1..=0xff => 1,
            0x100..=0xffff => 2,
            0x1_0000..=0xffff_ffff => 4,
            _ => 8,
        }
    }
}

/// Returns the length of a message; `None` if it is beyond 64 bits.
fn size(widths: [u8; COLUMNS], v4: u64, v6: u64) -> Option<u64> {
    let numbers = widths.into_iter().map(u64::from).sum::<u64>();
    let columns = v4.checked_add(v6)?.checked_mul(numbers)?;
    let addresses =
        v4.checked_mul(V4_BYTES as u64)?.checked_add(v6.checked_mul(V6_BYTES as u64)?)?;
    columns.checked_add(addresses)?.checked_add(HEADER as u64)
}

/// Returns the CRC-32 (that of zip, gzip and Ethernet) of all bytes without its own.
fn checksum(payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&payload[..CHECKSUM_AT]);
    hasher.update(&payload[HEADER..]);
    hasher.finalize()
}

/// Checks a packed message as a whole, and returns an iterator over its records.
pub(super) fn decode(payload: &[u8]) -> Result<Records<'_>, RecordError> {
    let version = payload.get(VERSION_AT).copied().ok_or(RecordError::PackedLength)?;
    if version != VERSION {
        return Err(RecordError::PackedVersion { version });
    }
    let body = payload.get(HEADER..).ok_or(RecordError::PackedLength)?;
    let widths: [u8; COLUMNS] = array(payload, WIDTHS_AT);
    if !widths.iter().all(|width| matches!(width, 0 | 1 | 2 | 4 | 8)) {
        return Err(RecordError::PackedLength);
    }
    let v4 = u32::from_le_bytes(array(payload, V4_COUNT_AT));
    let v6 = u32::from_le_bytes(array(payload, V6_COUNT_AT));
    if size(widths, v4.into(), v6.into()) != Some(payload.len() as u64) {
        return Err(RecordError::PackedLength);
    }
    if checksum(payload) != u32::from_le_bytes(array(payload, CHECKSUM_AT)) {
        return Err(RecordError::PackedChecksum);
    }
    let (v4, v6) = (v4 as usize, v6 as usize);
    let mut body = body;
    let mut cut = |size: usize| {
        // Checked above: the lengths add up to that of the message.
        let (head, tail) = body.split_at(size);
        body = tail;
        head
    };
    let base = |column: usize| u64::from_le_bytes(array(payload, BASES_AT + 8 * column));
    let mut column = |index: usize| {
        let width = usize::from(widths[index]);
        Column { width, base: base(index), cells: cut((v4 + v6) * width) }
    };
    let (times, bytes, packets) = (column(0), column(1), column(2));
    let v4_sources = cut(v4 * 4);
    let v6_sources = cut(v6 * 16);
    let v4_destinations = cut(v4 * 4);
    let v6_destinations = cut(v6 * 16);
    Ok(Records {
        times,
        bytes,
        packets,
        v4: AddressColumns { sources: v4_sources, destinations: v4_destinations },
        v6: AddressColumns { sources: v6_sources, destinations: v6_destinations },
    })
}

/// The records of a packed message, one after another.
pub(super) struct Records<'a> {
    times: Column<'a>,
    bytes: Column<'a>,
    packets: Column<'a>,
    v4: AddressColumns<'a, 4>,
    v6: AddressColumns<'a, 16>,
}

impl Records<'_> {
    /// Whether no record is left.
    pub(super) fn is_empty(&self) -> bool {
        self.v4.sources.is_empty() && self.v6.sources.is_empty()
    }
}

impl Iterator for Records<'_> {
    type Item = Observation;

    fn next(&mut self) -> Option<Observation> {
        let pair = match self.v4.next() {
            Some((source, destination)) => {
                Pair::V4(Ipv4Addr::from_octets(source), Ipv4Addr::from_octets(destination))
            }
            None => {
                let (source, destination) = self.v6.next()?;
                Pair::V6(Ipv6Addr::from_octets(source), Ipv6Addr::from_octets(destination))
            }
        };
        // All three columns advance, even for a record that is rejected.
        let (time, bytes, packets) = (self.times.next(), self.bytes.next(), self.packets.next());
        Some(record(time, pair, bytes, packets))
    }
}

fn record(
    time_ms: Option<u64>,
    pair: Pair,
    bytes: Option<u64>,
    packets: Option<u64>,
) -> Observation {
    let Some(time_ms) = time_ms else {
        let (value, fault) = (Excerpt::new("2^64 or more"), TimeFault::OutOfRange);
        return Observation::Bad(RecordError::BadTime { field: "time", value, fault });
    };
    let beyond = AMOUNT_MAX + 1;
    let (bytes, packets) = (bytes.unwrap_or(beyond), packets.unwrap_or(beyond));
    match message::volume(bytes, packets) {
        Ok(volume) => Observation::Record(Record { time_ms, pair, volume }),
        Err(RecordError::NoPackets) if bytes == 0 => Observation::Skipped(Skip::NoTraffic),
        Err(RecordError::NoPackets) => message::volume(bytes, 1)
            .map_or_else(Observation::Bad, |volume| {
                Observation::WithoutPackets(Record { time_ms, pair, volume })
            }),
        Err(reason) => Observation::Bad(reason),
    }
}

/// A column of numbers.
struct Column<'a> {
    width: usize,
    base: u64,
    cells: &'a [u8],
}

impl Column<'_> {
    /// Returns the next number; `None` beyond 64 bits.
    fn next(&mut self) -> Option<u64> {
        let delta = match self.width {
            0 => 0,
            1 => self.cell().map_or(0, |[cell]| u64::from(cell)),
            2 => self.cell().map_or(0, |cell| u64::from(u16::from_le_bytes(cell))),
            4 => self.cell().map_or(0, |cell| u64::from(u32::from_le_bytes(cell))),
            _ => self.cell().map_or(0, u64::from_le_bytes),
        };
        self.base.checked_add(delta)
    }

    fn cell<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (cell, rest) = self.cells.split_first_chunk()?;
        self.cells = rest;
        Some(*cell)
    }
}

/// The addresses of one family.
struct AddressColumns<'a, const N: usize> {
    sources: &'a [u8],
    destinations: &'a [u8],
}

impl<const N: usize> AddressColumns<'_, N> {
    fn next(&mut self) -> Option<([u8; N], [u8; N])> {
        let (source, sources) = self.sources.split_first_chunk()?;
        let (destination, destinations) = self.destinations.split_first_chunk()?;
        (self.sources, self.destinations) = (sources, destinations);
        Some((*source, *destination))
    }
}

/// Returns `N` bytes of a whole header.
fn array<const N: usize>(payload: &[u8], at: usize) -> [u8; N] {
    payload[at..].first_chunk().copied().expect("the header is whole")
}

#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
