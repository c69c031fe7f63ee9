//! Event time, computed exactly in integers from the time unit of a capture.

/// The time at which a packet was captured, exact enough to order packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime {
    /// Milliseconds since 1970, rounded down.
    pub ms: u64,
    /// Nanoseconds within the millisecond, below 1,000,000, rounded down.
    pub nanos: u32,
}

const NANOS_PER_MS: u64 = 1_000_000;

impl EventTime {
    /// Returns the time of whole seconds and nanoseconds, which may exceed a second; `None` beyond 64 bits.
    pub(super) fn from_secs(secs: u64, nanos: u64) -> Option<Self> {
        let ms = secs.checked_mul(1000)?.checked_add(nanos / NANOS_PER_MS)?;
        Some(EventTime { ms, nanos: (nanos % NANOS_PER_MS) as u32 })
    }
}

/// Timestamp of a frame, as its container states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// The time of capture.
    At(EventTime),
    /// The container has no field for a timestamp.
    None,
    /// The time is before 1970, or beyond 64 bits of milliseconds.
    Bad,
}

/// The clock of a pcapng interface: the unit and the offset of its timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InterfaceClock {
    /// Ticks in a second; `None` beyond 128 bits, where 64 bits of ticks are less than a nanosecond.
    per_sec: Option<u128>,
    /// Ticks in a second where they fit into 64 bits, for arithmetic that does not need more.
    per_sec_64: Option<u64>,
    /// Seconds to add.
    pub(super) offset_secs: i64,
}

impl InterfaceClock {
    /// Creates a clock from the option `if_tsresol`: a negative power of ten or, with the highest bit, of two.
    pub(super) fn new(resolution: u8, offset_secs: i64) -> Self {
        let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
        let per_sec = base.checked_pow(u32::from(resolution & 0x7f));
        let per_sec_64 = per_sec.and_then(|per_sec| u64::try_from(per_sec).ok());
        InterfaceClock { per_sec, per_sec_64, offset_secs }
    }

    pub(super) fn timing(&self, ticks: u64) -> Timing {
        let (secs, nanos) = self.split(ticks);
        let secs = i128::from(secs) + i128::from(self.offset_secs);
        u64::try_from(secs)
            .ok()
            .and_then(|secs| EventTime::from_secs(secs, nanos))
            .map_or(Timing::Bad, Timing::At)
    }

    /// Splits ticks into whole seconds and the rest in nanoseconds.
    fn split(&self, ticks: u64) -> (u64, u64) {
        match (self.per_sec_64, self.per_sec) {
            // The two resolutions in use, divided by constants.
            (Some(1_000_000), _) => (ticks / 1_000_000, ticks % 1_000_000 * 1000),
            (Some(1_000_000_000), _) => (ticks / 1_000_000_000, ticks % 1_000_000_000),
            (Some(per_sec), _) => {
                let rest = u128::from(ticks % per_sec) * 1_000_000_000;
                (ticks / per_sec, (rest / u128::from(per_sec)) as u64)
            }
            (None, Some(per_sec)) => (0, (u128::from(ticks) * 1_000_000_000 / per_sec) as u64),
            (None, None) => (0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, nanos: u32) -> Timing {
        Timing::At(EventTime { ms, nanos })
    }

    #[test]
    fn resolutions_are_powers_of_ten_or_of_two() {
        assert_eq!(InterfaceClock::new(6, 0).timing(1_234_567), at(1234, 567_000));
        assert_eq!(InterfaceClock::new(9, 0).timing(1_234_567_891), at(1234, 567_891));
        assert_eq!(InterfaceClock::new(0, 0).timing(7), at(7000, 0));
        assert_eq!(InterfaceClock::new(3, 0).timing(7001), at(7001, 0));
        assert_eq!(InterfaceClock::new(12, 0).timing(1_000_000_000_999), at(1000, 0));
        assert_eq!(InterfaceClock::new(0x80 | 8, 0).timing(257), at(1003, 906_250));
        assert_eq!(InterfaceClock::new(0x80 | 63, 0).timing(u64::MAX), at(1999, 999_999));
        assert_eq!(InterfaceClock::new(0x80 | 64, 0).timing(1 << 63), at(500, 0));
    }

    #[test]
    fn resolution_finer_than_the_range_reads_every_tick_as_the_offset() {
        for resolution in [40, 0x7f, 0xff] {
            assert_eq!(InterfaceClock::new(resolution, 5).timing(u64::MAX), at(5000, 0));
        }
    }

    #[test]
    fn time_before_1970_or_beyond_64_bits_is_bad() {
        assert_eq!(InterfaceClock::new(6, -1).timing(1_500_000), at(500, 0));
        assert_eq!(InterfaceClock::new(6, -2).timing(1_500_000), Timing::Bad);
        assert_eq!(InterfaceClock::new(0, 0).timing(u64::MAX), Timing::Bad);
        assert_eq!(InterfaceClock::new(0, i64::MAX).timing(u64::MAX), Timing::Bad);
        assert_eq!(InterfaceClock::new(6, i64::MIN).timing(u64::MAX), Timing::Bad);
    }

    #[test]
    fn fraction_of_more_than_a_second_is_carried() {
        let time = EventTime::from_secs(1, 4_294_967_295_000);
        assert_eq!(time, Some(EventTime { ms: 4_295_967, nanos: 295_000 }));
    }
}
