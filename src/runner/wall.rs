//! The wall clock as a time source: ticks begin at an interval, and earlier when somebody needs one.

use std::time::{Duration, Instant};

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::time::{END_OF_INPUT, Window, Windows};

use super::clock::{Clock, Moment, Unsteady};
use super::commands::TickStart;
use super::status::Status;
use super::time::{Decision, TickConditions, TimeSource};
use crate::base::date::format_ms;
use crate::base::error::Failure;
use crate::kafka::Start;
use crate::source::{Demand, LeaderTime, TickRecords};

/// Maximum number of ticks in flight when another one begins. More would only make them older.
const TICKS_AHEAD: usize = 4;

/// Maximum number of ticks in flight when a tick for limit edits or queries begins, which does not wait for
/// records.
const EDITS_AHEAD: usize = 2 * TICKS_AHEAD;

/// Minimum spacing of ticks: the id of a tick is its millisecond, so that closer ones would outrun the clock.
const TICK_SPACING: Duration = Duration::from_millis(1);

/// Pause between two checks of a wall clock that is not set yet.
const UNSET_INTERVAL: Duration = Duration::from_millis(50);

/// The wall clock of a run.
pub struct WallTime {
    clock: Box<dyn Clock>,
    interval: Duration,
    /// The position in the topic at which reading starts.
    start: Start,
    max_ahead_ms: u64,
    /// The last reading of the clock, and the reading that the newest tick had.
    moment: Moment,
    tick_moment: Moment,
    /// Event time at which observation starts anew, for the next tick to mark.
    observed_from: Option<u64>,
    /// When the next tick is due by the interval.
    next_due: Instant,
    /// When the newest tick began.
    last_began: Option<Instant>,
    /// Whether to begin the next tick early, since a worker needs it or the clock has stepped.
    is_urgent: bool,
    /// Whether the clock was read.
    is_read: bool,
    /// Whether the first tick is still to come.
    is_before_first: bool,
    /// Whether the last tick has begun.
    is_after_last: bool,
    /// Whether time ends when what the input held at the start is read.
    ends_with_input: bool,
    /// Whether the last tick settles all windows.
    settles_all: bool,
}

impl WallTime {
    /// Creates the clock of a run whose ticks begin at an interval. Reading starts at `start`; records further ahead of
    /// the clock than `max_ahead_ms` are rejected.
    pub fn new(clock: Box<dyn Clock>, interval: Duration, start: Start, max_ahead_ms: u64) -> Self {
        // The first reading counts when the workers have met: until then the clock may be set.
        let moment = Moment::steady(0, 0);
        WallTime {
            clock,
            interval,
            start,
            max_ahead_ms,
            moment,
            tick_moment: moment,
            observed_from: None,
            next_due: Instant::now(),
            last_began: None,
            is_urgent: false,
            is_read: false,
            is_before_first: true,
            is_after_last: false,
            ends_with_input: false,
            settles_all: false,
        }
    }

    /// Has time end, and all windows settle, when what the input held at the start is read.
    pub fn ending_with_input(self, ends_with_input: bool) -> Self {
        WallTime { ends_with_input, ..self }
    }

    /// Whether the wall clock is not set yet.
    fn is_unset(&self) -> bool {
        matches!(self.moment.unsteady, Some(Unsteady::Unset { .. }))
    }

    /// Returns the time until a tick may begin.
    fn until_tick(&self, conditions: &TickConditions) -> Duration {
        // A run that shuts down needs one more tick.
        if self.is_unset() && !conditions.shuts_down {
            return UNSET_INTERVAL;
        }
        let apart = self
            .last_began
            .map_or(Duration::ZERO, |began| TICK_SPACING.saturating_sub(began.elapsed()));
        if self.is_urgent || conditions.has_edits || conditions.shuts_down {
            return apart;
        }
        let next = self.next_due.saturating_duration_since(Instant::now());
        apart.max(conditions.until_queries.map_or(next, |queries| next.min(queries)))
    }

    fn begin(&mut self, conditions: &TickConditions, takes_records: bool) -> Decision {
        let Moment { now, horizon, undecided_until, .. } = self.moment;
        self.tick_moment = self.moment;
        self.last_began = Some(Instant::now());
        if takes_records {
            self.is_urgent = false;
            self.next_due = Instant::now() + self.interval;
        }
        let undecided = undecided_until > horizon.saturating_add(self.max_ahead_ms);
        let tick = now.max(conditions.last_tick + 1);
        let interval_ms = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX);
        Decision::Begin(TickStart {
            tick,
            // Records that are read until the next tick are of this one's time.
            time: LeaderTime { now, horizon: horizon.saturating_add(interval_ms), undecided },
            takes_records,
        })
    }
}

impl TimeSource for WallTime {
    /// Reads the clock. Workers hear at once of a step, since they know the time from ticks.
    fn read(&mut self) {
        let before = std::mem::replace(&mut self.moment, self.clock.read());
        if !std::mem::replace(&mut self.is_read, true) {
            return;
        }
        let kind =
            |moment: &Moment| moment.unsteady.map(|unsteady| std::mem::discriminant(&unsteady));
        self.is_urgent |= kind(&before) != kind(&self.moment);
        let was_forward = matches!(before.unsteady, Some(Unsteady::Forward { .. }));
        let now = self.moment.now;
        // Records of the time that was leapt over may have been refused, as of the future.
        if was_forward && now > before.now.saturating_add(self.max_ahead_ms) {
            self.observed_from = Some(now);
        }
    }

    fn resume(&mut self) {
        self.is_before_first = false;
    }

    fn request_tick(&mut self) {
        self.is_urgent = true;
    }

    fn decide(&mut self, conditions: &TickConditions) -> Result<Decision, Failure> {
        if self.is_after_last {
            return Ok(Decision::End);
        }
        self.is_urgent |= conditions.demand == Demand::Tick;
        let wait = self.until_tick(conditions);
        if !wait.is_zero() {
            return Ok(Decision::Wait(wait));
        }
        if conditions.shuts_down {
            // It takes the records that are read.
            self.is_after_last = true;
            return Ok(self.begin(conditions, true));
        }
        if !conditions.sinks_have_capacity {
            return Ok(Decision::Wait(Duration::ZERO));
        }
        if self.ends_with_input && conditions.has_read_input && !conditions.has_initial_rows {
            if conditions.in_flight > 0 {
                return Ok(Decision::Wait(wait));
            }
            (self.settles_all, self.is_after_last) = (true, true);
            return Ok(self.begin(conditions, false));
        }
        if self.last_began.is_some() && conditions.has_initial_rows {
            // No record is judged before all rows are known. Partitions are: they hold the watermark since the first
            // tick.
            let begins = conditions.in_flight == 0;
            return Ok(if begins { self.begin(conditions, false) } else { Decision::Wait(wait) });
        }
        let due = self.is_urgent || self.next_due <= Instant::now();
        let has_others = conditions.has_edits || conditions.until_queries.is_some();
        Ok(match next_tick(conditions.in_flight, due, has_others) {
            Some(takes_records) => self.begin(conditions, takes_records),
            None => Decision::Wait(wait),
        })
    }

    fn mark_time(
        &mut self,
        start: &TickStart,
        _: &TickRecords,
        mark: &mut dyn FnMut(SourceProgress),
    ) {
        if self.settles_all {
            mark(SourceProgress::Watermark(END_OF_INPUT));
            return;
        }
        let now = start.time.now;
        mark(SourceProgress::Now { now, silence: self.tick_moment.silence });
        if let Some(from) = self.observed_from.take() {
            let time = format_ms(from).to_string();
            tracing::warn!(time, "min limits judge no window that starts before this time");
            mark(SourceProgress::Begun(from));
        }
        if std::mem::take(&mut self.is_before_first) {
            match self.start {
                // Offsets are no option of a run: it has no state to go with them.
                Start::Earliest | Start::Committed | Start::Offset(_) => {}
                // All processes have started, and have determined their latest offsets.
                Start::Latest => mark(SourceProgress::Begun(now)),
                Start::At(time) => mark(SourceProgress::Begun(time)),
            }
        }
    }

    fn current_window(&self, tick: u64, windows: &Windows) -> Option<Window> {
        windows.of(tick)
    }

    fn splits_initial_rows(&self) -> bool {
        false
    }

    fn drains_after_failure(&self) -> bool {
        true
    }

    fn report(&self, status: &Status) {
        status.clock(self.moment.unsteady);
    }
}

/// Returns whether the next tick takes records; `None` if no tick begins while so many are in flight. `due`: a tick is
/// due for records; `has_others`: edits of limits or queries wait.
fn next_tick(in_flight: usize, due: bool, has_others: bool) -> Option<bool> {
    let with_records = due && in_flight < TICKS_AHEAD;
    (with_records || has_others && in_flight < EDITS_AHEAD).then_some(with_records)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is closed, and each tick that may begin does.
    #[test]
    fn ticks_in_flight_are_bounded_and_those_for_edits_by_more() {
        let begin = |due, has_others| {
            let ticks = (0..).map_while(|in_flight| next_tick(in_flight, due, has_others));
            let (records, edits): (Vec<_>, Vec<_>) = ticks.partition(|records| *records);
            (records.len(), edits.len())
        };
        assert_eq!(begin(false, false), (0, 0));
        assert_eq!(begin(true, false), (TICKS_AHEAD, 0));
        assert_eq!(begin(false, true), (0, EDITS_AHEAD));
        assert_eq!(begin(true, true), (TICKS_AHEAD, EDITS_AHEAD - TICKS_AHEAD));
    }
}
