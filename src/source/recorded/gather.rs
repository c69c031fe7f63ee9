//! Gathers the records of one tick.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::{Pair, Volume};

use super::events::Tick;
use super::tally::{self, WithoutWindow};
use crate::source::Filter;

/// The rules by which records are cut into ticks.
#[derive(Clone, Debug)]
pub struct TickRules {
    /// The distance of ticks, in milliseconds.
    pub tick_ms: u64,
    /// The windows.
    pub windows: Windows,
    /// The pairs to count.
    pub filter: Filter,
    /// The number of workers of the computation.
    pub peers: usize,
}

/// The records of the tick that is being read.
pub(super) struct Gather {
    rules: TickRules,
    combiner: Combiner,
    /// The time from which on a record belongs to a later tick.
    end: u64,
    /// The event time of the record that was not taken, since it belongs to a later tick.
    later: u64,
    seen: BTreeSet<Window>,
    /// The last window put into `seen`, and its times.
    last_seen: Option<(Window, Range<u64>)>,
    without_window: WithoutWindow,
}

impl Gather {
    pub(super) fn new(rules: TickRules) -> Self {
        Gather {
            combiner: Combiner::new(rules.peers),
            rules,
            end: 0,
            later: 0,
            seen: BTreeSet::new(),
            last_seen: None,
            without_window: WithoutWindow::default(),
        }
    }

    /// Adds a record, or breaks if it belongs to a later tick: it is to be added again in that one.
    #[inline]
    pub(super) fn add(&mut self, time_ms: u64, pair: Pair, volume: Volume) -> ControlFlow<()> {
        // Nearly all records are of the window of the one before: comparing saves a division.
        let window = match self.last_seen {
            Some((window, ref times)) if times.contains(&time_ms) => window,
            _ => match self.rules.windows.of(time_ms) {
                Some(window) => window,
                None => {
                    self.count_without_window(volume);
                    return ControlFlow::Continue(());
                }
            },
        };
        if time_ms >= self.end {
            self.later = time_ms;
            return ControlFlow::Break(());
        }
        if self.last_seen.as_ref().is_none_or(|last| last.0 != window) {
            let start = window.0 * 1000;
            self.last_seen = Some((window, start..self.rules.windows.end_ms(window)));
            self.seen.insert(window);
        }
        if self.rules.filter.admits(&pair) {
            self.combiner.add(window, pair, volume);
        }
        ControlFlow::Continue(())
    }

    #[cold]
    fn count_without_window(&mut self, volume: Volume) {
        self.without_window.records += 1;
        tally::add(&mut self.without_window.volume, volume);
    }

    /// Returns the records in no window since the last call.
    pub(super) fn take_without_window(&mut self) -> WithoutWindow {
        std::mem::take(&mut self.without_window)
    }

    /// Returns the tick of the record that was not taken.
    pub(super) fn later_tick(&self) -> u64 {
        self.later - self.later % self.rules.tick_ms
    }

    /// Begins a tick.
    pub(super) fn begin(&mut self, tick: u64) {
        self.end = tick.saturating_add(self.rules.tick_ms);
    }

    /// Ends a tick. Until the next one begins, no record is taken.
    pub(super) fn end(&mut self, tick: u64) -> Tick {
        (self.end, self.last_seen) = (0, None);
        let (update_batches, seen) = (self.combiner.take(), std::mem::take(&mut self.seen));
        Tick { tick, update_batches, seen }
    }
}
