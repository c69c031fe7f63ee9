//! The wall clock of a case, simulated.

use std::time::Duration;

use anyhow::anyhow;
use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::time::{Window, Windows};

use super::settings::WINDOWS_MAX;
use crate::base::date::format_ms;
use crate::base::error::{Exit, Failure};
use crate::runner::{Decision, TickConditions, TickStart, TimeSource};
use crate::source::{Demand, TickRecords};

/// A wall clock that advances to the next event of a case, with a tick at each moment before it at which time alone has
/// an effect: a window closes, settles or retires, or the date of a row comes. A run has a tick each second, but at the
/// others nothing happens.
pub(super) struct SimulatedTime {
    windows: Windows,
    tick_ms: u64,
    last_tick: Option<u64>,
    /// The tick of events to which time passes now.
    passing_to: Option<u64>,
    /// Number of windows that have passed between the ticks of events.
    passed: u64,
    last_window: Option<Window>,
}

impl SimulatedTime {
    /// Creates the clock of a case, by its rules of time and the interval of ticks.
    pub(super) fn new(windows: Windows, tick_ms: u64) -> Self {
        SimulatedTime {
            windows,
            tick_ms,
            last_tick: None,
            passing_to: None,
            passed: 0,
            last_window: None,
        }
    }

    /// Returns the tick that comes first on the way to a tick of events.
    fn pass_to(&mut self, to: u64, next_date: Option<u64>) -> Result<TickStart, Failure> {
        let Some(from) = self.last_tick else {
            return Ok(TickStart::of_records(to));
        };
        if self.passing_to.replace(to) != Some(to) {
            self.passed += (to - from) / (self.windows.width_secs * 1000);
        }
        if self.passed > WINDOWS_MAX {
            let error = anyhow!(
                "more than {WINDOWS_MAX} windows pass until {}; shorten the case, or use wider windows",
                format_ms(to)
            );
            return Err(Failure::new(Exit::BadData, error));
        }
        let date = next_date.filter(|date| *date > from);
        let next = self.next_event(from).into_iter().chain(date).min();
        Ok(match next.filter(|tick| *tick < to) {
            Some(tick) => TickStart { takes_records: false, ..TickStart::of_records(tick) },
            None => TickStart::of_records(to),
        })
    }

    /// Returns the next moment at which time alone closes, settles or retires a window.
    fn next_event(&self, from: u64) -> Option<u64> {
        let Windows { width_secs, lateness_ms, retention_ms, .. } = self.windows;
        let width = width_secs * 1000;
        let settles = lateness_ms;
        let retires =
            settles.zip(retention_ms).and_then(|(settles, held)| settles.checked_add(held));
        // A window retires in the tick after the one at which its retention has passed.
        let retired = retires.and_then(|retires| retires.checked_add(self.tick_ms));
        let after = [Some(0), settles, retires, retired].into_iter().flatten();
        after
            .filter_map(|after| match from.checked_sub(after) {
                Some(since) => (since / width + 1).checked_mul(width)?.checked_add(after),
                None => Some(after),
            })
            .min()
    }
}

impl TimeSource for SimulatedTime {
    fn decide(&mut self, conditions: &TickConditions) -> Result<Decision, Failure> {
        if conditions.shuts_down {
            return Ok(Decision::Stop);
        }
        match conditions.demand {
            Demand::TickAt(to) if conditions.have_capacity() => {
                let start = self.pass_to(to, conditions.next_date)?;
                self.last_tick = Some(start.tick);
                Ok(Decision::Begin(start))
            }
            Demand::Ended => Ok(Decision::End),
            Demand::TickAt(_) | Demand::Tick | Demand::None => Ok(Decision::Wait(Duration::MAX)),
        }
    }

    fn mark_time(
        &mut self,
        start: &TickStart,
        records: &TickRecords,
        mark: &mut dyn FnMut(SourceProgress),
    ) {
        self.last_window = self.last_window.max(records.seen.last().copied());
        mark(SourceProgress::Now { now: start.tick, silence: start.tick });
    }

    fn current_window(&self, tick: u64, windows: &Windows) -> Option<Window> {
        windows.of(tick)
    }

    fn splits_initial_rows(&self) -> bool {
        self.last_window.is_none()
    }

    fn drains_after_failure(&self) -> bool {
        false
    }
}
