//! The pair as the key (`10.0.0.1 10.0.0.2`), the length as the value (`1500`): a packet a message,
//! which happened when the message says.

use std::net::{IpAddr, Ipv4Addr};

use floodmark_dataflows::types::Pair;

use super::value::{self, BLANKS};
use super::{Context, Message, Read, Reason, Record};

/// The record of a message with this length.
pub(super) fn record(message: &Message<'_>, length: u64) -> Result<Record, Reason> {
    let key = message.key.ok_or(Reason::MissingField { field: "key" })?;
    let key = str::from_utf8(key).map_err(|_| Reason::BadAddress { field: "key" })?;
    let pair = match key.as_bytes().first() {
        // What a converter to JSON makes of a key.
        Some(b'{' | b'"') => pair(&value::unwrapped(key).ok_or(Reason::Json)?)?,
        _ => pair(key)?,
    };
    let volume = super::volume(length, 1)?;
    Ok(Record { time_ms: message.timestamp_ms.ok_or(Reason::BadTime)?, pair, volume })
}

impl Context<'_> {
    /// A record whose length is a text that is not digits alone.
    pub(super) fn kv(&self, length: &str) -> Read {
        value::Decimal::parse(length)
            .and_then(value::Decimal::whole)
            .ok_or(Reason::BadNumber { field: "value" })
            .and_then(|length| record(self.message, length?))
            .into()
    }
}

fn pair(key: &str) -> Result<Pair, Reason> {
    const BAD: Reason = Reason::BadAddress { field: "key" };
    let (source, destination) = key.trim_matches(BLANKS).split_once(BLANKS).ok_or(BAD)?;
    let destination = destination.trim_start_matches(BLANKS);
    if let (Ok(source), Ok(destination)) =
        (source.parse::<Ipv4Addr>(), destination.parse::<Ipv4Addr>())
    {
        return Ok(Pair::V4(source, destination));
    }
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| BAD);
    Pair::new(address(source)?, address(destination)?).ok_or(Reason::MixedFamily)
}

/// Writes the pair as a key, as both formats of one record a message have it.
pub(super) fn write_key(pair: &Pair, key: &mut Vec<u8>) {
    append(key, format_args!("{} {}", pair.source(), pair.destination()));
}

pub(super) fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    std::io::Write::write_fmt(out, text).expect("a vector takes all that is written");
}

/// Appends a record as a message of this format. What the format has no room for is lost: its time must
/// become the message's timestamp, and it is read back as one packet.
pub fn write_kv(record: &Record, key: &mut Vec<u8>, value: &mut Vec<u8>) {
    write_key(&record.pair, key);
    append(value, format_args!("{}", record.volume.bytes));
}
