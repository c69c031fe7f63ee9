//! Messages, and the records that are read from them.

use floodmark_dataflows::types::{Pair, Volume};

use super::bounds::AMOUNT_MAX;
use super::reason::{RecordError, Skip};
use crate::base::strays::Timed;

/// A record of traffic, from a captured packet or a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    /// Event time in milliseconds since 1970.
    pub time_ms: u64,
    /// The source and the destination.
    pub pair: Pair,
    /// The bytes and the packets: at least one packet, at most [`AMOUNT_MAX`] of each.
    pub volume: Volume,
}

impl Timed for Record {
    #[inline(always)]
    fn time_ms(&self) -> u64 {
        self.time_ms
    }
}

/// A message as a source has it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The key, if there is one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` for a tombstone of Kafka.
    pub payload: Option<&'a [u8]>,
    /// The timestamp of the message at the broker, in milliseconds since 1970.
    pub timestamp_ms: Option<u64>,
}

/// The format of the records in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Many records in columns.
    Packed,
    /// The pair as the key, the length as the value.
    Kv,
    /// An object with `time`, `source`, `destination`, `bytes` and `packets`.
    Json,
    /// Objects of pmacct.
    Pmacct,
    /// Objects of goflow2.
    Goflow2,
    /// Objects of akvorado.
    Akvorado,
    /// Objects of `nfdump -o json` and `-o ndjson`.
    Nfdump,
    /// The text lines of tshark.
    TsharkText,
    /// Objects of `tshark -T json`.
    TsharkJson,
    /// Lines of `tshark -T ek`.
    TsharkEk,
}

impl Format {
    /// Every format, in the order of the enum.
    pub const ALL: [Format; 10] = [
        Format::Packed,
        Format::Kv,
        Format::Json,
        Format::Pmacct,
        Format::Goflow2,
        Format::Akvorado,
        Format::Nfdump,
        Format::TsharkText,
        Format::TsharkJson,
        Format::TsharkEk,
    ];

    /// Returns the name for metrics and options. It does not change between versions.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Packed => "packed",
            Format::Kv => "kv",
            Format::Json => "json",
            Format::Pmacct => "pmacct",
            Format::Goflow2 => "goflow2",
            Format::Akvorado => "akvorado",
            Format::Nfdump => "nfdump",
            Format::TsharkText => "tshark_text",
            Format::TsharkJson => "tshark_json",
            Format::TsharkEk => "tshark_ek",
        }
    }
}

/// An observation as it was read from a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A record.
    Record(Record),
    /// A record of a flow that states bytes and no packets. It counts as one packet, the minimum.
    WithoutPackets(Record),
    /// An observation that is no record by its nature.
    Skipped(Skip),
    /// An observation that can't be read.
    Bad(RecordError),
}

impl Observation {
    /// Returns the record, if it is one.
    pub fn record(self) -> Option<Record> {
        match self {
            Observation::Record(record) | Observation::WithoutPackets(record) => Some(record),
            Observation::Skipped(_) | Observation::Bad(_) => None,
        }
    }
}

impl From<Result<Record, RecordError>> for Observation {
    fn from(result: Result<Record, RecordError>) -> Self {
        match result {
            Ok(record) => Observation::Record(record),
            Err(reason) => Observation::Bad(reason),
        }
    }
}

/// The amounts of a flow as its fields state them.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowAmounts {
    pub(super) packets: Option<u64>,
    pub(super) bytes: Option<u64>,
}

impl FlowAmounts {
    /// Returns the number of packets that is known. Tools write 0 for an unknown one, and firewalls omit it.
    fn known_packets(self) -> Option<u64> {
        self.packets.filter(|packets| *packets > 0)
    }

    /// Returns the volume of the flow; `None` if there is no traffic. `sampling` reads the sampling factor, and
    /// `bytes_field` is the field to name if it is missing.
    pub(super) fn volume(
        self,
        bytes_field: &'static str,
        sampling: impl FnOnce() -> Result<Option<u64>, RecordError>,
    ) -> Result<Option<Volume>, RecordError> {
        let packets = self.known_packets();
        let bytes = match (self.bytes, packets) {
            (Some(0), None) => return Ok(None),
            (bytes, _) => bytes.ok_or(RecordError::MissingField { field: bytes_field })?,
        };
        // Tools write 0 without sampling, or for an unknown rate.
        let rate = sampling()?.unwrap_or(1).max(1);
        let sampled = |amount: u64| amount.checked_mul(rate).ok_or(RecordError::TooLarge);
        volume(sampled(bytes)?, packets.map_or(Ok(1), sampled)?).map(Some)
    }

    /// Returns the observation of a flow with these amounts.
    pub(super) fn observation(self, record: Record) -> Observation {
        match self.known_packets() {
            Some(_) => Observation::Record(record),
            None => Observation::WithoutPackets(record),
        }
    }
}

/// Returns a volume, if it is within the bounds of a record.
pub(super) fn volume(bytes: u64, packets: u64) -> Result<Volume, RecordError> {
    if packets == 0 {
        return Err(RecordError::NoPackets);
    }
    if bytes > AMOUNT_MAX || packets > AMOUNT_MAX {
        return Err(RecordError::TooLarge);
    }
    Ok(Volume::new(bytes as i64, packets as i64))
}
