//! The outputs of ticks, as the runner consumes them.

use std::collections::BTreeMap;

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::reads::{Chunk, RequestId};
use floodmark_dataflows::reports::{Late, Saturated};
use floodmark_dataflows::spans::Existing;
use floodmark_dataflows::time::{Bounds, Window, WindowRange};
use floodmark_dataflows::top::Ranked;
use floodmark_dataflows::types::{Change, Pair, Volume};

use crate::kafka::OwnedMessage;

/// Output of a tick.
pub enum Output {
    /// Some of the changes, in their order. None follows `Closed` of their tick.
    Changes(Vec<Change>),
    /// A chunk of the response to a request. None follows `Closed` of the request's tick.
    Response(RequestId, Chunk),
    /// Everything else: the tick is closed.
    Closed(TickOutputs),
}

/// The outputs of a tick, beside changes.
#[derive(Default)]
pub struct TickOutputs {
    /// The rankings of the windows that settled.
    pub top: Vec<Ranked>,
    /// Totals of windows that settled or retired, or that were read for a sink.
    pub rows: BTreeMap<Window, Vec<(Pair, Volume)>>,
    /// The numbers of live entries, if they were read at this tick.
    pub held: Option<EntryCounts>,
    /// Records that came after their window had closed.
    pub late: Late,
    /// Totals that have reached the end of 64 bits.
    pub saturated: Vec<Saturated>,
    /// The marks of the tick: what it depends on beside records and rows of limits.
    pub marks: Vec<SourceProgress>,
    /// The state of the clock, if a mark asked for it.
    pub clock_state: Option<Vec<SourceProgress>>,
    /// Messages that can't be counted, in a computation that has them.
    pub dead_letters: Vec<OwnedMessage>,
    /// Windows that have retired: no more outputs follow about them.
    pub retired: Vec<WindowRange>,
}

/// The watermark and the windows at the end of a tick, as the first worker knows them.
#[derive(Clone, Debug, Default)]
pub struct WindowStates {
    /// The watermark.
    pub watermark: u64,
    /// The bounds between windows in different states.
    pub bounds: Bounds,
    /// The start of the first window that is whole, in milliseconds; `None` while it is unknown.
    pub whole_from: Option<u64>,
    /// Ranges of existing windows in the same state, by the first window.
    windows: BTreeMap<Window, Existing>,
}

impl WindowStates {
    /// Returns the state of a window; `None` if it does not exist yet, or no longer.
    pub fn existing(&self, window: Window) -> Option<Existing> {
        let (_, existing) = self.windows.range(..=window).next_back()?;
        existing.windows.contains(window).then_some(*existing)
    }

    pub(super) fn apply(&mut self, passed: WindowChanges) {
        if let Some((watermark, whole_from)) = passed.moved {
            (self.watermark, self.whole_from) = (watermark, whole_from);
        }
        self.bounds = passed.bounds.unwrap_or(self.bounds);
        // A window that changes is removed in its old state and added in its new one.
        for (existing, _) in passed.windows.iter().filter(|(_, diff)| **diff < 0) {
            self.windows.remove(&existing.windows.from);
        }
        for (existing, _) in passed.windows.iter().filter(|(_, diff)| **diff > 0) {
            self.windows.insert(existing.windows.from, *existing);
        }
    }
}

/// The changes of the watermark and of windows at one tick.
#[derive(Default)]
pub(super) struct WindowChanges {
    /// The watermark, and the start of the first whole window.
    pub(super) moved: Option<(u64, Option<u64>)>,
    /// The bounds between windows in different states, if they have moved.
    pub(super) bounds: Option<Bounds>,
    pub(super) windows: BTreeMap<Existing, isize>,
}

/// The totals and addresses that all workers hold in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// Totals of pairs.
    pub pairs: u64,
    /// Totals of rollups.
    pub rollups: u64,
    /// IPv6 addresses that they use.
    pub addresses: u64,
}

/// The progress of event time, as every worker knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventTimeReached {
    /// The watermark.
    pub watermark: u64,
    /// The event time of the slowest partition that has something to read.
    pub slowest: u64,
    /// The partition that holds the watermark, if one does.
    pub held_by: Option<u32>,
    /// The slowest partition, if one is.
    pub slowest_in: Option<u32>,
    /// The greatest event time that a partition has reached, or the clock where one waits with more to read.
    pub front: u64,
    /// Windows that exist and are not closed.
    pub open_windows: u64,
}

impl TickOutputs {
    /// Adds totals that were emitted, or a chunk of a response that is an output of its tick.
    pub fn add(&mut self, chunk: Chunk) {
        match chunk {
            Chunk::Rows { window, rows } => self.rows.entry(window).or_default().extend(rows),
            Chunk::Held { pairs, rollups, addresses } => {
                let held = self.held.get_or_insert_default();
                held.pairs += pairs;
                held.rollups += rollups;
                held.addresses += addresses;
            }
            // Only the request for an amount uses it.
            Chunk::Amount { .. } => {}
        }
    }
}
