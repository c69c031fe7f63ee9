//! The violations that stand, for outputs that the run before did not have.

use std::collections::{BTreeMap, HashSet};

use floodmark_dataflows::spans::Existing;
use floodmark_dataflows::time::{Window, WindowRange};
use floodmark_dataflows::types::{Change, Entity, Event, LimitId, VersionId};

use crate::computation::WindowStates;
use crate::output::difference::PublishedChanges;

/// The violations that stand in a window.
#[derive(Debug, Default)]
struct OfWindow {
    /// The last change of each.
    changes: BTreeMap<(LimitId, Entity), Change>,
    /// Whether the window is partial and whether it is settled, as of the last tick: when totals of a state enter,
    /// neither is known yet.
    state: Option<(bool, bool)>,
}

/// The violations that stand, in windows that have not retired.
#[derive(Debug, Default)]
pub(super) struct Standing(BTreeMap<Window, OfWindow>);

impl Standing {
    /// Applies changes that other outputs have had.
    pub(super) fn apply(&mut self, changes: &PublishedChanges<'_>) {
        for (_, change) in changes.iter() {
            let violation = &change.violation;
            let of_window = &mut self.0.entry(violation.window).or_default().changes;
            let id = (violation.limit, violation.entity);
            match change.event {
                Event::Raised | Event::Updated => drop(of_window.insert(id, *change)),
                Event::Cleared => drop(of_window.remove(&id)),
            }
        }
    }

    /// Notes the states of windows at the end of a tick, and forgets those that have retired.
    pub(super) fn close(&mut self, windows: &WindowStates, retired: &[WindowRange]) {
        for (window, of_window) in &mut self.0 {
            let is_partial = |existing: Existing| !existing.whole;
            let state = windows.existing(*window).map(is_partial);
            of_window.state = state.map(|partial| (partial, windows.bounds.settled(*window)));
        }
        for windows in retired {
            let mut later = self.0.split_off(&windows.from);
            self.0.append(&mut later.split_off(&windows.until));
        }
    }

    /// Returns the versions that the changes name.
    pub(super) fn versions(&self) -> HashSet<VersionId> {
        let changes = self.0.values().flat_map(|of_window| of_window.changes.values());
        changes.filter_map(|change| change.version).collect()
    }

    /// Returns the changes that raise these violations, in the order of a tick.
    pub(super) fn into_raised(self) -> Vec<Change> {
        let of_windows = self.0.into_values().flat_map(|OfWindow { changes, state }| {
            changes.into_values().map(move |change| {
                let (partial, settled) = state.unwrap_or((change.partial, change.settled));
                Change { event: Event::Raised, partial, settled, ..change }
            })
        });
        of_windows.collect()
    }
}
