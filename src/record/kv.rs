//! Messages of one packet: the pair as the key (`10.0.0.1 10.0.0.2`), the length as the value (`1500`). The
//! event time is the message's timestamp.

use std::net::{IpAddr, Ipv4Addr};

use floodmark_dataflows::types::Pair;

use super::context::Context;
use super::message;
use super::message::{Message, Observation, Record};
use super::reason::RecordError;
use super::value::{self, BLANKS};

const BAD_KEY: RecordError = RecordError::BadAddress { field: "key" };

/// Returns the record of a message with this length.
pub(super) fn record(message: &Message<'_>, length: u64) -> Result<Record, RecordError> {
    let key = message.key.ok_or(RecordError::MissingField { field: "key" })?;
    let pair = match ipv4_pair(key) {
        Some(pair) => pair,
        None => any_pair(key)?,
    };
    let volume = message::volume(length, 1)?;
    Ok(Record { time_ms: message.timestamp_ms.ok_or(RecordError::NoTime)?, pair, volume })
}

impl Context<'_> {
    /// Reads a record whose length is a text of more than digits.
    pub(super) fn kv(&self, length: &str) -> Observation {
        value::Decimal::parse(length)
            .and_then(value::Decimal::to_integer)
            .ok_or(RecordError::BadNumber { field: "value" })
            .and_then(|length| record(self.message, length?))
            .into()
    }
}

/// Parses a key in its usual form: two IPv4 addresses and one space. Parsing addresses is most of the cost of a record
/// of this format, and the parser of the standard library, for both families, takes three times as long.
fn ipv4_pair(key: &[u8]) -> Option<Pair> {
    let (source, rest) = ipv4_address(key)?;
    let (destination, rest) = ipv4_address(rest.strip_prefix(b" ")?)?;
    rest.is_empty().then_some(Pair::V4(source, destination))
}

/// Parses an IPv4 address in the only form that the standard library accepts; returns the rest of the text, too.
fn ipv4_address(text: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let mut rest = text;
    let mut bits = 0;
    for part in 0..4 {
        if part > 0 {
            rest = rest.strip_prefix(b".")?;
        }
        let digits = rest.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        let (number, after) = rest.split_at(digits);
        let value = number.iter().fold(0, |value, digit| 10 * value + u32::from(digit - b'0'));
        let leading_zero = digits > 1 && number[0] == b'0';
        if digits == 0 || value > 255 || leading_zero {
            return None;
        }
        bits = bits << 8 | value;
        rest = after;
    }
    Some((Ipv4Addr::from_bits(bits), rest))
}

/// Parses a key in any form.
fn any_pair(key: &[u8]) -> Result<Pair, RecordError> {
    let key = str::from_utf8(key).map_err(|_| BAD_KEY)?;
    match key.as_bytes().first() {
        // Converters to JSON write a key as a JSON string or in an envelope.
        Some(b'{' | b'"') => pair(&value::unwrap_envelope(key).ok_or(RecordError::Json)?),
        _ => pair(key),
    }
}

fn pair(key: &str) -> Result<Pair, RecordError> {
    let (source, destination) = key.trim_matches(BLANKS).split_once(BLANKS).ok_or(BAD_KEY)?;
    let destination = destination.trim_start_matches(BLANKS);
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| BAD_KEY);
    Pair::new(address(source)?, address(destination)?).ok_or(RecordError::MixedFamily)
}

/// Appends the pair as a key, the same in both formats of one record per message.
pub(super) fn write_key(pair: &Pair, key: &mut Vec<u8>) {
    append(key, format_args!("{} {}", pair.source(), pair.destination()));
}

pub(super) fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    std::io::Write::write_fmt(out, text).expect("writing to a vector succeeds");
}

/// Appends a record as a message of this format. The format has no fields for the rest of the record: its time
/// must become the message's timestamp, and it is read back as one packet.
pub fn write_kv(record: &Record, key: &mut Vec<u8>, value: &mut Vec<u8>) {
    write_key(&record.pair, key);
    append(value, format_args!("{}", record.volume.bytes));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ipv4_parser_agrees_with_the_standard_library(
            text in "[0-9]{0,4}(\\.[0-9]{0,4}){2,4}",
        ) {
            let whole = ipv4_address(text.as_bytes()).filter(|(_, rest)| rest.is_empty());
            prop_assert_eq!(whole.map(|(address, _)| address), text.parse().ok());
        }

        #[test]
        fn fast_and_general_parsers_of_keys_agree(source: [u8; 4], destination: [u8; 4], more in "[ .0-9]?") {
            let (source, destination) = (Ipv4Addr::from(source), Ipv4Addr::from(destination));
            let key = format!("{source} {destination}");
            prop_assert_eq!(ipv4_pair(key.as_bytes()), Some(Pair::V4(source, destination)));
            prop_assert_eq!(any_pair(key.as_bytes()), Ok(Pair::V4(source, destination)));
            let key = key + &more;
            if let Some(pair) = ipv4_pair(key.as_bytes()) {
                prop_assert_eq!(any_pair(key.as_bytes()), Ok(pair));
            }
        }
    }
}
