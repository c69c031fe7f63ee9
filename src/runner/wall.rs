//! The wall clock as a time source: ticks begin at an interval, and earlier when somebody needs one.

use std::time::{Duration, Instant};

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::time::{Window, Windows};

use super::clock::{Clock, Moment, Unsteady};
use super::commands::TickStart;
use super::status::Status;
use super::time::{Next, Prospect, TimeSource};
use crate::base::date::format_ms;
use crate::base::error::Failure;
use crate::kafka::Start;
use crate::source::{Demand, LeaderTime, TickRecords};

/// Maximum number of ticks in flight when another one begins. More would only make them older.
const TICKS_AHEAD: usize = 4;

/// Maximum number of ticks in flight when a tick for limit edits or requests begins, which does not wait for
/// records.
const EDITS_AHEAD: usize = 2 * TICKS_AHEAD;

/// Minimum spacing of ticks: the id of a tick is its millisecond, so that closer ones would outrun the clock.
const APART: Duration = Duration::from_millis(1);

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
    /// Time at which observation begins anew, for the next tick to mark.
    begun: Option<u64>,
    /// The next tick that is due by the interval.
    next: Instant,
    /// When the newest tick began.
    began: Option<Instant>,
    /// Whether to begin the next tick early, since a worker requests it or the clock has stepped.
    wanted: bool,
    /// Whether the clock was read.
    is_read: bool,
    /// Whether the first tick is still to come, and whether the last one has begun.
    first: bool,
    last: bool,
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
            begun: None,
            next: Instant::now(),
            began: None,
            wanted: false,
            is_read: false,
            first: true,
            last: false,
        }
    }

    /// Whether the wall clock is not set yet.
    fn is_unset(&self) -> bool {
        matches!(self.moment.unsteady, Some(Unsteady::Unset { .. }))
    }

    /// Returns the time until a tick may begin.
    fn until_tick(&self, prospect: &Prospect) -> Duration {
        // A run that shuts down needs one more tick.
        if self.is_unset() && !prospect.shuts_down {
            return UNSET_INTERVAL;
        }
        let apart =
            self.began.map_or(Duration::ZERO, |began| APART.saturating_sub(began.elapsed()));
        if self.wanted || prospect.has_edits || prospect.shuts_down {
            return apart;
        }
        let next = self.next.saturating_duration_since(Instant::now());
        apart.max(prospect.until_requests.map_or(next, |requests| next.min(requests)))
    }

    fn begin(&mut self, prospect: &Prospect, takes_records: bool) -> Next {
        let Moment { now, horizon, undecided_until, .. } = self.moment;
        self.tick_moment = self.moment;
        self.began = Some(Instant::now());
        if takes_records {
            self.wanted = false;
            self.next = Instant::now() + self.interval;
        }
        let undecided = undecided_until > horizon.saturating_add(self.max_ahead_ms);
        let tick = now.max(prospect.last_tick + 1);
        Next::Begin(TickStart { tick, time: LeaderTime { now, horizon, undecided }, takes_records })
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
        self.wanted |= kind(&before) != kind(&self.moment);
        let was_forward = matches!(before.unsteady, Some(Unsteady::Forward { .. }));
        let now = self.moment.now;
        // Records of the time that was leapt over may have been refused, as of the future.
        if was_forward && now > before.now.saturating_add(self.max_ahead_ms) {
            self.begun = Some(now);
        }
    }

    fn request_tick(&mut self) {
        self.wanted = true;
    }

    fn next(&mut self, prospect: &Prospect) -> Result<Next, Failure> {
        if self.last {
            return Ok(Next::End);
        }
        self.wanted |= prospect.demand == Demand::Tick;
        let wait = self.until_tick(prospect);
        if !wait.is_zero() {
            return Ok(Next::Wait(wait));
        }
        if prospect.shuts_down {
            // It takes the records that are read.
            self.last = true;
            return Ok(self.begin(prospect, true));
        }
        if !prospect.sinks_have_capacity {
            return Ok(Next::Wait(Duration::ZERO));
        }
        let ahead = prospect.in_flight;
        if self.began.is_some() && prospect.has_first_rows {
            // No record is judged before all rows are known. Partitions are: they hold the watermark since the first
            // tick.
            let begins = ahead == 0;
            return Ok(if begins { self.begin(prospect, false) } else { Next::Wait(wait) });
        }
        let due = self.wanted || self.next <= Instant::now();
        let asked = prospect.has_edits || prospect.until_requests.is_some();
        Ok(match next_tick(ahead, due, asked) {
            Some(takes_records) => self.begin(prospect, takes_records),
            None => Next::Wait(wait),
        })
    }

    fn pass(&mut self, start: &TickStart, _: &TickRecords, mark: &mut dyn FnMut(SourceProgress)) {
        let now = start.time.now;
        mark(SourceProgress::Now { now, silence: self.tick_moment.silence });
        if let Some(begun) = self.begun.take() {
            let time = format_ms(begun).to_string();
            tracing::warn!(time, "min limits judge no window that starts before this time");
            mark(SourceProgress::Begun(begun));
        }
        if std::mem::take(&mut self.first) {
            match self.start {
                // Offsets that were committed are no option of a run: it has no state to go with them.
                Start::Earliest | Start::Committed => {}
                // All processes have started, and have determined their latest offsets.
                Start::Latest => mark(SourceProgress::Begun(now)),
                Start::At(time) => mark(SourceProgress::Begun(time)),
            }
        }
    }

    fn current_window(&self, tick: u64, windows: &Windows) -> Option<Window> {
        windows.of(tick)
    }

    fn spreads_first_rows(&self) -> bool {
        false
    }

    fn drains_after_failure(&self) -> bool {
        true
    }

    fn report(&self, status: &Status) {
        status.clock(self.moment.unsteady);
    }
}

/// Whether a tick begins while so many are in flight, and if one does, whether it takes records. `due`: one is due for
/// records; `asked`: there are edits of limits, or requests.
fn next_tick(ahead: usize, due: bool, asked: bool) -> Option<bool> {
    let with_records = due && ahead < TICKS_AHEAD;
    (with_records || asked && ahead < EDITS_AHEAD).then_some(with_records)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is closed, and each tick that may begin does.
    #[test]
    fn ticks_on_their_way_are_bounded_and_those_for_edits_by_more() {
        let begin = |due, asked| {
            let ticks = (0..).map_while(|ahead| next_tick(ahead, due, asked));
            let (records, edits): (Vec<_>, Vec<_>) = ticks.partition(|records| *records);
            (records.len(), edits.len())
        };
        assert_eq!(begin(false, false), (0, 0));
        assert_eq!(begin(true, false), (TICKS_AHEAD, 0));
        assert_eq!(begin(false, true), (0, EDITS_AHEAD));
        assert_eq!(begin(true, true), (TICKS_AHEAD, EDITS_AHEAD - TICKS_AHEAD));
    }
}
