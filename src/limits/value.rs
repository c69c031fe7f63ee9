//! The value of a limit: a decimal of any length, read exactly from its text.
//!
//! A value never passes through a float: `9007199254740993` is not `9007199254740992`. It is stored as its text, of
//! which only the digits and the position of the decimal point are read, so that even a huge exponent costs nothing.
//! Amounts are compared with the one integer that [`Value::threshold`] derives from it.

use std::cmp::Ordering;
use std::fmt::{self, Debug};
use std::hash::{Hash, Hasher};

use floodmark_dataflows::types::Bound;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::text::Text;
use crate::base::quote::Quoted;

/// A decimal number, 0 or more. Equal numbers are equal, however they are written.
#[derive(Clone)]
pub struct Value {
    /// The value as a JSON number, in its original spelling if that is one. All else is derived from the text when
    /// needed, so that a value needs no more memory than its text.
    text: Text,
}

/// The digits of a number, and the position of its decimal point.
struct Number<'a> {
    /// The digits before and after the decimal point, without zeros at either end; both empty for 0.
    digits: [&'a [u8]; 2],
    /// The value is 0.`digits` × 10^`point`. Exponents beyond 64 bits are clamped.
    point: i64,
}

/// The reason why a text is not the value of a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The number is below 0.
    #[error("{} is negative; give 0 or more", Quoted(.text))]
    Negative {
        /// The text given.
        text: String,
    },
    /// The text is the name of an infinity, or NaN.
    #[error("{} is not a finite number; to have no limit, give null", Quoted(.text))]
    NotFinite {
        /// The text given.
        text: String,
    },
    /// The text is no decimal number.
    #[error("{} is not a decimal number; write it like 1000000, 0.5 or 1e9", Quoted(.text))]
    NotANumber {
        /// The text given.
        text: String,
    },
}

impl Value {
    /// Reads a decimal: digits with or without a point, a sign and an exponent.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let Some(parts) = Parts::of(text) else {
            let name = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
            let text = text.to_owned();
            return Err(match name.as_str() {
                "nan" | "inf" | "infinity" => ValueError::NotFinite { text },
                _ => ValueError::NotANumber { text },
            });
        };
        if parts.negative && !parts.number().is_zero() {
            return Err(ValueError::Negative { text: text.to_owned() });
        }
        Ok(Value { text: parts.json(text) })
    }

    /// Returns the value as a JSON number.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the number of characters of the value when it is written without an exponent.
    pub fn plain_width(&self) -> u64 {
        let number = self.number();
        let digits = number.len() as u64;
        match u64::try_from(number.point) {
            // The digits, a point, and a zero before it.
            Err(_) | Ok(0) => digits.saturating_add(number.point.unsigned_abs()).saturating_add(2),
            Ok(point) if point < digits => digits + 1,
            Ok(point) => point,
        }
    }

    /// Returns the integer that decides: an amount above it breaks a `max`, one below it breaks a `min`. Amounts are
    /// integers, so this is the value rounded down for `max` and up for `min`, and at most the largest possible amount.
    pub fn threshold(&self, bound: Bound) -> i64 {
        let number = self.number();
        // 19 digits fit in 64 unsigned bits, and 20 are beyond the largest amount.
        if number.point > 19 {
            return i64::MAX;
        }
        let places = usize::try_from(number.point).unwrap_or(0);
        let padded = number.digits().chain(std::iter::repeat(b'0'));
        let whole = padded.take(places).fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        let up = bound == Bound::Min && number.len() > places;
        i64::try_from(whole + u64::from(up)).unwrap_or(i64::MAX)
    }

    /// Returns the threshold as [`Value::threshold`] does, but without its upper bound. `None` if the value is
    /// 10^38 or more: below that, its difference from any amount is exact.
    pub fn whole(&self, bound: Bound) -> Option<i128> {
        let number = self.number();
        if number.point > 38 {
            return None;
        }
        let places = usize::try_from(number.point).unwrap_or(0);
        let padded = number.digits().chain(std::iter::repeat(b'0'));
        let whole = padded.take(places).fold(0, |sum, digit| sum * 10 + i128::from(digit - b'0'));
        Some(whole + i128::from(bound == Bound::Min && number.len() > places))
    }

    fn number(&self) -> Number<'_> {
        Parts::of(&self.text).expect("the text was parsed before").number()
    }
}

impl<'a> Number<'a> {
    fn digits(&self) -> impl Iterator<Item = u8> + use<'a> {
        let [whole, fraction] = self.digits;
        whole.iter().chain(fraction).copied()
    }

    /// Returns the number of digits.
    fn len(&self) -> usize {
        self.digits.iter().map(|digits| digits.len()).sum()
    }

    fn is_zero(&self) -> bool {
        self.len() == 0
    }
}

impl Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({})", self.text)
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text || self.cmp(other).is_eq()
    }
}

impl Eq for Value {}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        let (one, other) = (self.number(), other.number());
        // 0 is less than all others.
        let size = |number: &Number<'_>| (!number.is_zero(), number.point);
        size(&one).cmp(&size(&other)).then_with(|| one.digits().cmp(other.digits()))
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let number = self.number();
        number.point.hash(state);
        number.digits().for_each(|digit| digit.hash(state));
    }
}

impl Serialize for Value {
    /// Serializes a JSON number with the digits of [`Value::text`]; only serde_json can write it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.text.to_string())
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

/// The parts of a decimal's text.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    /// The exponent with its sign; empty if there is none.
    exponent: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => {
                let magnitude = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
                if magnitude.is_empty() || !all_digits(magnitude) {
                    return None;
                }
                (mantissa, exponent)
            }
            None => (unsigned, ""),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = all_digits(whole) && all_digits(fraction);
        let any = !(whole.is_empty() && fraction.is_empty());
        let negative = text.starts_with('-');
        (digits && any).then_some(Parts { negative, whole, fraction, exponent })
    }

    fn number(&self) -> Number<'a> {
        let [mut whole, mut fraction] = [self.whole, self.fraction].map(str::as_bytes);
        let (mut point, mut zeros) = (whole.len() as i64, 0);
        while let Some((b'0', rest)) = whole.split_first() {
            (whole, zeros) = (rest, zeros + 1);
        }
        while let Some((b'0', rest)) = fraction.split_first().filter(|_| whole.is_empty()) {
            (fraction, zeros) = (rest, zeros + 1);
        }
        while let Some((b'0', rest)) = fraction.split_last() {
            fraction = rest;
        }
        while let Some((b'0', rest)) = whole.split_last().filter(|_| fraction.is_empty()) {
            whole = rest;
        }
        point = match whole.is_empty() && fraction.is_empty() {
            true => 0,
            false => (point - zeros).saturating_add(exponent(self.exponent)),
        };
        Number { digits: [whole, fraction], point }
    }

    /// Whether the text is a JSON number.
    fn is_json(&self, text: &str) -> bool {
        let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
        let whole = self.whole == "0" || !self.whole.starts_with('0') && !self.whole.is_empty();
        whole && !text.starts_with('+') && !mantissa.ends_with('.')
    }

    /// Returns the text itself if it is a JSON number, else the same digits as a JSON number.
    fn json(&self, text: &str) -> Text {
        // A zero may have a minus sign, which would look like a negative limit.
        if !self.negative && self.is_json(text) {
            return text.into();
        }
        let whole = match self.whole.trim_start_matches('0') {
            "" => "0",
            whole => whole,
        };
        let (dot, e) = (mark(".", self.fraction), mark("e", self.exponent));
        [whole, dot, self.fraction, e, self.exponent].concat().as_str().into()
    }
}

fn mark<'a>(mark: &'a str, before: &str) -> &'a str {
    if before.is_empty() { "" } else { mark }
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns a checked exponent, saturating; 0 for an empty text.
fn exponent(text: &str) -> i64 {
    let magnitude = text.trim_start_matches(['+', '-']).trim_start_matches('0');
    let magnitude = match magnitude {
        "" => 0,
        digits => digits.parse().unwrap_or(i64::MAX),
    };
    if text.starts_with('-') { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str) -> Value {
        Value::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn threshold_is_rounded_down_for_max_and_up_for_min() {
        const TOP: i64 = i64::MAX;
        for (text, max, min) in [
            ("0", 0, 0),
            ("0.000", 0, 0),
            ("-0", 0, 0),
            ("0e999999999999999999999", 0, 0),
            ("0.5", 0, 1),
            ("1e-999999999", 0, 1),
            ("1e-99999999999999999999999", 0, 1),
            ("1", 1, 1),
            ("+5", 5, 5),
            (".5", 0, 1),
            ("5.", 5, 5),
            ("007", 7, 7),
            ("1E3", 1000, 1000),
            ("1000000.5", 1_000_000, 1_000_001),
            ("12345e-2", 123, 124),
            ("1.50e1", 15, 15),
            ("9007199254740993", 9_007_199_254_740_993, 9_007_199_254_740_993),
            ("9223372036854775806.1", TOP - 1, TOP),
            ("9223372036854775807", TOP, TOP),
            ("9223372036854775808", TOP, TOP),
            ("9999999999999999999.9", TOP, TOP),
            ("99999999999999999999", TOP, TOP),
            ("1e30", TOP, TOP),
            ("1e999999999", TOP, TOP),
            ("1e99999999999999999999999", TOP, TOP),
        ] {
            let value = value(text);
            assert_eq!(value.threshold(Bound::Max), max, "max of {text}");
            assert_eq!(value.threshold(Bound::Min), min, "min of {text}");
        }
    }

    #[test]
    fn text_is_kept_if_json_and_else_converted() {
        for (given, text) in [
            ("1e30", "1e30"),
            ("1E3", "1E3"),
            ("1.50", "1.50"),
            ("0.000", "0.000"),
            ("-0.0", "0.0"),
            ("+5", "5"),
            (".5", "0.5"),
            ("5.", "5"),
            ("007.10e+2", "7.10e+2"),
        ] {
            assert_eq!(value(given).text(), text);
            assert_eq!(serde_json::to_string(&value(given)).unwrap(), text);
        }
    }

    #[test]
    fn numbers_in_other_spellings_are_equal_and_ordered() {
        for (one, other) in
            [("5", "5.0"), ("1000", "1E3"), ("0", "0.000"), ("0.05", "5e-2"), ("0e7", "-0")]
        {
            assert_eq!(value(one), value(other));
        }
        let ordered = ["0", "1e-9", "0.05", "0.5", "5", "5.0001", "50", "123", "1e30"];
        assert!(ordered.is_sorted_by(|one, other| value(one) < value(other)));
    }

    #[test]
    fn plain_width_counts_the_characters_without_an_exponent() {
        for (text, plain) in [
            ("1500", "1500"),
            ("1e30", "1000000000000000000000000000000"),
            ("10.5", "10.5"),
            ("0.5", "0.5"),
            ("5e-3", "0.005"),
        ] {
            assert_eq!(value(text).plain_width(), plain.len() as u64, "{text}");
        }
        assert!(value("1e-99999999999999999999").plain_width() > 1 << 60);
        assert!(value("0").plain_width() < 3);
    }

    #[test]
    fn texts_that_are_no_finite_decimal_from_0_up_are_rejected() {
        let negative = |text: &str| ValueError::Negative { text: text.into() };
        for text in ["-5", "-0.001", "-1e-999999999"] {
            assert_eq!(Value::parse(text), Err(negative(text)));
        }
        for text in ["NaN", "nan", "Infinity", "-Infinity", "inf", "+inf"] {
            assert_eq!(Value::parse(text), Err(ValueError::NotFinite { text: text.into() }));
        }
        for text in [
            "", " ", ".", "-", "+", "e5", "1e", "1e+", "1e5.0", "1.2.3", "--5", "+-5", "1 000",
            "1_000", "1,5", " 5", "5 ", "1GB", "0x10", "٣", "1e٣", "null",
        ] {
            assert_eq!(Value::parse(text), Err(ValueError::NotANumber { text: text.into() }));
        }
    }

    /// Computes both thresholds by writing all digits out.
    fn thresholds_by_digits(whole: &str, fraction: &str, exponent: i32) -> (i64, i64) {
        let (mut whole, mut fraction) = (whole.to_owned(), fraction.to_owned());
        for _ in 0..exponent.max(0) {
            whole.push(if fraction.is_empty() { '0' } else { fraction.remove(0) });
        }
        for _ in 0..(-exponent).max(0) {
            fraction.insert(0, whole.pop().unwrap_or('0'));
        }
        let floor = whole.bytes().fold(0u128, |sum, digit| {
            sum.saturating_mul(10).saturating_add(u128::from(digit - b'0'))
        });
        let part = fraction.bytes().any(|digit| digit != b'0');
        let clamp = |amount: u128| i64::try_from(amount).unwrap_or(i64::MAX);
        (clamp(floor), clamp(floor.saturating_add(u128::from(part))))
    }

    proptest! {
        #[test]
        fn thresholds_agree_with_all_digits_written_out(
            whole in "[0-9]{1,25}", fraction in "[0-9]{0,25}", exponent in -60i32..60,
        ) {
            let value = value(&format!("{whole}.{fraction}e{exponent}"));
            let thresholds = (value.threshold(Bound::Max), value.threshold(Bound::Min));
            prop_assert_eq!(thresholds, thresholds_by_digits(&whole, &fraction, exponent));
            let again = Value::parse(value.text()).unwrap();
            prop_assert_eq!(again.text(), value.text());
            prop_assert_eq!(again, value);
        }

        #[test]
        fn text_is_unchanged_exactly_if_it_is_a_json_number(text in "[-+]?[0-9]{0,3}[.]?[0-9]{0,3}(e[-+]?[0-9]{1,2})?") {
            if let Ok(value) = Value::parse(&text) {
                let is_json = RawValue::from_string(text.clone()).is_ok();
                prop_assert_eq!(value.text() == text, is_json && !text.starts_with('-'));
            }
        }

        #[test]
        fn any_text_is_read_or_rejected(text in "[-+0-9.eEna ]{0,12}|\\PC*") {
            if let Ok(value) = Value::parse(&text) {
                prop_assert!(serde_json::from_str::<serde_json::Number>(value.text()).is_ok());
                prop_assert!(value.threshold(Bound::Max) <= value.threshold(Bound::Min));
            }
        }
    }
}
