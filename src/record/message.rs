//! Messages, and the records that are read from them.

use floodmark_dataflows::types::{Pair, Volume};

use super::bounds::AMOUNT_MAX;
use super::reason::{Reason, Skip};

/// One observation: what a captured packet or a flow record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    /// Event time in milliseconds since 1970.
    pub time_ms: u64,
    /// Who sent to whom.
    pub pair: Pair,
    /// How much: at least one packet, at most [`AMOUNT_MAX`] bytes and packets.
    pub volume: Volume,
}

/// A message as a source has it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The key, if there is one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` for a tombstone of Kafka.
    pub payload: Option<&'a [u8]>,
    /// The time that the broker has for it, in milliseconds since 1970.
    pub timestamp_ms: Option<u64>,
}

/// How a record is written in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Many records in columns.
    Packed,
    /// The pair as the key, the length as the value.
    Kv,
    /// An object with `time`, `source`, `destination`, `bytes` and `packets`.
    Json,
    /// What pmacct writes.
    Pmacct,
    /// What goflow2 writes.
    Goflow2,
    /// What akvorado writes.
    Akvorado,
    /// What `nfdump -o json` and `-o ndjson` write.
    Nfdump,
    /// The text lines of tshark.
    TsharkText,
    /// What `tshark -T json` writes.
    TsharkJson,
    /// What `tshark -T ek` writes.
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

    /// A name for metrics and options. It does not change between versions.
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

/// What one observation in a message turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// A record.
    Record(Record),
    /// A record of a flow that states bytes and no packets: it counts as one packet, the least that it
    /// can have had.
    WithoutPackets(Record),
    /// Rightly none.
    Skipped(Skip),
    /// One that can't be read.
    Bad(Reason),
}

impl Read {
    /// The record, if it is one.
    pub fn record(self) -> Option<Record> {
        match self {
            Read::Record(record) | Read::WithoutPackets(record) => Some(record),
            Read::Skipped(_) | Read::Bad(_) => None,
        }
    }
}

impl From<Result<Record, Reason>> for Read {
    fn from(result: Result<Record, Reason>) -> Self {
        match result {
            Ok(record) => Read::Record(record),
            Err(reason) => Read::Bad(reason),
        }
    }
}

/// A volume within what a record may have.
pub(super) fn volume(bytes: u64, packets: u64) -> Result<Volume, Reason> {
    if packets == 0 {
        return Err(Reason::NoPackets);
    }
    if bytes > AMOUNT_MAX || packets > AMOUNT_MAX {
        return Err(Reason::TooLarge);
    }
    Ok(Volume::new(bytes as i64, packets as i64))
}
