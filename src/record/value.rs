//! Parses numbers and addresses in texts.
//!
//! A JSON value is kept as its text (`raw`), so that numbers keep all digits. A number may be in quotes, as some tools
//! write it.

use std::borrow::Cow;
use std::net::IpAddr;

use floodmark_dataflows::types::Pair;
use serde_json::value::RawValue;

use super::members::for_each_member;
use super::reason::{Excerpt, RecordError, TimeFault};

/// The characters that JSON allows between values.
pub(super) const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

impl RecordError {
    /// Returns the error for a time in a field with this JSON value.
    #[cold]
    pub(super) fn bad_time(field: &'static str, raw: &str, fault: TimeFault) -> Self {
        let content = scalar(raw).unwrap_or(raw.into());
        RecordError::BadTime { field, value: Excerpt::new(&content), fault }
    }
}

/// Returns the content of a JSON string; `None` if it is not valid, or has an unpaired surrogate.
pub(super) fn unquote(raw: &str) -> Option<Cow<'_, str>> {
    match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        // Nothing to unescape, and no character that is not allowed within quotes.
        Some(inner) if !inner.bytes().any(|byte| matches!(byte, b'\\' | b'"' | 0..=0x1f)) => {
            Some(inner.into())
        }
        _ => serde_json::from_str::<String>(raw).ok().map(Cow::Owned),
    }
}

/// Returns the content of a single value, a string without its quotes. `None` for null, the empty string and the
/// placeholders that tools write for an absent value, and for a string that is not valid.
pub(super) fn scalar(raw: &str) -> Option<Cow<'_, str>> {
    let content = match raw.as_bytes().first()? {
        b'"' => unquote(raw)?,
        b'n' => return None,
        _ => raw.into(),
    };
    (!is_placeholder(&content)).then_some(content)
}

/// Whether tools write this text for an absent value.
pub(super) fn is_placeholder(content: &str) -> bool {
    const WORDS: [&str; 11] =
        ["-", "--", "n/a", "na", "nan", "nat", "nil", "<nil>", "none", "<none>", "null"];
    match content.as_bytes() {
        [] => true,
        // Most values are numbers, and no placeholder is one.
        [b'0'..=b'9', ..] | [b'-', b'0'..=b'9', ..] => false,
        _ => WORDS.iter().any(|word| word.eq_ignore_ascii_case(content)),
    }
}

/// Returns the value within a union of Avro, as Avro writes it in JSON (`{"long": 2}`); any other value unchanged.
pub(super) fn unwrap_union(raw: &str) -> &str {
    // Unions are nested only by mistake; the bound limits the time for that.
    const DEPTH_MAX: usize = 4;
    let mut value = raw;
    for _ in 0..DEPTH_MAX {
        if !value.starts_with('{') {
            return value;
        }
        let (mut inner, mut members) = (None, 0);
        let read = for_each_member(value, |name, member| {
            members += 1;
            inner = is_avro_type(name).then_some(member);
            Ok(())
        });
        match inner {
            Some(member) if members == 1 && read.is_ok() => value = member,
            _ => return value,
        }
    }
    value
}

/// Whether a name is that of an Avro type with one value; a logical type may follow (`long.timestamp-millis`).
fn is_avro_type(name: &str) -> bool {
    const TYPES: [&str; 9] =
        ["null", "boolean", "int", "long", "float", "double", "bytes", "string", "fixed"];
    TYPES.contains(&name.split('.').next().unwrap_or_default())
}

/// Returns the text that a converter wrote as a JSON string, with or without an envelope.
pub(super) fn unwrap_envelope(json: &str) -> Option<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        payload: &'a RawValue,
    }
    match serde_json::from_str::<Envelope<'_>>(json) {
        Ok(envelope) => unquote(envelope.payload.get()),
        Err(_) => unquote(json.trim_matches(BLANKS)),
    }
}

/// Parses the address of a field.
pub(super) fn address(raw: &str, field: &'static str) -> Result<IpAddr, RecordError> {
    let address = unquote(raw).and_then(|text| text.parse().ok());
    address.ok_or(RecordError::BadAddress { field })
}

/// Returns the pair of two addresses. With `mapped_ipv4`, IPv4-mapped addresses become IPv4 addresses.
pub(super) fn pair(
    source: IpAddr,
    destination: IpAddr,
    mapped_ipv4: bool,
) -> Result<Pair, RecordError> {
    let family = |address: IpAddr| match address {
        IpAddr::V6(v6) if mapped_ipv4 => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        _ => address,
    };
    Pair::new(family(source), family(destination)).ok_or(RecordError::MixedFamily)
}

/// Parses the whole number of a field.
pub(super) fn number(raw: &str, field: &'static str) -> Result<u64, RecordError> {
    const BAD: fn(&'static str) -> RecordError = |field| RecordError::BadNumber { field };
    if let Some(number) = parse_digits(raw.as_bytes()) {
        return Ok(number);
    }
    let content = scalar(raw).ok_or(BAD(field))?;
    Decimal::parse(&content).and_then(Decimal::to_integer).ok_or(BAD(field))?
}

/// Parses the whole number of a field; `None` if the value is a placeholder for an absent one.
pub(super) fn amount(raw: &str, field: &'static str) -> Result<Option<u64>, RecordError> {
    match parse_digits(raw.as_bytes()) {
        Some(number) => Ok(Some(number)),
        None if is_absent(raw) => Ok(None),
        None => number(raw, field).map(Some),
    }
}

/// Parses a text that is the whole number of a field; `None` if it is a placeholder for an absent one.
pub(super) fn amount_of(text: &str, field: &'static str) -> Result<Option<u64>, RecordError> {
    match parse_digits(text.as_bytes()) {
        Some(number) => Ok(Some(number)),
        None if is_placeholder(text) => Ok(None),
        None => {
            let number = Decimal::parse(text).and_then(Decimal::to_integer);
            number.ok_or(RecordError::BadNumber { field })?.map(Some)
        }
    }
}

/// Whether a value is null or a placeholder for an absent value.
fn is_absent(raw: &str) -> bool {
    match raw.as_bytes() {
        [b'n', ..] => true,
        [b'"', ..] => unquote(raw).is_some_and(|content| is_placeholder(&content)),
        _ => false,
    }
}

/// Parses a text of 1 to 19 digits, which surely fits into 64 bits; `None` for anything else.
pub(super) fn parse_digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter()
        .try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

/// The unit in which a number counts time since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

impl Unit {
    const ALL: [Unit; 4] =
        [Unit::Seconds, Unit::Milliseconds, Unit::Microseconds, Unit::Nanoseconds];

    /// Returns the unit with this symbol.
    pub(super) fn parse(symbol: &str) -> Option<Self> {
        Unit::ALL.into_iter().find(|unit| unit.symbol() == symbol)
    }

    pub(super) fn symbol(self) -> &'static str {
        match self {
            Unit::Seconds => "s",
            Unit::Milliseconds => "ms",
            Unit::Microseconds => "us",
            Unit::Nanoseconds => "ns",
        }
    }

    /// Returns the only unit in which a number is a time of the years 1973 to 5138.
    pub(super) fn of_size(number: i128) -> Self {
        // 10^11 seconds after 1970 are the year 5138, and 10^11 milliseconds 1973.
        match number.unsigned_abs().checked_ilog10() {
            None | Some(..11) => Unit::Seconds,
            Some(11..14) => Unit::Milliseconds,
            Some(14..17) => Unit::Microseconds,
            Some(17..) => Unit::Nanoseconds,
        }
    }

    /// Returns the power of ten of nanoseconds.
    pub(super) fn exponent(self) -> i32 {
        match self {
            Unit::Seconds => 9,
            Unit::Milliseconds => 6,
            Unit::Microseconds => 3,
            Unit::Nanoseconds => 0,
        }
    }

    pub(super) fn nanos(self) -> i128 {
        10i128.pow(self.exponent().unsigned_abs())
    }
}

/// A decimal number exactly as it is written: `mantissa * 10^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    mantissa: u128,
    exponent: i32,
}

/// Number of digits that surely fit into the mantissa.
const DIGITS_MAX: usize = 38;

impl Decimal {
    /// Parses a number as in JSON, also with leading zeros or a plus sign. Digits behind the point that exceed the
    /// mantissa are dropped.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            None => (text, 0),
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
        };
        let negative = mantissa.starts_with('-');
        let mantissa = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        if whole.len() > DIGITS_MAX {
            // Any value that is too large for every use.
            return Some(Decimal { negative, mantissa: 1, exponent: EXPONENT_MAX });
        }
        let fraction = fraction.trim_end_matches('0');
        let fraction = &fraction[..fraction.len().min(DIGITS_MAX - whole.len())];
        let mantissa = whole
            .bytes()
            .chain(fraction.bytes())
            .fold(0, |sum, digit| sum * 10 + u128::from(digit - b'0'));
        Some(Decimal { negative, mantissa, exponent: exponent - fraction.len() as i32 })
    }

    /// Returns the number if it is whole and not negative; an error beyond 64 bits.
    pub(super) fn to_integer(self) -> Option<Result<u64, RecordError>> {
        let Decimal { negative, mut mantissa, mut exponent } = self;
        if mantissa == 0 {
            return Some(Ok(0));
        }
        if negative {
            return None;
        }
        // Both loops end within the digits of the mantissa.
        while exponent < 0 {
            if mantissa % 10 != 0 {
                return None;
            }
            mantissa /= 10;
            exponent += 1;
        }
        while exponent > 0 && mantissa <= u128::from(u64::MAX) {
            mantissa *= 10;
            exponent -= 1;
        }
        Some(u64::try_from(mantissa).map_err(|_| RecordError::TooLarge))
    }

    /// Converts a number in a unit to nanoseconds, rounded down; `None` beyond 128 bits.
    pub(super) fn nanos(self, unit: Unit) -> Option<i128> {
        let mut nanos = i128::try_from(self.mantissa).ok()?;
        let mut exponent = self.exponent + unit.exponent();
        while exponent > 0 && nanos != 0 {
            nanos = nanos.checked_mul(10)?;
            exponent -= 1;
        }
        let divisor = 10i128.checked_pow(exponent.min(0).unsigned_abs());
        let sign = if self.negative { -1 } else { 1 };
        Some(divisor.map_or(0, |divisor| (sign * nanos).div_euclid(divisor)))
    }
}

/// Larger exponents are clamped: beyond that of every number in use, and far from overflow of 32 bits.
const EXPONENT_MAX: i32 = 1_000_000;

/// Parses the exponent of a number, which may have any number of digits.
fn parse_exponent(text: &str) -> Option<i32> {
    let negative = text.starts_with('-');
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let power = digits.parse().unwrap_or(EXPONENT_MAX).min(EXPONENT_MAX);
    Some(if negative { -power } else { power })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Option<Result<u64, RecordError>> {
        Decimal::parse(text).and_then(Decimal::to_integer)
    }

    #[test]
    fn whole_number_in_any_notation_is_parsed_exactly() {
        for (text, number) in [
            ("0", 0),
            ("-0", 0),
            ("0e999999999999999999999", 0),
            ("0.000", 0),
            ("1500", 1500),
            ("+1500", 1500),
            ("001500", 1500),
            ("1500.0", 1500),
            ("1.5e3", 1500),
            ("1.5E+3", 1500),
            ("150000e-2", 1500),
            ("18446744073709551615", u64::MAX),
            ("0000000000000000000000000000000000000000000000001", 1),
        ] {
            assert_eq!(whole(text), Some(Ok(number)), "{text}");
        }
        for text in ["18446744073709551616", "1e20", "1e999999999999999999999", &"9".repeat(5000)] {
            assert_eq!(whole(text), Some(Err(RecordError::TooLarge)), "{text}");
        }
        for text in [
            "",
            "-",
            "+",
            ".",
            "1.",
            ".5",
            "-1",
            "-1e30",
            "1.5",
            "1e-1",
            "1e-99999999999",
            "0x10",
            "1 ",
            " 1",
            "1_000",
            "1,5",
            "e3",
            "1e",
            "1e+",
            "1e1.0",
            "NaN",
            "inf",
            "١",
        ] {
            assert_eq!(whole(text), None, "{text}");
        }
    }

    #[test]
    fn avro_union_is_unwrapped_to_its_value() {
        for (raw, value) in [
            ("2", "2"),
            ("null", "null"),
            ("{\"long\":2}", "2"),
            ("{ \"long\" : 2 }", "2"),
            ("{\"string\":\"a\"}", "\"a\""),
            ("{\"null\":null}", "null"),
            ("{\"double\":1.5e3}", "1.5e3"),
            ("{\"long.timestamp-millis\":7}", "7"),
            ("{\"long\":{\"long\":2}}", "2"),
            ("{\"string\":{\"long\":2,\"int\":3}}", "{\"long\":2,\"int\":3}"),
            // Values that are no union.
            ("{}", "{}"),
            ("{\"bytes_in\":2}", "{\"bytes_in\":2}"),
            ("{\"long\":2,\"int\":2}", "{\"long\":2,\"int\":2}"),
            ("{\"value\":2}", "{\"value\":2}"),
            ("[{\"long\":2}]", "[{\"long\":2}]"),
        ] {
            assert_eq!(unwrap_union(raw), value, "{raw}");
        }
        let deep = format!("{}2{}", "{\"long\":".repeat(50_000), "}".repeat(50_000));
        assert!(unwrap_union(&deep).len() > 100_000);
    }

    #[test]
    fn envelope_of_a_key_is_unwrapped_to_its_text() {
        assert_eq!(unwrap_envelope("\"a b\"").as_deref(), Some("a b"));
        assert_eq!(
            unwrap_envelope("{\"schema\":{},\"payload\":\"a\\u0020b\"}").as_deref(),
            Some("a b")
        );
        assert_eq!(unwrap_envelope("{\"payload\":7}"), None);
        assert_eq!(unwrap_envelope("{\"other\":7}"), None);
        assert_eq!(unwrap_envelope("\"a\" \"b\""), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_rejected_as_a_number(text in "[-+0-9.eE]{0,60}|\\PC*") {
            let _ = whole(&text);
            let _ = unwrap_union(&text);
            let _ = scalar(&text);
        }

        #[test]
        fn whole_number_with_trailing_zeros_and_exponent_is_parsed(number: u64, shift in 0u32..10) {
            prop_assert_eq!(whole(&number.to_string()), Some(Ok(number)));
            let zeros = "0".repeat(shift as usize);
            prop_assert_eq!(whole(&format!("{number}{zeros}e-{shift}")), Some(Ok(number)));
        }
    }
}
