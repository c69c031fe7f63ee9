//! The formats of records on a topic: many records packed into one message, or texts of one record
//! each, as floodmark and other tools write them.
//!
//! - `packed`: the default: columns of many records, behind a header and a checksum.
//! - `kv`: the pair as the key, the length as the value: what older producers write.
//! - `json`: objects of any dialect: which one it is, and floodmark's own.
//! - `dialect`: what each tool that writes flow records calls its fields.
//! - `tshark`: packets in the two JSON forms of tshark; `lines`: its text lines.
//! - `value`: numbers and addresses in texts; `time`: times.
//! - `fields`: chosen fields of a message by their own names.
//!
//! [`Decoder`] tells the format of each message from its content; what it takes and refuses is told in
//! `docs/records.md`. It does no I/O. Nothing in a message can make it panic, or take more memory or
//! time than in proportion to its length.

mod dialect;
mod fields;
mod json;
mod kv;
mod lines;
mod packed;
mod reason;
mod time;
mod tshark;
mod value;

use std::borrow::Cow;

use floodmark_dataflows::types::{Pair, Volume};
use jiff::tz::TimeZone;

pub use fields::{Fields, FieldsError};
pub use json::write_json;
pub use kv::write_kv;
pub use packed::{Packed, Packer};
pub use reason::{Excerpt, Reason, Skip, TimeFault};

/// The most bytes, and the most packets, that one record may have. Sums of such amounts stay far from
/// the end of 64 bits.
pub const AMOUNT_MAX: u64 = 1 << 40;

/// The most records that one message may have: more than fit into the 1,000,000 bytes that clients and brokers
/// accept by default. A message enters a tick as a whole, so that this bounds a tick.
pub const RECORDS_MAX: usize = 1 << 18;

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

/// How messages are read.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where times are at home that state no zone.
    pub input_timezone: TimeZone,
}

impl Default for Options {
    fn default() -> Self {
        Options { input_timezone: TimeZone::UTC }
    }
}

/// Reads messages of any format, each told by its content.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    options: Options,
}

impl Decoder {
    /// A decoder with these options.
    pub fn new(options: Options) -> Self {
        Decoder { options }
    }

    /// Hands over what a message holds, one observation at a time, and says in which format it was: of
    /// several in one message, the first; `None` if all of it is skipped and of no format.
    ///
    /// # Errors
    /// If the message can't be told, or can't be read as a whole, or after [`RECORDS_MAX`] observations that
    /// were handed over. Of several values in it that can't be
    /// told, the last one is the error, if no other was told; all else was handed over.
    pub fn decode(
        &self,
        message: &Message<'_>,
        each: &mut impl FnMut(Read),
    ) -> Result<Option<Format>, Reason> {
        self.decode_to(message, each)
    }

    fn decode_to<T: Take>(
        &self,
        message: &Message<'_>,
        to: &mut T,
    ) -> Result<Option<Format>, Reason> {
        let Some(payload) = message.payload else {
            to.take(Read::Skipped(Skip::Tombstone), None);
            return Ok(None);
        };
        if packed::begins(payload) {
            let mut records = packed::decode(payload)?;
            records.by_ref().take(RECORDS_MAX).for_each(|read| to.take(read, None));
            return match records.is_empty() {
                true => Ok(Some(Format::Packed)),
                false => Err(Reason::TooManyRecords),
            };
        }
        // Nothing but digits: the format of most messages after the packed one.
        if let Some(length) = value::digits(payload) {
            to.take(kv::record(message, length).into(), None);
            return Ok(Some(Format::Kv));
        }
        // tshark writes names as they came over the wire. No record needs what is replaced here.
        let text = String::from_utf8_lossy(payload);
        let context = Context { zone: &self.options.input_timezone, message };
        let mut sink = Sink { to, format: None, held: None, skipped: false, told: 0 };
        context.text(&text, Wrapping::Open, &mut sink);
        sink.finish().map_err(|reason| match text {
            Cow::Borrowed(_) => reason,
            Cow::Owned(_) => Reason::NotUtf8,
        })
    }
}

/// What a value in a message is read with.
#[derive(Clone, Copy)]
struct Context<'a> {
    zone: &'a TimeZone,
    message: &'a Message<'a>,
}

/// Whether a value may be an envelope. Only one is opened, so that none can be nested without end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrapping {
    Open,
    Opened,
}

impl Context<'_> {
    /// Reads a text of any format.
    fn text<T: Take>(&self, text: &str, wrapping: Wrapping, sink: &mut Sink<'_, T>) {
        // Windows editors put a byte order mark first.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_matches(value::BLANKS);
        match text.as_bytes().first() {
            None => sink.untold(Reason::Empty),
            Some(b'{' | b'[') => self.json(text, wrapping, sink),
            // A tombstone as converters write it.
            Some(b'n') if text == "null" => sink.skip(Skip::Tombstone),
            // A text as JSON has it: a converter's way to write what is no JSON.
            Some(b'"') if wrapping == Wrapping::Open => match value::text(text) {
                Some(inner) => self.text(&inner, Wrapping::Opened, sink),
                None => sink.untold(Reason::Json),
            },
            Some(_) => self.lines(text, sink),
        }
    }
}

/// The greatest distance, in milliseconds, that two event times in a message may have, as far as it can be told
/// without decoding the message.
pub fn span_max(payload: &[u8]) -> u64 {
    match payload.len() {
        _ if packed::begins(payload) => packed::span_max(payload),
        // No text of two records is as short as this, and a number alone is no longer.
        ..20 => 0,
        _ => u64::MAX,
    }
}

/// Somebody to whom observations are handed over.
trait Take {
    /// Whether the JSON objects that they were read from are wanted, too.
    const SOURCES: bool;

    fn take(&mut self, read: Read, source: Option<&str>);
}

impl<F: FnMut(Read)> Take for F {
    const SOURCES: bool = false;

    fn take(&mut self, read: Read, _: Option<&str>) {
        self(read);
    }
}

/// Takes what is found in a message. A value whose format can't be told is held back until it is clear
/// whether it stands for the whole message.
struct Sink<'t, T> {
    to: &'t mut T,
    format: Option<Format>,
    held: Option<Reason>,
    /// Something of no format was rightly skipped.
    skipped: bool,
    /// The number of values whose format could be told.
    told: usize,
}

impl<T: Take> Sink<'_, T> {
    fn told(&mut self, format: Format, read: Read, source: Option<&str>) {
        self.told += 1;
        if self.told > RECORDS_MAX {
            return;
        }
        self.release();
        self.format.get_or_insert(format);
        self.to.take(read, source);
    }

    fn untold(&mut self, reason: Reason) {
        self.release();
        self.held = Some(reason);
    }

    /// Skips a value of no format.
    fn skip(&mut self, skip: Skip) {
        self.release();
        self.skipped = true;
        self.to.take(Read::Skipped(skip), None);
    }

    fn release(&mut self) {
        if let Some(reason) = self.held.take() {
            self.to.take(Read::Bad(reason), None);
        }
    }

    fn finish(mut self) -> Result<Option<Format>, Reason> {
        if self.told > RECORDS_MAX {
            return Err(Reason::TooManyRecords);
        }
        if self.format.is_some() {
            self.release();
            return Ok(self.format);
        }
        match self.held {
            Some(reason) => Err(reason),
            None if self.skipped => Ok(None),
            None => Err(Reason::Empty),
        }
    }
}

/// A volume within what a record may have.
fn volume(bytes: u64, packets: u64) -> Result<Volume, Reason> {
    if packets == 0 {
        return Err(Reason::NoPackets);
    }
    if bytes > AMOUNT_MAX || packets > AMOUNT_MAX {
        return Err(Reason::TooLarge);
    }
    Ok(Volume::new(bytes as i64, packets as i64))
}

#[cfg(test)]
mod tests;
