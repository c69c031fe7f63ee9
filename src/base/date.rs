//! Points in time, read as people write them, and written in RFC 3339.
//!
//! Read: RFC 3339 with an offset, also as psql, `date` and Python print it (`+02`, `+0200`, a blank before
//! it), a date-time without one (UTC), a date (midnight UTC). Written: RFC 3339 in UTC while it has a year
//! of four digits, seconds since 1970 as an integer past that, since times of captures can lie there.

use std::fmt::{self, Display};

use jiff::SignedDuration;
use jiff::civil::{DateTime, date};
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

use super::quote::Quoted;

const SECOND: i128 = 1_000_000_000;
const DAY_SECS: i64 = 24 * 3600;
const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);

/// The reason why a text is not a moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DateError {
    /// The text is an infinite time.
    #[error(
        "{} is no point in time; give a date: 0001-01-01 is before all traffic, 9999-12-31 is \
         after it",
        Quoted(.text)
    )]
    Infinite {
        /// The text given.
        text: String,
    },
    /// The year is before 0 or after 9999.
    #[error(
        "{} is not in the years 0000 to 9999; give 0001-01-01 for \"always\", 9999-12-31 for \
         \"never\"",
        Quoted(.text)
    )]
    Year {
        /// The text given.
        text: String,
    },
    /// The text looks like a date, but no calendar or clock has it.
    #[error("{} does not exist in the calendar or on the clock; correct it", Quoted(.text))]
    NoSuchTime {
        /// The text given.
        text: String,
    },
    /// The text does not look like a date.
    #[error(
        "{} is not a date; write 2024-05-01, 2024-05-01T12:00:00 (UTC) or \
         2024-05-01T12:00:00+02:00",
        Quoted(.text)
    )]
    NotADate {
        /// The text given.
        text: String,
    },
}

/// Reads a moment, in nanoseconds since 1970-01-01 UTC. Digits beyond nanoseconds are dropped.
pub fn parse(text: &str) -> Result<i128, DateError> {
    let Some(fields) = Fields::of(text) else {
        return Err(error_of(text));
    };
    fields.instant().ok_or_else(|| DateError::NoSuchTime { text: text.to_owned() })
}

/// Returns the error of a text that does not have the shape of a moment.
fn error_of(given: &str) -> DateError {
    let text = given.to_owned();
    let name = given.trim_start_matches(['+', '-']).to_ascii_lowercase();
    if matches!(name.as_str(), "infinity" | "inf") {
        return DateError::Infinite { text };
    }
    // PostgreSQL prints years before 1 with this suffix, and years after 9999 with all their digits.
    let before_christ = given.strip_suffix(" BC").is_some_and(|rest| Fields::of(rest).is_some());
    let digits = given.bytes().take_while(u8::is_ascii_digit).count();
    let last_four = given.get(digits.saturating_sub(4)..).filter(|_| digits > 4);
    if before_christ || last_four.is_some_and(|rest| Fields::of(rest).is_some()) {
        return DateError::Year { text };
    }
    DateError::NotADate { text }
}

/// The fields of a text of the right shape, not yet checked against the calendar.
#[derive(Default)]
struct Fields {
    year: i16,
    month: i8,
    day: i8,
    hour: i8,
    minute: i8,
    second: i8,
    nanos: i128,
    offset_secs: i64,
}

impl Fields {
    fn of(text: &str) -> Option<Self> {
        let mut rest = Rest(text.as_bytes());
        let mut fields = Fields { year: rest.number(4)?, ..Fields::default() };
        rest.one_of(b"-")?;
        fields.month = rest.number(2)?;
        rest.one_of(b"-")?;
        fields.day = rest.number(2)?;
        if rest.0.is_empty() {
            return Some(fields);
        }
        rest.one_of(b"Tt ")?;
        fields.hour = rest.number(2)?;
        rest.one_of(b":")?;
        fields.minute = rest.number(2)?;
        rest.one_of(b":")?;
        fields.second = rest.number(2)?;
        if rest.one_of(b".").is_some() {
            fields.nanos = rest.fraction()?;
        }
        if !rest.0.is_empty() {
            // `date`, git and Ruby put a blank before the offset.
            if rest.one_of(b" ").is_some() && rest.0.first().is_some_and(u8::is_ascii_alphabetic) {
                return None;
            }
            fields.offset_secs = rest.offset()?;
        }
        rest.0.is_empty().then_some(fields)
    }

    fn instant(&self) -> Option<i128> {
        let leap = self.second == 60;
        let second = if leap { 59 } else { self.second };
        let local =
            DateTime::new(self.year, self.month, self.day, self.hour, self.minute, second, 0);
        let secs = local.ok()?.duration_since(EPOCH).as_secs() - self.offset_secs + i64::from(leap);
        // A leap second comes at midnight UTC only, and Unix time gives it the number of the next.
        if leap && secs % DAY_SECS != 0 {
            return None;
        }
        Some(i128::from(secs) * SECOND + self.nanos)
    }
}

/// The unread part of a text.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn one_of(&mut self, bytes: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        bytes.contains(first).then(|| {
            self.0 = rest;
            *first
        })
    }

    /// Reads a number of exactly `width` digits.
    fn number<T: std::str::FromStr>(&mut self, width: usize) -> Option<T> {
        let (digits, rest) = self.0.split_at_checked(width)?;
        self.0 = rest;
        let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
        str::from_utf8(digits).ok()?.parse().ok()
    }

    /// Reads one digit or more behind the point, in nanoseconds.
    fn fraction(&mut self) -> Option<i128> {
        let width = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(width);
        self.0 = rest;
        let padded = digits.iter().chain(std::iter::repeat(&b'0')).take(9);
        let nanos = padded.fold(0, |sum, digit| sum * 10 + i128::from(digit - b'0'));
        (width > 0).then_some(nanos)
    }

    /// Reads `Z`, `±HH`, `±HHMM`, `±HH:MM` or `±HH:MM:SS`, in seconds. psql prints the last one for local times
    /// of the 19th century.
    fn offset(&mut self) -> Option<i64> {
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(0),
        };
        let hours: i64 = self.number(2)?;
        let (mut minutes, mut seconds): (i64, i64) = (0, 0);
        if self.one_of(b":").is_some() {
            minutes = self.number(2)?;
            if self.one_of(b":").is_some() {
                seconds = self.number(2)?;
            }
        } else if !self.0.is_empty() {
            minutes = self.number(2)?;
        }
        let is_offset = hours < 24 && minutes < 60 && seconds < 60;
        is_offset.then_some(sign * (hours * 3600 + minutes * 60 + seconds))
    }
}

/// A moment as floodmark writes it: RFC 3339 UTC in whole seconds, with a fraction if there is one;
/// past the year 9999 (or before 0) an integer of seconds since 1970. In JSON the former is a string and
/// the latter a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    nanos: i128,
}

/// Writes a moment in nanoseconds since 1970.
pub fn format_ns(nanos: i128) -> Stamp {
    Stamp { nanos }
}

/// Writes a moment in milliseconds since 1970.
pub fn format_ms(millis: u64) -> Stamp {
    Stamp { nanos: i128::from(millis) * 1_000_000 }
}

/// Writes a moment in seconds since 1970.
pub fn format_secs(secs: u64) -> Stamp {
    Stamp { nanos: i128::from(secs) * SECOND }
}

impl Stamp {
    fn secs(self) -> i128 {
        self.nanos.div_euclid(SECOND)
    }

    /// The whole second in UTC, if its year has four digits.
    fn utc(self) -> Option<DateTime> {
        let secs = i64::try_from(self.secs()).ok()?;
        let utc = EPOCH.checked_add(SignedDuration::from_secs(secs)).ok()?;
        (utc.year() >= 0).then_some(utc)
    }
}

impl Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(utc) = self.utc() else {
            return write!(f, "{}", self.secs());
        };
        let (year, month, day) = (utc.year(), utc.month(), utc.day());
        write!(f, "{year:04}-{month:02}-{day:02}T")?;
        write!(f, "{:02}:{:02}:{:02}", utc.hour(), utc.minute(), utc.second())?;
        match self.nanos.rem_euclid(SECOND) {
            0 => f.write_str("Z"),
            nanos => write!(f, ".{}Z", format!("{nanos:09}").trim_end_matches('0')),
        }
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.utc(), u64::try_from(self.secs())) {
            (Some(_), _) => serializer.collect_str(self),
            (None, Ok(secs)) => serializer.serialize_u64(secs),
            (None, Err(_)) => serializer.serialize_i128(self.secs()),
        }
    }
}

/// Returns the time zone with this name.
pub fn zone(name: &str) -> Result<TimeZone, jiff::Error> {
    match name {
        // Known also without a database of zones.
        "UTC" => Ok(TimeZone::UTC),
        _ => TimeZone::get(name),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_are_read() {
        const MAY: i128 = 1_714_521_600 * SECOND;
        for (text, nanos) in [
            ("1970-01-01", 0),
            ("2024-05-01", MAY),
            ("2024-05-01T00:00:00", MAY),
            ("2024-05-01 00:00:00", MAY),
            ("2024-05-01T00:00:00Z", MAY),
            ("2024-05-01t00:00:00z", MAY),
            ("2024-05-01T02:00:00+02:00", MAY),
            ("2024-04-30 18:30:00-05:30", MAY),
            ("2024-05-01T00:00:00-00:00", MAY),
            ("2024-05-01T00:00:00.5", MAY + SECOND / 2),
            ("2024-05-01T00:00:00.000000001Z", MAY + 1),
            ("2024-05-01T00:00:00.0000000019Z", MAY + 1),
            ("1969-12-31T23:59:59.9Z", -SECOND / 10),
            ("2016-12-31T23:59:60Z", 1_483_228_800 * SECOND),
            ("2017-01-01T00:59:60+01:00", 1_483_228_800 * SECOND),
            ("0000-01-01", -62_167_219_200 * SECOND),
            ("9999-12-31T23:59:59Z", 253_402_300_799 * SECOND),
            ("9999-12-31T23:59:59-01:00", 253_402_304_399 * SECOND),
        ] {
            assert_eq!(parse(text), Ok(nanos), "{text}");
        }
    }

    #[test]
    fn date_as_psql_prints_it_is_read() {
        const MAY: i128 = 1_714_521_600 * SECOND;
        for (text, nanos) in [
            ("2024-05-01 02:00:00+02", MAY),
            ("2024-04-30 18:30:00-05:30", MAY),
            ("2024-05-01 05:45:00.123456+05:45", MAY + 123_456_000),
            ("2024-05-01 02:00:00.5+02", MAY + SECOND / 2),
            ("2024-05-01T02:00:00+0200", MAY),
            ("2024-05-01 02:00:00 +0200", MAY),
            ("2024-05-01 02:00:00.25 +02:00", MAY + SECOND / 4),
            ("2024-05-01 00:00:00+00", MAY),
            ("2024-04-30 12:00:00-12", MAY),
            // Local mean time of Berlin, as psql prints it.
            ("1880-01-01 00:53:28+00:53:28", -2_840_140_800 * SECOND),
        ] {
            assert_eq!(parse(text), Ok(nanos), "{text}");
        }
        for text in [
            "0044-03-15 12:00:00+00 BC",
            "0044-03-15 BC",
            "29999-01-01 00:00:00+00",
            "10000-01-01",
            "294276-12-31 23:59:59.999999+00",
        ] {
            assert_eq!(parse(text), Err(DateError::Year { text: text.into() }), "{text}");
        }
        for text in [
            "2024-05-01 12:00:00+020",
            "2024-05-01 12:00:00+02000",
            "2024-05-01 12:00:00+02:0",
            "2024-05-01 12:00:00+02:00:",
            "2024-05-01 12:00:00+02 :00",
            "2024-05-01 12:00:00  +02",
            "2024-05-01 12:00:00 Z",
            "2024-05-01 12:00:00 ",
            "2024-05-01 12:00:00+2",
            "2024-05-01 +02",
            "infinity BC",
            "20240-5-1",
        ] {
            assert_eq!(parse(text), Err(DateError::NotADate { text: text.into() }), "{text}");
        }
    }

    #[test]
    fn invalid_dates_are_rejected_with_their_reason() {
        for text in ["infinity", "-infinity", "Infinity", "inf"] {
            assert_eq!(parse(text), Err(DateError::Infinite { text: text.into() }));
        }
        for text in [
            "2023-02-29",
            "2024-13-01",
            "2024-00-01",
            "2024-05-32",
            "2024-05-01T24:00:00Z",
            "2024-05-01T12:60:00Z",
            "2024-05-01T12:00:60Z",
            "2024-05-01T12:00:61Z",
        ] {
            assert_eq!(parse(text), Err(DateError::NoSuchTime { text: text.into() }));
        }
        assert_eq!(parse("12024-05-01"), Err(DateError::Year { text: "12024-05-01".into() }));
        for text in [
            "",
            "now",
            "today",
            "2024",
            "2024-5-1",
            "20240501",
            "01.05.2024",
            "2024-05-01T",
            "2024-05-01T12",
            "2024-05-01T12:00",
            "2024-05-01T12:00:00.",
            "2024-05-01T12:00:00+2",
            "2024-05-01T12:00:00+24:00",
            "2024-05-01T12:00:00+01:60",
            "2024-05-01Z",
            "2024-05-01T12:00:00Z ",
            " 2024-05-01",
            "+2024-05-01",
            "-024-05-01",
            "2024-05-01_12:00:00",
            "1714521600",
            "２024-05-01",
        ] {
            assert_eq!(parse(text), Err(DateError::NotADate { text: text.into() }));
        }
    }

    #[test]
    fn moments_are_written() {
        for (nanos, text, json) in [
            (0, "1970-01-01T00:00:00Z", "\"1970-01-01T00:00:00Z\""),
            (500_000_000, "1970-01-01T00:00:00.5Z", "\"1970-01-01T00:00:00.5Z\""),
            (-1, "1969-12-31T23:59:59.999999999Z", "\"1969-12-31T23:59:59.999999999Z\""),
            (253_402_300_799 * SECOND, "9999-12-31T23:59:59Z", "\"9999-12-31T23:59:59Z\""),
            (253_402_300_800 * SECOND, "253402300800", "253402300800"),
            (-62_167_219_200 * SECOND, "0000-01-01T00:00:00Z", "\"0000-01-01T00:00:00Z\""),
            (-62_167_219_201 * SECOND, "-62167219201", "-62167219201"),
        ] {
            assert_eq!(format_ns(nanos).to_string(), text);
            assert_eq!(serde_json::to_string(&format_ns(nanos)).unwrap(), json);
        }
        assert_eq!(format_ms(1500).to_string(), "1970-01-01T00:00:01.5Z");
        assert_eq!(format_ms(u64::MAX).to_string(), "18446744073709551");
        assert_eq!(serde_json::to_string(&format_secs(u64::MAX)).unwrap(), u64::MAX.to_string());
    }

    proptest! {
        #[test]
        fn written_moment_is_read_back(nanos in -62_167_219_200 * SECOND..253_402_300_800 * SECOND) {
            prop_assert_eq!(parse(&format_ns(nanos).to_string()), Ok(nanos));
        }

        #[test]
        fn any_text_is_read_or_rejected(text in "[-+0-9T:Z. ]{0,30}|\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn any_moment_is_written(nanos: i128) {
            prop_assert!(serde_json::to_string(&format_ns(nanos)).is_ok());
        }
    }
}
