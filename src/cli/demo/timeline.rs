//! The clock of the demo: the time of the capture, which passes faster than ours.
//!
//! The sender waits for packets by it, and the run takes it as its clock, so that windows close as they
//! did then. At full speed it leaps from packet to packet, and waits only half-way, until the limit is
//! to change.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::runner;
use crate::sniffer::pace::{self, Speed};

/// At full speed, how often to look whether anybody still wants to wait.
const LOOK: Duration = Duration::from_millis(100);

/// The speed of time while it leaps. Any number does.
const LEAPING: f64 = 60.0;

/// The times of a capture, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Of the first packet.
    pub(super) first_ms: u64,
    /// Of the last packet.
    pub(super) last_ms: u64,
}

impl Span {
    /// Half-way between them.
    pub(super) fn half_ms(&self) -> u64 {
        self.first_ms + (self.last_ms - self.first_ms) / 2
    }
}

/// The clock of the demo. It stands until it is begun.
pub(super) struct Timeline {
    span: Span,
    speed: Speed,
    state: Mutex<State>,
    /// Wakes the thread that waits half-way.
    waiting: Condvar,
}

#[derive(Default)]
struct State {
    began: Option<Instant>,
    /// At full speed, how far it has leapt.
    leapt: Duration,
    /// Whether it may go on at half time.
    second_half: bool,
    /// The time when all packets are sent.
    over_ms: Option<u64>,
}

impl Timeline {
    pub(super) fn new(span: Span, speed: Speed) -> Arc<Self> {
        let (state, waiting) = (Mutex::default(), Condvar::new());
        Arc::new(Timeline { span, speed, state, waiting })
    }

    /// Returns the speed of its time, as a multiple of ours; packets are paced by it, too.
    pub(super) fn times(&self) -> f64 {
        match self.speed {
            Speed::Max => LEAPING,
            Speed::Times(times) => times,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time begins to pass.
    pub(super) fn begin(&self) {
        self.state().began = Some(Instant::now());
    }

    /// Lets the second half come.
    pub(super) fn go_on(&self) {
        self.state().second_half = true;
        self.waiting.notify_all();
    }

    /// All packets were sent and have arrived: from now on it is this late, and all is silent.
    pub(super) fn end(&self, at_ms: u64) {
        self.state().over_ms = Some(at_ms);
    }

    /// Since it began, on our clock.
    fn passed(&self, state: &State) -> Duration {
        match self.speed {
            Speed::Max => state.leapt,
            Speed::Times(_) => state.began.map_or(Duration::ZERO, |began| began.elapsed()),
        }
    }

    /// The time of the capture.
    pub(super) fn now_ms(&self) -> u64 {
        let state = self.state();
        if let Some(over_ms) = state.over_ms {
            return over_ms;
        }
        let millis = self.passed(&state).as_secs_f64() * 1000.0 * self.times();
        self.span.first_ms.saturating_add(millis.round() as u64).min(self.span.last_ms)
    }

    /// Whether half of the time has passed.
    pub(super) fn is_half(&self) -> bool {
        let state = self.state();
        self.passed(&state) >= self.half()
    }

    /// When half time is, on our clock since it began.
    fn half(&self) -> Duration {
        let millis = self.span.half_ms() - self.span.first_ms;
        Duration::from_secs_f64(millis as f64 / 1000.0 / self.times())
    }
}

impl pace::Clock for Arc<Timeline> {
    fn now(&self) -> Duration {
        let state = self.state();
        self.passed(&state)
    }

    fn pass(&self, at_most: Duration) {
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
            // The reader waits here; the sniffer looks around meanwhile.
            drop(self.waiting.wait_timeout(state, LOOK));
        }
    }
}

impl runner::Clock for Arc<Timeline> {
    /// Records that were sent may still be on their way to a partition that says nothing: only when all has arrived
    /// does silence mean something.
    fn read(&mut self) -> runner::Moment {
        runner::Moment::steady(self.now_ms(), self.state().over_ms.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { first_ms: 1_000_000, last_ms: 1_600_000 };

    #[test]
    fn at_full_speed_it_leaps_and_waits_half_way() {
        use pace::Clock as _;
        let timeline = Timeline::new(SPAN, Speed::Max);
        timeline.begin();
        assert_eq!(timeline.now_ms(), 1_000_000);
        timeline.pass(Duration::from_secs(2));
        assert_eq!(timeline.now_ms(), 1_120_000);
        assert!(!timeline.is_half());
        for _ in 0..2 {
            timeline.pass(Duration::from_secs(4));
            assert!(timeline.is_half());
            assert_eq!(timeline.now_ms(), SPAN.half_ms());
        }
        timeline.go_on();
        timeline.pass(Duration::from_secs(4));
        assert_eq!(timeline.now_ms(), 1_540_000);
        timeline.pass(Duration::from_secs(4));
        // No packet is later.
        assert_eq!(timeline.now_ms(), SPAN.last_ms);
    }

    #[test]
    fn silence_means_nothing_before_all_was_sent() {
        use runner::Clock as _;
        let mut timeline = Timeline::new(SPAN, Speed::Times(60.0));
        assert_eq!(timeline.read(), runner::Moment::steady(SPAN.first_ms, 0));
        timeline.end(2_000_000);
        assert_eq!(timeline.read(), runner::Moment::steady(2_000_000, 2_000_000));
    }
}
