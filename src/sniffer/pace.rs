//! Pace of reading captures: as fast as possible, or at a multiple of their original speed.

use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::capture::EventTime;

/// Speed at which a capture is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As fast as the queue accepts records.
    Max,
    /// This multiple of the original speed; above zero.
    Times(f64),
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Speed::Max);
        }
        text.strip_suffix('x')
            .and_then(|times| times.parse::<f64>().ok())
            .filter(|times| times.is_finite() && *times >= 0.001)
            .map(Speed::Times)
            .ok_or_else(|| {
                format!("\"{text}\" is not a speed (write max, 1x, 10x or 0.5x; at least 0.001x)")
            })
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Speed::Max => f.write_str("max"),
            Speed::Times(times) => write!(f, "{times}x"),
        }
    }
}

/// A clock that can wait. Tests use a manual one.
pub trait PaceClock {
    /// Returns the time since some fixed moment; it never goes back.
    fn now(&self) -> Duration;
    /// Waits for this long, or less.
    fn wait(&self, at_most: Duration);
}

/// The monotonic clock of the system.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic(Instant);

impl Monotonic {
    /// Creates a clock that starts now.
    pub fn new() -> Self {
        Monotonic(Instant::now())
    }
}

impl Default for Monotonic {
    fn default() -> Self {
        Monotonic::new()
    }
}

impl PaceClock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn wait(&self, at_most: Duration) {
        std::thread::park_timeout(at_most);
    }
}

/// Computes the time at which each packet is due. The first packet is due at once, and so is a packet that is out of
/// order.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    times: f64,
    /// The event time of the first packet, and the time on the clock at which it was read.
    began: Option<(EventTime, Duration)>,
}

impl Pace {
    /// Creates a pace; `None` at full speed, which needs no waiting.
    pub fn new(speed: Speed) -> Option<Self> {
        match speed {
            Speed::Max => None,
            Speed::Times(times) => Some(Pace { times, began: None }),
        }
    }

    /// Returns the time at which a packet is due, on a clock that shows `now`.
    pub fn due(&mut self, time: EventTime, now: Duration) -> Duration {
        let (first, began) = *self.began.get_or_insert((time, now));
        // Nanoseconds: half a millennium in 64 bits, and exact enough as a float for a multiple.
        let since = (u128::from(time.ms) * 1_000_000 + u128::from(time.nanos))
            .saturating_sub(u128::from(first.ms) * 1_000_000 + u128::from(first.nanos));
        let secs = since as f64 / 1e9 / self.times;
        began.saturating_add(Duration::try_from_secs_f64(secs).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_and_written() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("1x".parse(), Ok(Speed::Times(1.0)));
        assert_eq!("10x".parse(), Ok(Speed::Times(10.0)));
        assert_eq!("0.5x".parse(), Ok(Speed::Times(0.5)));
        for bad in ["", "x", "10", "0x", "-1x", "1e-9x", "infx", "nanx", "Max", "fast"] {
            let error = bad.parse::<Speed>().expect_err(bad);
            assert!(error.contains(&format!("\"{bad}\"")), "{error}");
        }
        assert_eq!([Speed::Max, Speed::Times(10.0)].map(|speed| speed.to_string()), ["max", "10x"]);
    }

    #[test]
    fn packets_are_due_by_their_distance_from_the_first() {
        let at = |ms, nanos| EventTime { ms, nanos };
        let start = Duration::from_secs(7);
        let mut pace = Pace::new(Speed::Times(10.0)).expect("it waits");
        assert_eq!(pace.due(at(1_000_000, 0), start), start);
        let due = pace.due(at(1_060_000, 500_000), Duration::ZERO) - start;
        assert_eq!(due, Duration::from_nanos(6_000_050_000));
        // Earlier than the first.
        assert_eq!(pace.due(at(999_000, 0), Duration::ZERO), start);
        // A time in the far future causes no overflow.
        assert!(pace.due(at(u64::MAX, 999_999), Duration::ZERO) > Duration::from_secs(1 << 40));
        assert!(Pace::new(Speed::Max).is_none());
    }
}
