//! The clock of the demo: the time of the capture, which passes faster than real time.
//!
//! The sender paces packets by this clock, and the run uses it as its wall clock, so that windows close in the
//! time of the capture. At full speed the clock leaps from packet to packet, and waits only half-way, until the
//! limit changes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::runner;
use crate::sniffer::pace::{self, Speed};

/// At full speed, the interval at which the waiting sender checks for an interrupt.
const WAKE_INTERVAL: Duration = Duration::from_millis(100);

/// The speed of a clock that leaps. Its value is arbitrary.
const LEAP_SPEED: f64 = 60.0;

/// The times of a capture, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The time of the first packet.
    pub(super) first_ms: u64,
    /// The time of the last packet.
    pub(super) last_ms: u64,
}

impl Span {
    /// Half-way between them.
    pub(super) fn half_ms(&self) -> u64 {
        self.first_ms + (self.last_ms - self.first_ms) / 2
    }
}

/// The clock of the demo. It stands still until it is started.
pub(super) struct Timeline {
    span: Span,
    speed: Speed,
    state: Mutex<State>,
    /// Wakes the thread that waits half-way.
    waiting: Condvar,
}

#[derive(Default)]
struct State {
    started: Option<Instant>,
    /// At full speed, the distance leapt since the start, in real time.
    leapt: Duration,
    /// Whether the clock may pass half time.
    second_half: bool,
    /// The time of the clock once all packets have arrived; it stands still then.
    end_ms: Option<u64>,
}

impl Timeline {
    pub(super) fn new(span: Span, speed: Speed) -> Arc<Self> {
        let (state, waiting) = (Mutex::default(), Condvar::new());
        Arc::new(Timeline { span, speed, state, waiting })
    }

    /// Returns the speed as a multiple of real time; it also paces the packets.
    pub(super) fn speed_factor(&self) -> f64 {
        match self.speed {
            Speed::Max => LEAP_SPEED,
            Speed::Times(times) => times,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the clock.
    pub(super) fn start(&self) {
        self.state().started = Some(Instant::now());
    }

    /// Lets the clock pass half time.
    pub(super) fn start_second_half(&self) {
        self.state().second_half = true;
        self.waiting.notify_all();
    }

    /// Sets the clock to its last time: all packets have arrived, and the partitions are silent.
    pub(super) fn end_at(&self, at_ms: u64) {
        self.state().end_ms = Some(at_ms);
    }

    /// Returns the real time since the start.
    fn passed(&self, state: &State) -> Duration {
        match self.speed {
            Speed::Max => state.leapt,
            Speed::Times(_) => state.started.map_or(Duration::ZERO, |started| started.elapsed()),
        }
    }

    /// The time of the capture.
    pub(super) fn now_ms(&self) -> u64 {
        let state = self.state();
        if let Some(end_ms) = state.end_ms {
            return end_ms;
        }
        let millis = self.passed(&state).as_secs_f64() * 1000.0 * self.speed_factor();
        self.span.first_ms.saturating_add(millis.round() as u64).min(self.span.last_ms)
    }

    /// Whether half of the time has passed.
    pub(super) fn has_reached_half(&self) -> bool {
        let state = self.state();
        self.passed(&state) >= self.half()
    }

    /// Returns the real time from the start to half time.
    fn half(&self) -> Duration {
        let millis = self.span.half_ms() - self.span.first_ms;
        Duration::from_secs_f64(millis as f64 / 1000.0 / self.speed_factor())
    }
}

impl pace::PaceClock for Arc<Timeline> {
    fn now(&self) -> Duration {
        let state = self.state();
        self.passed(&state)
    }

    fn wait(&self, at_most: Duration) {
        if self.speed != Speed::Max {
            return std::thread::park_timeout(at_most);
        }
        let (half, mut state) = (self.half(), self.state());
        let then = state.leapt + at_most;
        if state.second_half || then < half {
            state.leapt = then;
        } else if state.leapt < half {
            state.leapt = half;
        } else {
            // The thread that reads waits here; the sender checks for an interrupt meanwhile.
            drop(self.waiting.wait_timeout(state, WAKE_INTERVAL));
        }
    }
}

impl runner::Clock for Arc<Timeline> {
    /// Records may still be on their way to an empty partition, so silence is confirmed only once all have
    /// arrived.
    fn read(&mut self) -> runner::Moment {
        runner::Moment::steady(self.now_ms(), self.state().end_ms.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { first_ms: 1_000_000, last_ms: 1_600_000 };

    #[test]
    fn clock_at_full_speed_leaps_and_waits_half_way() {
        use pace::PaceClock as _;
        let timeline = Timeline::new(SPAN, Speed::Max);
        timeline.start();
        assert_eq!(timeline.now_ms(), 1_000_000);
        timeline.wait(Duration::from_secs(2));
        assert_eq!(timeline.now_ms(), 1_120_000);
        assert!(!timeline.has_reached_half());
        for _ in 0..2 {
            timeline.wait(Duration::from_secs(4));
            assert!(timeline.has_reached_half());
            assert_eq!(timeline.now_ms(), SPAN.half_ms());
        }
        timeline.start_second_half();
        timeline.wait(Duration::from_secs(4));
        assert_eq!(timeline.now_ms(), 1_540_000);
        timeline.wait(Duration::from_secs(4));
        // No packet is later.
        assert_eq!(timeline.now_ms(), SPAN.last_ms);
    }

    #[test]
    fn clock_confirms_silence_only_after_all_was_sent() {
        use runner::Clock as _;
        let mut timeline = Timeline::new(SPAN, Speed::Times(60.0));
        assert_eq!(timeline.read(), runner::Moment::steady(SPAN.first_ms, 0));
        timeline.end_at(2_000_000);
        assert_eq!(timeline.read(), runner::Moment::steady(2_000_000, 2_000_000));
    }
}
