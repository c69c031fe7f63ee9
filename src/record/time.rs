//! Parses the times of records, numbers or texts.

use jiff::civil::{DateTime, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::reason::TimeFault;
use super::value::{Decimal, Unit, is_placeholder, scalar};
use crate::base::date;

const SECOND: i128 = 1_000_000_000;
const MILLISECOND: i128 = 1_000_000;
const DAY: i128 = 24 * 3600 * SECOND;
const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);

/// The value of a field of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldTime {
    /// Milliseconds since 1970.
    At(u64),
    /// A value that stands for an absent time.
    Absent,
    /// A value that can't be used.
    Bad(TimeFault),
}

/// Reads a time field. With `zero_is_absent`, the values that programs write for an unset time count as absent.
pub(super) fn read(raw: &str, unit: Unit, zone: &TimeZone, zero_is_absent: bool) -> FieldTime {
    match scalar(raw) {
        Some(text) => parse(&text, unit, zone, zero_is_absent),
        None => FieldTime::Absent,
    }
}

fn parse(text: &str, unit: Unit, zone: &TimeZone, zero_is_absent: bool) -> FieldTime {
    match moment(text, unit, zone) {
        Some(nanos) if zero_is_absent && is_unset(nanos, unit) => FieldTime::Absent,
        Some(nanos) => of_moment(nanos),
        None if is_zero_date(text) => FieldTime::Absent,
        None => FieldTime::Bad(TimeFault::Unreadable),
    }
}

/// Reads a text that is a time; without a unit, the size of a number tells it.
pub(super) fn of_text(text: &str, unit: Option<Unit>, zone: &TimeZone) -> FieldTime {
    if is_placeholder(text) {
        return FieldTime::Absent;
    }
    let Some(number) = number(text) else {
        return parse(text, Unit::Seconds, zone, true);
    };
    let size = || number.nanos(Unit::Nanoseconds).map_or(Unit::Seconds, Unit::of_size);
    let unit = unit.unwrap_or_else(size);
    match number.nanos(unit) {
        Some(nanos) if is_unset(nanos, unit) => FieldTime::Absent,
        Some(nanos) => of_moment(nanos),
        None => FieldTime::Bad(TimeFault::Unreadable),
    }
}

/// Reads a whole number that is a time. The numbers that programs write for an unset time count as absent.
pub(super) fn of_integer(number: i128, unit: Unit) -> FieldTime {
    match number.checked_mul(unit.nanos()) {
        Some(nanos) if is_unset(nanos, unit) => FieldTime::Absent,
        Some(nanos) => of_moment(nanos),
        None => FieldTime::Bad(TimeFault::OutOfRange),
    }
}

/// Reads a number with a fraction in the same way. Less than a microsecond is lost: numbers of 64 bits do not have it.
pub(super) fn of_float(number: f64, unit: Unit) -> FieldTime {
    let (per_unit, rest) = match unit {
        Unit::Seconds => (1e6, Unit::Microseconds),
        Unit::Milliseconds => (1e3, Unit::Microseconds),
        Unit::Microseconds | Unit::Nanoseconds => (1.0, unit),
    };
    // Saturates.
    let whole = (number * per_unit).round() as i128;
    match whole.checked_mul(rest.nanos()) {
        Some(nanos) if is_unset(nanos, unit) => FieldTime::Absent,
        Some(nanos) => of_moment(nanos),
        None => FieldTime::Bad(TimeFault::OutOfRange),
    }
}

/// Returns the time of a moment, in nanoseconds since 1970.
fn of_moment(nanos: i128) -> FieldTime {
    event_time(nanos).map_or(FieldTime::Bad(TimeFault::OutOfRange), FieldTime::At)
}

/// Parses a number in this unit, or a date and time, to nanoseconds since 1970.
pub(super) fn moment(text: &str, unit: Unit, zone: &TimeZone) -> Option<i128> {
    match number(text) {
        Some(number) => number.nanos(unit),
        None => date_time(text, zone),
    }
}

fn number(text: &str) -> Option<Decimal> {
    match text.as_bytes() {
        // No number begins like this, and most dates do.
        [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9', b'0'..=b'9', b'-', ..] => None,
        _ => Decimal::parse(text),
    }
}

/// Returns the event time in milliseconds; `None` outside the range of a record.
pub(super) fn event_time(nanos: i128) -> Option<u64> {
    u64::try_from(nanos.div_euclid(MILLISECOND)).ok()
}

/// Whether a text is the date that pmacct and databases write for an absent one, in any of its forms:
/// `0000-00-00 00:00:00.000000`, `0000-00-00T00:00:00Z`, `0000-00-00`.
fn is_zero_date(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("0000-00-00") else {
        return false;
    };
    let (time, zone) = rest.split_at(rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len()));
    time.bytes().all(|byte| b"0:., Tt".contains(&byte))
        && zone.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":+- ".contains(&byte))
}

/// Whether programs write this moment for an unset time: the zero of their clocks, with or without the offset of a time
/// zone, or an integer with all bits set.
fn is_unset(nanos: i128, unit: Unit) -> bool {
    // 1970-01-01 of Unix; 1900-01-01 of NTP; 0001-01-01 of Go, Java and .NET.
    const ZEROS: [i128; 3] = [0, -2_208_988_800 * SECOND, -62_135_596_800 * SECOND];
    if ZEROS.iter().any(|zero| nanos.saturating_sub(*zero).unsigned_abs() < DAY.unsigned_abs()) {
        return true;
    }
    // The zero of Go in nanoseconds does not fit into 64 bits, and wraps to this number.
    const GO_ZERO_NANOS: i64 = -6_795_364_578_871_345_152;
    const BITS: [i128; 5] = [
        u64::MAX as i128,
        i64::MAX as i128,
        i64::MIN as i128,
        GO_ZERO_NANOS as i128,
        GO_ZERO_NANOS as u64 as i128,
    ];
    let number = nanos / unit.nanos();
    nanos % unit.nanos() == 0
        && (BITS.contains(&number) || unit == Unit::Seconds && number == i128::from(u32::MAX))
}

/// Parses a date and time; in the zone of the argument if the text states none.
fn date_time(text: &str, zone: &TimeZone) -> Option<i128> {
    let Ok(nanos) = date::parse(text) else {
        return date_time_with_offset(text);
    };
    if zone_start(text).is_some() || *zone == TimeZone::UTC {
        return Some(nanos);
    }
    // `date::parse` read it as UTC.
    in_zone(nanos, zone)
}

/// Returns the moment of a date and time of a zone, which is given as if of UTC.
pub(super) fn in_zone(nanos: i128, zone: &TimeZone) -> Option<i128> {
    if *zone == TimeZone::UTC {
        return Some(nanos);
    }
    let secs = i64::try_from(nanos.div_euclid(SECOND)).ok()?;
    let local = EPOCH.checked_add(SignedDuration::from_secs(secs)).ok()?;
    // A repeated hour reads as the first, a skipped hour as the hour after it.
    let instant: Timestamp = zone.to_ambiguous_timestamp(local).compatible().ok()?;
    Some(i128::from(instant.as_second()) * SECOND + nanos.rem_euclid(SECOND))
}

/// Returns the index of the zone in a date and time, if it states one.
fn zone_start(text: &str) -> Option<usize> {
    // Behind the separator of date and time.
    let begin = "2024-05-01T".len();
    let found =
        text.bytes().skip(begin).position(|b| b.is_ascii_alphabetic() || b"+-".contains(&b));
    Some(begin + found?)
}

/// Parses a date and time with an offset in a form other than RFC 3339: `+02`, `+0200`, `+02:00:00`, `UTC`, with a
/// blank before it, or followed by the name of the zone, as Go writes it (`+0200 CEST`).
fn date_time_with_offset(text: &str) -> Option<i128> {
    let at = zone_start(text)?;
    let local = text[..at].trim_end_matches(' ');
    let (offset, name) = text[at..].split_once(' ').unwrap_or((&text[at..], ""));
    if !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    let (sign, digits) = match offset.as_bytes() {
        [sign @ (b'+' | b'-'), ..] => (char::from(*sign), &offset[1..]),
        _ if offset.eq_ignore_ascii_case("z") || matches!(offset, "UTC" | "GMT") => ('+', "00"),
        _ => return None,
    };
    let (hours, minutes, seconds) = offset_parts(digits)?;
    let nanos = date::parse(&format!("{local}{sign}{hours}:{minutes}")).ok()?;
    let seconds = i128::from(seconds.parse::<u8>().ok().filter(|seconds| *seconds < 60)?) * SECOND;
    Some(if sign == '-' { nanos + seconds } else { nanos - seconds })
}

/// Splits an offset into hours, minutes and seconds, two digits each, with or without colons.
fn offset_parts(text: &str) -> Option<(&str, &str, &str)> {
    let two = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut rest = text;
    let mut parts = ["00"; 3];
    let colons = text.as_bytes().get(2) == Some(&b':');
    for (at, part) in parts.iter_mut().enumerate() {
        if at > 0 {
            if rest.is_empty() {
                break;
            }
            rest = if colons { rest.strip_prefix(':')? } else { rest };
        }
        let (digits, after) = rest.split_at_checked(2)?;
        *part = two(digits).then_some(digits)?;
        rest = after;
    }
    let [hours, minutes, seconds] = parts;
    rest.is_empty().then_some((hours, minutes, seconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_and_dates_are_parsed_to_nanoseconds() {
        let utc = TimeZone::UTC;
        for (text, unit, nanos) in [
            ("1700000000", Unit::Seconds, 1_700_000_000 * SECOND),
            ("1700000000.123456", Unit::Seconds, 1_700_000_000_123_456_000),
            ("1700000000.123456789987654321", Unit::Seconds, 1_700_000_000_123_456_789),
            ("1.7e9", Unit::Seconds, 1_700_000_000 * SECOND),
            ("1700000000123", Unit::Milliseconds, 1_700_000_000_123_000_000),
            ("1700000000123456789", Unit::Nanoseconds, 1_700_000_000_123_456_789),
            ("-0.5", Unit::Seconds, -SECOND / 2),
            ("-0.5", Unit::Nanoseconds, -1),
            ("5e-99999999999", Unit::Seconds, 0),
            ("1.5e-3", Unit::Seconds, 1_500_000),
            ("2023-11-14 22:13:20.5", Unit::Nanoseconds, 1_700_000_000 * SECOND + SECOND / 2),
            ("2023-11-14T23:13:20+01:00", Unit::Seconds, 1_700_000_000 * SECOND),
        ] {
            assert_eq!(moment(text, unit, &utc), Some(nanos), "{text}");
        }
        for text in ["", "now", "1e30", "9e99999999999", "2023-11-14 25:00:00", "22:13:20"] {
            assert_eq!(moment(text, Unit::Seconds, &utc), None, "{text}");
        }
    }

    #[test]
    fn zone_argument_applies_to_times_without_a_zone() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let at = |text| moment(text, Unit::Seconds, &berlin).map(|nanos| nanos / SECOND);
        let utc = |text| moment(text, Unit::Seconds, &TimeZone::UTC).map(|nanos| nanos / SECOND);
        assert_eq!(at("2024-01-01 01:00:00"), utc("2024-01-01 00:00:00"));
        assert_eq!(at("2024-07-01T02:00:00"), utc("2024-07-01 00:00:00"));
        assert_eq!(at("2024-07-01"), utc("2024-06-30 22:00:00"));
        assert_eq!(at("2024-07-01T02:00:00Z"), utc("2024-07-01 02:00:00"));
        assert_eq!(at("2024-07-01 02:00:00-05:00"), utc("2024-07-01 07:00:00"));
        // A repeated hour, and a skipped one.
        assert_eq!(at("2024-10-27 02:30:00"), utc("2024-10-27 00:30:00"));
        assert_eq!(at("2024-03-31 02:30:00"), utc("2024-03-31 01:30:00"));
        assert_eq!(at("1700000000"), Some(1_700_000_000));
    }

    #[test]
    fn offset_in_any_common_form_is_read() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let nine = 1_714_554_000 * SECOND;
        for text in [
            "2024-05-01T11:00:00+02:00",
            "2024-05-01T11:00:00+02",
            "2024-05-01 11:00:00+0200",
            "2024-05-01 11:00:00 +0200",
            "2024-05-01 11:00:00 +02",
            "2024-05-01T11:00:00+02:00:00",
            "2024-05-01T11:00:00+020000",
            "2024-05-01 11:00:00 +0200 CEST",
            "2024-05-01T04:00:00-05",
            "2024-05-01T03:30:00-0530",
            "2024-05-01T09:00:30+00:00:30",
            "2024-05-01T08:59:30-00:00:30",
            "2024-05-01 09:00:00 UTC",
            "2024-05-01 09:00:00 GMT",
            "2024-05-01 09:00:00 Z",
            "2024-05-01T09:00:00UTC",
            "2024-05-01 09:00:00 +0000 UTC",
        ] {
            // The zone argument does not apply to a text with an offset.
            for zone in [&TimeZone::UTC, &berlin] {
                assert_eq!(moment(text, Unit::Seconds, zone), Some(nine), "{text}");
            }
        }
        let fraction = moment("2024-05-01 11:00:00.250+02", Unit::Seconds, &berlin);
        assert_eq!(fraction, Some(nine + SECOND / 4));
        let leap = moment("2017-01-01T00:59:60+01", Unit::Seconds, &berlin);
        assert_eq!(leap, Some(1_483_228_800 * SECOND));
        for text in [
            "2024-05-01T11:00:00+2",
            "2024-05-01T11:00:00+020",
            "2024-05-01T11:00:00+02000",
            "2024-05-01T11:00:00+02:",
            "2024-05-01T11:00:00+02:0",
            "2024-05-01T11:00:00+0200:00",
            "2024-05-01T11:00:00+02:00:60",
            "2024-05-01T11:00:00+02:60",
            "2024-05-01T11:00:00+24",
            "2024-05-01T11:00:00+",
            "2024-05-01T11:00:00+ab",
            "2024-05-01T11:00:00 CEST",
            "2024-05-01T11:00:00+02 (CEST)",
            "2024-05-01T11:00:00+٠٢",
            "2024-05-01+02",
            "2024-05-01 +02",
        ] {
            assert_eq!(moment(text, Unit::Seconds, &TimeZone::UTC), None, "{text}");
        }
    }

    fn read_utc(raw: &str, unit: Unit) -> FieldTime {
        read(raw, unit, &TimeZone::UTC, true)
    }

    #[test]
    fn unset_time_is_absent() {
        use Unit::{Milliseconds, Nanoseconds, Seconds};
        for (raw, unit) in [
            ("null", Seconds),
            ("\"\"", Seconds),
            ("\"-\"", Seconds),
            ("\"N/A\"", Seconds),
            ("\"None\"", Seconds),
            ("\"<nil>\"", Nanoseconds),
            ("\"NaT\"", Seconds),
            ("\"null\"", Milliseconds),
            ("\"0000-00-00 00:00:00.000000\"", Seconds),
            ("\"0000-00-00 00:00:00\"", Seconds),
            ("\"0000-00-00T00:00:00.000000Z\"", Seconds),
            ("\"0000-00-00T00:00:00.000000+00:00\"", Seconds),
            ("\"0000-00-00T00:00:00-05:00\"", Seconds),
            ("\"0000-00-00\"", Seconds),
            ("0", Seconds),
            ("0", Milliseconds),
            ("0", Nanoseconds),
            ("-1", Seconds),
            ("-1", Nanoseconds),
            ("\"0.000000\"", Seconds),
            ("3600", Seconds),
            ("\"1970-01-01T00:00:00.000\"", Seconds),
            ("\"1970-01-01 01:00:00 +0100 CET\"", Seconds),
            ("\"1969-12-31 19:00:00\"", Seconds),
            ("\"1900-01-01T00:00:00Z\"", Seconds),
            ("-2208988800", Seconds),
            ("\"0001-01-01T00:00:00Z\"", Seconds),
            ("\"0001-01-01 00:00:00 +0000 UTC\"", Seconds),
            ("-62135596800", Seconds),
            ("-62135596800000", Milliseconds),
            ("-6795364578871345152", Nanoseconds),
            ("11651379494838206464", Nanoseconds),
            ("4294967295", Seconds),
            ("18446744073709551615", Seconds),
            ("18446744073709551615", Milliseconds),
            ("18446744073709551615", Nanoseconds),
            ("9223372036854775807", Nanoseconds),
            ("-9223372036854775808", Nanoseconds),
        ] {
            assert_eq!(read_utc(raw, unit), FieldTime::Absent, "{raw}");
        }
        // Without `zero_is_absent`, only placeholders and zero dates are absent.
        let own = |raw| read(raw, Milliseconds, &TimeZone::UTC, false);
        assert_eq!(own("0"), FieldTime::At(0));
        assert_eq!(own("18446744073709551615"), FieldTime::At(u64::MAX));
        assert_eq!(own("\"0000-00-00 00:00:00\""), FieldTime::Absent);
        assert_eq!(own("\"0001-01-01T00:00:00Z\""), FieldTime::Bad(TimeFault::OutOfRange));
    }

    #[test]
    fn invalid_time_is_bad_and_not_absent() {
        for raw in [
            "\"yesterday\"",
            "\"0000-00-01\"",
            "\"0000-00-00 00:00:01\"",
            "\"0000-00-00 and more\"",
            "\"2018-02-30 05:40:36\"",
            "\"2018-03-26 05:40\"",
            "{}",
            "[]",
            "true",
            "\"\\u001b[2J\"",
        ] {
            assert_eq!(
                read_utc(raw, Unit::Seconds),
                FieldTime::Bad(TimeFault::Unreadable),
                "{raw}"
            );
        }
        for raw in ["\"1960-01-01 00:00:00\"", "-1767324720", "1e25"] {
            assert_eq!(
                read_utc(raw, Unit::Seconds),
                FieldTime::Bad(TimeFault::OutOfRange),
                "{raw}"
            );
        }
        assert_eq!(read_utc("4294967296", Unit::Seconds), FieldTime::At(4_294_967_296_000));
        assert_eq!(read_utc("4294967295", Unit::Milliseconds), FieldTime::At(4_294_967_295));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_rejected_as_a_time(text in "[-+0-9.eETZ: ]{0,60}|\\PC*|[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9:]{8}\\PC{0,12}") {
            let _ = moment(&text, Unit::Seconds, &TimeZone::UTC);
            let _ = read_utc(&serde_json::to_string(&text).unwrap(), Unit::Nanoseconds);
        }
    }
}
