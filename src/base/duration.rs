//! Durations as people write them.

use std::str::FromStr;

use jiff::{SignedDuration, Span, SpanRelativeTo};

/// Reads a duration such as `5m`, `1s`, `1h30m`, `7d` or `500ms`, in milliseconds. A day has 24 hours.
pub fn millis(text: &str) -> Result<u64, String> {
    let with_days = || {
        let span = Span::from_str(text).ok()?;
        span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()
    };
    let duration = SignedDuration::from_str(text).ok().or_else(with_days).ok_or_else(|| {
        format!("not a duration: \"{text}\" (write it like 5m, 1s, 1h30m, 7d or 500ms)")
    })?;
    let nanos = duration.as_nanos();
    if nanos % 1_000_000 != 0 {
        return Err(format!("\"{text}\" is not a whole number of milliseconds"));
    }
    u64::try_from(nanos / 1_000_000).map_err(|_| match nanos {
        ..0 => format!("\"{text}\" is negative"),
        _ => format!("\"{text}\" is too long"),
    })
}

/// Reads a duration of at least a millisecond.
pub fn positive_millis(text: &str) -> Result<u64, String> {
    match millis(text)? {
        0 => Err(format!("\"{text}\" is zero; give a longer time")),
        millis => Ok(millis),
    }
}

/// Reads a duration of whole seconds, at least one.
pub fn secs(text: &str) -> Result<u64, String> {
    let millis = positive_millis(text)?;
    if millis % 1000 != 0 {
        return Err(format!("\"{text}\" is not a whole number of seconds"));
    }
    Ok(millis / 1000)
}

/// Formats a duration in milliseconds as [`millis`] reads it.
pub fn text(millis: u64) -> String {
    match i64::try_from(millis) {
        Ok(millis) => format!("{:#}", SignedDuration::from_millis(millis)),
        Err(_) => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_units() {
        assert_eq!(millis("5m"), Ok(300_000));
        assert_eq!(millis("1h30m"), Ok(5_400_000));
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("0s"), Ok(0));
        assert_eq!(secs("24h"), Ok(86_400));
        assert_eq!(secs("7d"), Ok(7 * 86_400));
        assert_eq!(millis("1d 12h"), Ok(36 * 3_600_000));
        for bad in ["", "5", "m", "-1s", "1us", "5 parsecs", "1mo", "-1d"] {
            assert!(millis(bad).is_err(), "{bad}");
        }
        assert!(secs("500ms").is_err());
        assert!(millis("-1s").is_err_and(|error| error.contains("negative")));
        assert!(positive_millis("0s").is_err());
    }

    #[test]
    fn formatted_duration_is_read_back() {
        for (given, shown) in [("5m", "5m"), ("0.3s", "300ms"), ("90m", "1h 30m"), ("7d", "168h")] {
            let value = millis(given).expect(given);
            assert_eq!(text(value), shown);
            assert_eq!(millis(shown), Ok(value));
        }
        assert_eq!(text(u64::MAX), format!("{}ms", u64::MAX));
    }
}
