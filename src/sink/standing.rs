//! The violations that stand, for outputs that the run before did not have.

use std::collections::{BTreeMap, HashSet};

use floodmark_dataflows::time::{Window, WindowRange};
use floodmark_dataflows::types::{Change, Entity, Event, LimitId, VersionId};

use crate::output::difference::PublishedChanges;

/// The last change of each violation that stands, in windows that have not retired.
#[derive(Debug, Default)]
pub(super) struct Standing(BTreeMap<Window, BTreeMap<(LimitId, Entity), Change>>);

impl Standing {
    /// Applies changes that other outputs have had.
    pub(super) fn apply(&mut self, changes: &PublishedChanges<'_>) {
        for (_, change) in changes.iter() {
            let violation = &change.violation;
            let of_window = self.0.entry(violation.window).or_default();
            let id = (violation.limit, violation.entity);
            match change.event {
                Event::Raised | Event::Updated => drop(of_window.insert(id, *change)),
                Event::Cleared => drop(of_window.remove(&id)),
            }
        }
    }

    /// Forgets windows that have retired.
    pub(super) fn forget(&mut self, retired: &[WindowRange]) {
        for windows in retired {
            let mut later = self.0.split_off(&windows.from);
            self.0.append(&mut later.split_off(&windows.until));
        }
    }

    /// Returns the versions that the changes name.
    pub(super) fn versions(&self) -> HashSet<VersionId> {
        let changes = self.0.values().flat_map(BTreeMap::values);
        changes.filter_map(|change| change.version).collect()
    }

    /// Returns the changes that raise these violations, in the order of a tick.
    pub(super) fn into_raised(self) -> Vec<Change> {
        let changes = self.0.into_values().flat_map(BTreeMap::into_values);
        changes.map(|change| Change { event: Event::Raised, ..change }).collect()
    }
}
