//! Time sources: they decide when ticks begin, and tell the computation how time passes.

use std::time::Duration;

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::time::{END_OF_INPUT, Window, Windows};

use super::commands::TickStart;
use super::status::Status;
use crate::base::error::Failure;
use crate::source::{Demand, TickRecords};

/// Time between the ticks after the end of the input, in milliseconds.
const END_STEP_MS: u64 = 1000;

/// The time that ticks wait for more to be read: too short to be seen, and with many workers each round costs.
const PATIENCE: Duration = Duration::from_millis(5);

/// The conditions that decide, beside time, whether the next tick begins.
#[derive(Clone, Copy, Debug)]
pub struct TickConditions {
    /// The tick that the records read so far need.
    pub demand: Demand,
    /// Whether edits of limits wait.
    pub has_edits: bool,
    /// Whether rows of limits wait that hold from the start: no record is judged before all are known.
    pub has_initial_rows: bool,
    /// The time until a tick may begin for queries; `None` if none wait.
    pub until_queries: Option<Duration>,
    /// Whether all sinks have capacity for another tick.
    pub sinks_have_capacity: bool,
    /// Whether the computation has capacity for a tick of any size.
    pub computation_has_capacity: bool,
    /// The number of ticks that began and are not closed.
    pub in_flight: usize,
    /// The newest tick that began.
    pub last_tick: u64,
    /// The next date that a row of limits waits for, in milliseconds.
    pub next_date: Option<u64>,
    /// Whether the run shuts down, by request or since something has failed.
    pub shuts_down: bool,
    /// Whether ticks have taken everything that the input held at the start, of an input that has such an end.
    pub has_read_input: bool,
}

impl TickConditions {
    /// Whether the computation and all sinks have capacity for a tick of any size.
    pub fn have_capacity(&self) -> bool {
        self.computation_has_capacity && self.sinks_have_capacity
    }
}

/// The decision of a time source.
#[derive(Debug)]
pub enum Decision {
    /// The next tick begins now.
    Begin(TickStart),
    /// No tick begins for this time, unless something happens before.
    Wait(Duration),
    /// No tick follows: time has come to its end.
    End,
    /// No tick follows: the run shuts down before time has come to its end.
    Stop,
}

/// The clock by which a run begins ticks.
pub trait TimeSource {
    /// Reads the clock, once for each turn of the leader.
    fn read(&mut self) {}

    /// Notes that another worker needs a tick.
    fn request_tick(&mut self) {}

    /// Continues an earlier run: no tick is the first one.
    fn resume(&mut self) {}

    /// Decides about the next tick.
    ///
    /// # Errors
    /// Time can't go on.
    fn decide(&mut self, conditions: &TickConditions) -> Result<Decision, Failure>;

    /// Notes the next tick, with the records of the leader's worker, and marks the progress of time in it.
    fn mark_time(
        &mut self,
        start: &TickStart,
        records: &TickRecords,
        mark: &mut dyn FnMut(SourceProgress),
    );

    /// Returns the window of a query that names none.
    fn current_window(&self, tick: u64, windows: &Windows) -> Option<Window>;

    /// Whether rows that take effect by the first tick are given ticks of their own before it. By the wall clock these
    /// ticks would be in the past; the leader spreads the rows over later ones.
    fn splits_initial_rows(&self) -> bool;

    /// Whether the ticks under way are still closed after a failure.
    fn drains_after_failure(&self) -> bool;

    /// Returns the time that ticks wait for others with which all workers can agree on them.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// Reports the state of the clock.
    fn report(&self, status: &Status) {
        let _ = status;
    }
}

/// The part of the input that event time has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Records come.
    Input,
    /// All records are read: rows take effect whose dates come by the end of the last window.
    Dates,
    /// The last window closes.
    Close,
    /// All windows settle.
    Settle,
    /// Windows retire, at a later tick than they settle.
    Retire,
    End,
}

/// Event time: the records of a replay make its ticks and move its watermark. When they end, every window closes and
/// settles.
#[derive(Debug)]
pub struct EventTime {
    windows: Windows,
    watermark: u64,
    last_window: Option<Window>,
    stage: Stage,
}

impl EventTime {
    /// Creates the clock of a replay by these rules of time.
    pub fn new(windows: Windows) -> Self {
        EventTime { windows, watermark: 0, last_window: None, stage: Stage::Input }
    }

    /// The next tick after the end of the input.
    fn next_after_end(&mut self, conditions: &TickConditions) -> Option<u64> {
        let end = self.windows.end_ms(self.last_window?);
        let last = conditions.last_tick;
        if self.stage == Stage::Dates {
            let due = conditions.next_date.filter(|date| *date <= end);
            if let Some(date) = due {
                return Some(date.max(last + 1));
            }
            self.stage = Stage::Close;
        }
        let retires = self.windows.retention_ms.is_some();
        let (tick, watermark, next) = match self.stage {
            Stage::Input | Stage::Dates | Stage::Close => (end.max(last + 1), end, Stage::Settle),
            Stage::Settle => (last + END_STEP_MS, END_OF_INPUT, Stage::Retire),
            Stage::Retire if retires => (last + END_STEP_MS, END_OF_INPUT, Stage::End),
            Stage::Retire | Stage::End => return None,
        };
        (self.watermark, self.stage) = (watermark, next);
        Some(tick)
    }
}

impl TimeSource for EventTime {
    fn decide(&mut self, conditions: &TickConditions) -> Result<Decision, Failure> {
        if self.stage == Stage::Input {
            match conditions.demand {
                Demand::Ended => self.stage = Stage::Dates,
                _ if conditions.shuts_down => {
                    self.stage = Stage::End;
                    return Ok(Decision::Stop);
                }
                Demand::TickAt(tick) if conditions.have_capacity() => {
                    return Ok(Decision::Begin(TickStart::of_records(tick)));
                }
                Demand::TickAt(_) | Demand::Tick | Demand::None => {
                    return Ok(Decision::Wait(Duration::MAX));
                }
            }
        }
        if conditions.in_flight > 0 {
            return Ok(Decision::Wait(Duration::MAX));
        }
        Ok(self.next_after_end(conditions).map_or(Decision::End, |tick| {
            Decision::Begin(TickStart { takes_records: false, ..TickStart::of_records(tick) })
        }))
    }

    fn mark_time(
        &mut self,
        _: &TickStart,
        records: &TickRecords,
        mark: &mut dyn FnMut(SourceProgress),
    ) {
        self.watermark = self.watermark.max(records.greatest.unwrap_or(0));
        self.last_window = self.last_window.max(records.seen.last().copied());
        mark(SourceProgress::Watermark(self.watermark));
    }

    fn current_window(&self, _: u64, _: &Windows) -> Option<Window> {
        self.last_window
    }

    fn splits_initial_rows(&self) -> bool {
        // Later ones may be rows of windows that exist.
        self.last_window.is_none()
    }

    fn drains_after_failure(&self) -> bool {
        false
    }

    fn patience(&self) -> Duration {
        if self.stage == Stage::Input { PATIENCE } else { Duration::ZERO }
    }
}
