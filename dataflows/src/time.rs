//! Ticks, their phases, and windows of event time.
//!
//! The computation runs in [`Time`], a tick and a phase. Consumers see the tick (`as_of`); the phases give a tick
//! its inner order: rows, then dates, then data, then closing, then retirement, then reads. So "limits first, then
//! the tick's traffic, then what time does" is not a convention among operators but the order of the timestamps,
//! and the phase in which a violation is raised gives the reason.

use differential_dataflow::lattice::Lattice;
use serde::{Deserialize, Serialize};
use timely::order::{PartialOrder, TotalOrder};
use timely::progress::timestamp::{Refines, Timestamp};

/// A step of a tick. The phases of a tick are in this order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[repr(u8)]
pub enum Phase {
    /// Rows of limits were read that differ from those held.
    #[default]
    Rows = 0,
    /// The effective date of a row that was read before has come.
    Dates = 1,
    /// The records of the tick are counted.
    Data = 2,
    /// The watermark moves: windows close and settle.
    Close = 3,
    /// Windows leave memory. No change is published about it.
    Retire = 4,
    /// Operators respond to reads, from the state that the tick has left.
    Read = 5,
}

/// The timestamp of the computation: a tick in milliseconds, and a phase of it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Time {
    /// Milliseconds since the Unix epoch.
    pub tick: u64,
    /// The moment within the tick.
    pub phase: Phase,
}

impl Time {
    /// The moment `phase` of `tick`.
    pub const fn new(tick: u64, phase: Phase) -> Self {
        Time { tick, phase }
    }

    /// The first moment of `tick`.
    pub const fn start(tick: u64) -> Self {
        Time::new(tick, Phase::Rows)
    }
}

/// A value with its time, which may be later than that of the message in which it travels.
pub type Timed<D> = (D, Time);

impl PartialOrder for Time {
    fn less_equal(&self, other: &Self) -> bool {
        self <= other
    }
}

impl TotalOrder for Time {}

impl Lattice for Time {
    fn join(&self, other: &Self) -> Self {
        *self.max(other)
    }
    fn meet(&self, other: &Self) -> Self {
        *self.min(other)
    }
}

impl Timestamp for Time {
    /// No path of the computation advances time.
    type Summary = ();
    fn minimum() -> Self {
        Time::start(0)
    }
}

impl timely::progress::timestamp::PathSummary<Time> for () {
    fn results_in(&self, time: &Time) -> Option<Time> {
        Some(*time)
    }
    fn followed_by(&self, _: &()) -> Option<()> {
        Some(())
    }
}

impl Refines<()> for Time {
    fn to_inner(_: ()) -> Self {
        Time::minimum()
    }
    fn to_outer(self) {}
    fn summarize(_: ()) {}
}

/// A window of event time, named by its start in seconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Window(pub u64);

/// The rules of time: the width of windows, the lateness of records, and the retention of windows.
///
/// All but the width may [change](crate::clock::SourceProgress::Rules) while a computation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Windows {
    /// Width of a window in seconds, at least 1.
    pub width_secs: u64,
    /// Time after its end during which a window accepts late records, in milliseconds; `None`: until the end of
    /// the input.
    pub lateness_ms: Option<u64>,
    /// Time for which a settled window is held, in milliseconds; `None`: as long as the program runs.
    pub retention_ms: Option<u64>,
    /// The greatest distance between the starts of two successive seen windows, in seconds, across
    /// which the windows between them count as silence rather than as a break in observation.
    pub max_gap_secs: u64,
}

impl Default for Windows {
    fn default() -> Self {
        Windows { width_secs: 300, lateness_ms: None, retention_ms: None, max_gap_secs: 24 * 3600 }
    }
}

/// The watermark at the end of the input: past every event time, so that every window is closed
/// and settled, whatever the lateness.
pub const END_OF_INPUT: u64 = u64::MAX;

/// The least distance from the end of a window to the end of 64-bit milliseconds.
const TICKS_AFTER_END_MS: u64 = 60_000;

impl Windows {
    /// The window of an event time in milliseconds. `None` if its window ends too close to the end
    /// of 64-bit milliseconds for later ticks to exist.
    pub fn of(&self, event_ms: u64) -> Option<Window> {
        let width_ms = self.width_secs.checked_mul(1000)?;
        let start_ms = event_ms - event_ms % width_ms;
        // A few ticks follow the end of the last window, and the greatest watermark stands for the end
        // of the input.
        start_ms.checked_add(width_ms)?.checked_add(TICKS_AFTER_END_MS)?;
        Some(Window(start_ms / 1000))
    }

    /// The exclusive end of a window, in seconds.
    pub fn end_secs(&self, window: Window) -> u64 {
        window.0.saturating_add(self.width_secs)
    }

    /// The exclusive end of a window, in milliseconds.
    pub fn end_ms(&self, window: Window) -> u64 {
        self.end_secs(window).saturating_mul(1000)
    }

    /// The range of one window.
    pub fn only(&self, window: Window) -> WindowRange {
        WindowRange { from: window, until: Window(self.end_secs(window)) }
    }

    /// The windows of a range, one by one.
    pub fn each(&self, range: WindowRange) -> impl Iterator<Item = Window> + use<> {
        let width = usize::try_from(self.width_secs).unwrap_or(usize::MAX);
        (range.from.0..range.until.0).step_by(width).map(Window)
    }

    /// The first window that starts at or after a time in milliseconds.
    pub fn first_from(&self, ms: u64) -> Window {
        let windows = ms.div_ceil(1000).div_ceil(self.width_secs);
        Window(windows.saturating_mul(self.width_secs))
    }

    /// The first window that ends after a time in milliseconds.
    fn first_ending_after(&self, ms: u64) -> Window {
        Window(ms / 1000 / self.width_secs * self.width_secs)
    }

    /// The bounds between windows in different states, by the watermark alone.
    pub fn bounds(&self, watermark: u64) -> Bounds {
        if watermark == END_OF_INPUT {
            let none = WindowRange::ALL.until;
            let held = if self.retention_ms.is_some() { none } else { Window(0) };
            return Bounds { open: none, unsettled: none, held };
        }
        let first = |after: Option<u64>| {
            after.map_or(Window(0), |ms| self.first_ending_after(watermark.saturating_sub(ms)))
        };
        let retained = self.lateness_ms.zip(self.retention_ms);
        Bounds {
            open: first(Some(0)),
            unsettled: first(self.lateness_ms),
            held: first(retained.map(|(lateness, retention)| lateness.saturating_add(retention))),
        }
    }

    /// The first window that a version with this date judges, in nanoseconds: the one in which the date
    /// lies, which ends after it.
    pub fn judged_from(&self, date: i128) -> Window {
        let secs = u64::try_from(date.div_euclid(1_000_000_000).max(0)).unwrap_or(u64::MAX);
        Window(secs - secs % self.width_secs)
    }
}

/// The bounds between windows in different states. A window never returns to a state before.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Bounds {
    /// The first window that is not [closed](Bounds::closed).
    pub open: Window,
    /// The first window that is not [settled](Bounds::settled).
    pub unsettled: Window,
    /// The first window that is not [retired](Bounds::retired).
    pub held: Window,
}

impl Bounds {
    /// Whether the window is closed: its end has passed, so no record of it is expected any more.
    pub fn closed(&self, window: Window) -> bool {
        window < self.open
    }

    /// Whether the window is settled: no record can change it any more.
    pub fn settled(&self, window: Window) -> bool {
        window < self.unsettled
    }

    /// Whether the window leaves memory in the tick after the one with these bounds, or has left.
    pub fn retired(&self, window: Window) -> bool {
        window < self.held
    }

    /// The bounds of windows whose state follows from either.
    pub(crate) fn max(self, other: Bounds) -> Bounds {
        Bounds {
            open: self.open.max(other.open),
            unsettled: self.unsettled.max(other.unsettled),
            held: self.held.max(other.held),
        }
    }
}

/// The windows that start at or after one moment and before another.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct WindowRange {
    /// The first window.
    pub from: Window,
    /// The first window that is not in the range any more.
    pub until: Window,
}

impl WindowRange {
    /// Every window: none starts as late as its end.
    pub const ALL: WindowRange = WindowRange { from: Window(0), until: Window(u64::MAX) };

    /// Whether no window is in the range.
    pub fn is_empty(&self) -> bool {
        self.from >= self.until
    }

    /// Whether a window is in the range.
    pub fn contains(&self, window: Window) -> bool {
        self.from <= window && window < self.until
    }

    /// The windows from the first to the last that is in one of several ranges.
    pub(crate) fn hull(ranges: impl Iterator<Item = WindowRange>) -> WindowRange {
        let hull = ranges.reduce(|one, other| WindowRange {
            from: one.from.min(other.from),
            until: one.until.max(other.until),
        });
        hull.unwrap_or_default()
    }

    /// The windows that are in both.
    pub fn and(self, other: WindowRange) -> WindowRange {
        WindowRange { from: self.from.max(other.from), until: self.until.min(other.until) }
    }
}
