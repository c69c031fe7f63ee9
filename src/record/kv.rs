//! Messages of one packet: the pair as the key (`10.0.0.1 10.0.0.2`), the length as the value (`1500`). The
//! event time is the message's timestamp.

use std::net::{IpAddr, Ipv4Addr};

use floodmark_dataflows::types::Pair;

use super::context::Context;
use super::message;
use super::message::{Message, Read, Record};
use super::reason::Reason;
use super::value::{self, BLANKS};

const BAD: Reason = Reason::BadAddress { field: "key" };

/// The record of a message with this length.
pub(super) fn record(message: &Message<'_>, length: u64) -> Result<Record, Reason> {
    let key = message.key.ok_or(Reason::MissingField { field: "key" })?;
    let pair = match quads(key) {
        Some(pair) => pair,
        None => any_pair(key)?,
    };
    let volume = message::volume(length, 1)?;
    Ok(Record { time_ms: message.timestamp_ms.ok_or(Reason::NoTime)?, pair, volume })
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

/// The pair of a key as it is mostly written: two IPv4 addresses and one space. To parse addresses is most
/// of what a record of this format costs, and the standard library's parser, which knows both families,
/// takes three times as long.
fn quads(key: &[u8]) -> Option<Pair> {
    let (source, rest) = quad(key)?;
    let (destination, rest) = quad(rest.strip_prefix(b" ")?)?;
    rest.is_empty().then_some(Pair::V4(source, destination))
}

/// An IPv4 address, in the one form that the standard library takes, and what follows it.
fn quad(text: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let mut rest = text;
    let mut bits = 0;
    for part in 0..4 {
        if part > 0 {
            rest = rest.strip_prefix(b".")?;
        }
        let digits = rest.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        let (number, after) = rest.split_at(digits);
        let value = number.iter().fold(0, |value, digit| 10 * value + u32::from(digit - b'0'));
        let leads = digits > 1 && number[0] == b'0';
        if digits == 0 || value > 255 || leads {
            return None;
        }
        bits = bits << 8 | value;
        rest = after;
    }
    Some((Ipv4Addr::from_bits(bits), rest))
}

/// The pair of any key.
fn any_pair(key: &[u8]) -> Result<Pair, Reason> {
    let key = str::from_utf8(key).map_err(|_| BAD)?;
    match key.as_bytes().first() {
        // A converter to JSON writes a key as a JSON text, or puts it into an envelope.
        Some(b'{' | b'"') => pair(&value::unwrapped(key).ok_or(Reason::Json)?),
        _ => pair(key),
    }
}

fn pair(key: &str) -> Result<Pair, Reason> {
    let (source, destination) = key.trim_matches(BLANKS).split_once(BLANKS).ok_or(BAD)?;
    let destination = destination.trim_start_matches(BLANKS);
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
        fn an_ipv4_address_is_what_the_standard_library_takes_for_one(
            text in "[0-9]{0,4}(\\.[0-9]{0,4}){2,4}",
        ) {
            let whole = quad(text.as_bytes()).filter(|(_, rest)| rest.is_empty());
            prop_assert_eq!(whole.map(|(address, _)| address), text.parse().ok());
        }

        #[test]
        fn both_ways_to_read_a_key_agree(source: [u8; 4], destination: [u8; 4], more in "[ .0-9]?") {
            let (source, destination) = (Ipv4Addr::from(source), Ipv4Addr::from(destination));
            let key = format!("{source} {destination}");
            prop_assert_eq!(quads(key.as_bytes()), Some(Pair::V4(source, destination)));
            prop_assert_eq!(any_pair(key.as_bytes()), Ok(Pair::V4(source, destination)));
            let key = key + &more;
            if let Some(pair) = quads(key.as_bytes()) {
                prop_assert_eq!(any_pair(key.as_bytes()), Ok(pair));
            }
        }
    }
}
