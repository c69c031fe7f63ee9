//! Selects, from the changes of two sets of limits, those that show where the sets differ.
//!
//! The sets differ in a violation (limit name, window, entity) when it is active in one of them and not in the
//! other. Its changes are shown in each tick before or after which the sets differ. A change that was not shown
//! is deferred: when its violation becomes active in one set alone, the change is shown, with the tick at which
//! it was made. A violation that was shown is also shown to be cleared, even if both sets clear it at once.
//!
//! So a reader who folds the shown changes by `id` has, after every tick, the last change of each violation
//! that is active in one set alone. Any other violation in the result is active in both sets, and the result has
//! it for both.

use std::collections::{BTreeMap, HashMap, HashSet};

use floodmark_dataflows::time::{Window, WindowRange};
use floodmark_dataflows::types::{Change, Entity, Event, LimitId, VersionId};

use crate::limits::catalog::Catalog;

/// A change, and the tick at which it was made.
pub type TickChange = (u64, Change);

/// Selects the changes to show. Keeps the active violations until their windows retire.
#[derive(Debug, Default)]
pub struct Difference {
    active: BTreeMap<Window, HashMap<(LimitId, Entity), ActiveViolation>>,
    /// All changes of the current tick: the sets are compared before and after it.
    tick: Vec<Change>,
}

/// An active violation of one set.
#[derive(Debug, Default)]
struct ActiveViolation {
    /// Whether it was shown, so that readers who fold the shown changes hold it.
    shown: bool,
    /// Its last change, unless that one was shown.
    deferred: Option<TickChange>,
}

/// Changes for a sink.
#[derive(Debug)]
pub enum PublishedChanges<'a> {
    /// All changes of one tick, or some of them.
    OfTick(u64, &'a [Change]),
    /// The changes that show the difference of two sets, of several ticks.
    Difference(Vec<TickChange>),
}

impl PublishedChanges<'_> {
    /// Returns each change, and the tick at which it was made.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Change)> {
        let (tick, all, selected): (u64, &[Change], &[TickChange]) = match self {
            PublishedChanges::OfTick(tick, all) => (*tick, all, &[]),
            PublishedChanges::Difference(selected) => (0, &[], selected),
        };
        let selected = selected.iter().map(|(tick, change)| (*tick, change));
        all.iter().map(move |change| (tick, change)).chain(selected)
    }

    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl Difference {
    /// Accepts changes of the current tick.
    pub fn accept(&mut self, changes: impl IntoIterator<Item = Change>) {
        self.tick.extend(changes);
    }

    /// Returns the changes to show of a tick whose changes have all been accepted.
    pub fn end_tick(
        &mut self,
        tick: u64,
        retired: &[WindowRange],
        catalog: &Catalog,
    ) -> Vec<TickChange> {
        let changes = std::mem::take(&mut self.tick);
        let shown = self.select(tick, &changes, catalog);
        self.forget(retired);
        shown
    }

    /// Selects the changes to show from all changes of a tick. Deferred changes come first, then those of the tick.
    pub fn select(&mut self, tick: u64, changes: &[Change], catalog: &Catalog) -> Vec<TickChange> {
        let differed: Vec<bool> =
            changes.iter().map(|change| self.active_alone(change, catalog).is_some()).collect();
        let was_shown: Vec<bool> = changes.iter().map(|change| self.apply(tick, change)).collect();
        let mut shown = Vec::new();
        for ((change, differed), was_shown) in changes.iter().zip(differed).zip(was_shown) {
            let cleared = change.event == Event::Cleared && was_shown;
            if differed || cleared || self.active_alone(change, catalog).is_some() {
                shown.push((tick, *change));
                if let Some(active) = self.active_mut(change, change.violation.limit) {
                    *active = ActiveViolation { shown: true, deferred: None };
                }
            }
        }
        // A change in one set may leave the violation active in the other set alone.
        let mut deferred = Vec::new();
        for change in changes {
            let alone = self.active_alone(change, catalog);
            if let Some(active) = alone.and_then(|limit| self.active_mut(change, limit)) {
                active.shown = true;
                deferred.extend(active.deferred.take());
            }
        }
        deferred.sort_by_key(|(tick, _)| *tick);
        deferred.append(&mut shown);
        deferred
    }

    /// Returns the versions that deferred changes name.
    pub fn versions(&self) -> HashSet<VersionId> {
        let active = self.active.values().flat_map(HashMap::values);
        let deferred = active.filter_map(|active| active.deferred.as_ref());
        deferred.filter_map(|(_, change)| change.version).collect()
    }

    /// Forgets windows that have retired: there are no more changes in them.
    pub fn forget(&mut self, retired: &[WindowRange]) {
        let is_retired = |window: &Window| retired.iter().any(|range| range.contains(*window));
        if !retired.is_empty() {
            self.active.retain(|window, _| !is_retired(window));
        }
    }

    /// Applies a change. Returns whether its violation was shown before.
    fn apply(&mut self, tick: u64, change: &Change) -> bool {
        let violation = &change.violation;
        let window = self.active.entry(violation.window).or_default();
        let key = (violation.limit, violation.entity);
        if change.event == Event::Cleared {
            return window.remove(&key).is_some_and(|active| active.shown);
        }
        let active = window.entry(key).or_default();
        active.deferred = Some((tick, *change));
        active.shown
    }

    /// Returns the limit of the active violation that a change is about, if it is active in one set only.
    fn active_alone(&self, change: &Change, catalog: &Catalog) -> Option<LimitId> {
        let violation = &change.violation;
        let window = self.active.get(&violation.window)?;
        let active =
            |limit: LimitId| window.contains_key(&(limit, violation.entity)).then_some(limit);
        active(violation.limit).xor(catalog.counterpart(violation.limit).and_then(active))
    }

    /// Returns the active violation that a change is about, of `limit`, which may be of either set.
    fn active_mut(&mut self, change: &Change, limit: LimitId) -> Option<&mut ActiveViolation> {
        let violation = &change.violation;
        self.active.get_mut(&violation.window)?.get_mut(&(limit, violation.entity))
    }
}

#[cfg(test)]
#[path = "difference_tests.rs"]
mod tests;
