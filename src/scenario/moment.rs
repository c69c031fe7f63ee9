//! Moments of a scenario: counted from its beginning, or absolute.

use crate::base::date::{self, format_ms, format_ns};
use crate::base::duration;
use crate::base::quote::Quoted;

const MS: i128 = 1_000_000;

/// A moment as a scenario names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// In milliseconds after the beginning.
    After(u64),
    /// In nanoseconds since 1970.
    At(i128),
}

impl Moment {
    /// Reads `2m30s`, counted from the beginning, or a date as in rows of limits.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Ok(after) = duration::millis(text) {
            return Ok(Moment::After(after));
        }
        date::parse(text).map(Moment::At).map_err(|_| {
            format!(
                "{} is not a time; write it like 2m30s, counted from the beginning, or like \
                 2026-01-01T00:02:30Z",
                Quoted(text)
            )
        })
    }

    /// Returns the nanoseconds since 1970, for a scenario that begins at this millisecond.
    pub(super) fn ns(self, begin: u64) -> i128 {
        match self {
            Moment::After(after) => (i128::from(begin) + i128::from(after)) * MS,
            Moment::At(ns) => ns,
        }
    }

    /// Returns the milliseconds since 1970, if the moment is a whole millisecond up to `MS_MAX`.
    pub(super) fn ms(self, begin: u64) -> Result<u64, String> {
        let ns = self.ns(begin);
        let ms = u64::try_from(ns / MS).ok().filter(|ms| ns % MS == 0 && *ms <= MS_MAX);
        ms.ok_or_else(|| {
            format!(
                "{} is not a whole millisecond from 1970 to {}",
                format_ns(ns),
                format_ms(MS_MAX)
            )
        })
    }
}

/// The end of the year 9999: a later moment has no date.
const MS_MAX: u64 = 253_402_300_799_999;

/// Formats a moment for a scenario: counted from the beginning if that is short, else as a date.
pub(super) fn format(ms: u64, begin: u64) -> String {
    match ms.checked_sub(begin) {
        Some(after) if after < DAYS_MS => duration(after),
        _ => format_ms(ms).to_string(),
    }
}

/// Distance from the beginning from which on a date is easier to read than a count of hours.
const DAYS_MS: u64 = 7 * 24 * 3_600_000;

/// Formats a duration as options accept it.
fn duration(ms: u64) -> String {
    let parts =
        [(ms / 3_600_000, "h"), (ms / 60_000 % 60, "m"), (ms / 1000 % 60, "s"), (ms % 1000, "ms")];
    let named = parts.iter().filter(|(count, _)| *count > 0);
    let text: String = named.map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { "0s".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: u64 = 1_767_225_600_000;

    #[test]
    fn moments_are_parsed_and_formatted() {
        for (text, after, named) in [
            ("0s", 0, "0s"),
            ("2m30s", 150_000, "2m30s"),
            ("90s", 90_000, "1m30s"),
            ("1500ms", 1500, "1s500ms"),
            ("2026-01-01T01:00:00Z", 3_600_000, "1h"),
            ("2026-02-01", 31 * 86_400_000, "2026-02-01T00:00:00Z"),
        ] {
            let ms = Moment::parse(text).and_then(|moment| moment.ms(BEGIN)).expect(text);
            assert_eq!((ms, format(ms, BEGIN).as_str()), (BEGIN + after, named), "{text}");
        }
        assert_eq!(format(BEGIN - 1000, BEGIN), "2025-12-31T23:59:59Z");
    }

    #[test]
    fn text_that_is_no_whole_millisecond_is_rejected() {
        for text in ["", "5", "tomorrow", "-1s"] {
            assert!(Moment::parse(text).is_err(), "{text}");
        }
        for text in ["1969-12-31", "2026-01-01T00:00:00.0001Z"] {
            assert!(Moment::parse(text).and_then(|moment| moment.ms(BEGIN)).is_err(), "{text}");
        }
    }
}
