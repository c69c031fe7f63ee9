//! Selects, from the changes of two sets of limits, those that show where the sets differ.
//!
//! The sets differ in a violation (limit name, window, entity) when it is active in one of them and not in the
//! other. Its changes are shown in each tick before or after which the sets differ. A change that was not shown
//! may come to matter: when a violation comes to be active in one set alone, its last change is shown then, as
//! it was published at its tick; and a violation that was shown is shown to be cleared, also where both sets
//! clear it at once.
//!
//! So a reader who folds the shown changes by `id` holds, after every tick, the last change of each violation
//! that is active in one set alone, and beside these only violations that are active in both sets, of which the
//! reader holds both.

use std::collections::{BTreeMap, HashMap, HashSet};

use floodmark_dataflows::time::{Window, WindowRange};
use floodmark_dataflows::types::{Change, Entity, Event, LimitId, VersionId};

use crate::limits::catalog::Catalog;

/// A change, and the tick at which it was made.
pub type Said = (u64, Change);

/// Selects the changes to show. It holds the active violations, until they are forgotten with their window.
#[derive(Debug, Default)]
pub struct Difference {
    standing: BTreeMap<Window, HashMap<(LimitId, Entity), Standing>>,
    /// All changes of the tick under way: sets are compared as they are before and after it.
    tick: Vec<Change>,
}

/// An active violation of one set.
#[derive(Debug, Default)]
struct Standing {
    /// Whether it was shown, so that readers who fold the shown changes hold it.
    shown: bool,
    /// The last change of it, unless that one was shown.
    unsaid: Option<Said>,
}

/// Changes to be shown.
#[derive(Debug)]
pub enum Shown<'a> {
    /// Changes of one tick.
    All(u64, &'a [Change]),
    /// The difference of two sets.
    Chosen(Vec<Said>),
}

impl Shown<'_> {
    /// Returns each change, and the tick at which it was made.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Change)> {
        let (tick, all, chosen): (u64, &[Change], &[Said]) = match self {
            Shown::All(tick, all) => (*tick, all, &[]),
            Shown::Chosen(chosen) => (0, &[], chosen),
        };
        let chosen = chosen.iter().map(|(tick, change)| (*tick, change));
        all.iter().map(move |change| (tick, change)).chain(chosen)
    }

    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl Difference {
    /// Accepts changes of the tick under way.
    pub fn accept(&mut self, changes: impl IntoIterator<Item = Change>) {
        self.tick.extend(changes);
    }

    /// Returns the changes to show of a tick whose changes have all been accepted.
    pub fn end_tick(&mut self, tick: u64, retired: &[WindowRange], catalog: &Catalog) -> Vec<Said> {
        let changes = std::mem::take(&mut self.tick);
        let shown = self.show(tick, &changes, catalog);
        self.forget(retired);
        shown
    }

    /// Returns the changes to show of all changes of a tick, in the order in which they are shown.
    pub fn show(&mut self, tick: u64, changes: &[Change], catalog: &Catalog) -> Vec<Said> {
        let differed: Vec<bool> =
            changes.iter().map(|change| self.alone(change, catalog).is_some()).collect();
        let held: Vec<bool> = changes.iter().map(|change| self.take(tick, change)).collect();
        let mut shown = Vec::new();
        for ((change, differed), held) in changes.iter().zip(differed).zip(held) {
            let cleared = change.event == Event::Cleared && held;
            if differed || cleared || self.alone(change, catalog).is_some() {
                shown.push((tick, *change));
                if let Some(standing) = self.of(change, change.violation.limit) {
                    *standing = Standing { shown: true, unsaid: None };
                }
            }
        }
        // A change of one set may leave a violation of the other set alone.
        let mut caught_up = Vec::new();
        for change in changes {
            let alone = self.alone(change, catalog);
            if let Some(standing) = alone.and_then(|limit| self.of(change, limit)) {
                standing.shown = true;
                caught_up.extend(standing.unsaid.take());
            }
        }
        caught_up.sort_by_key(|(tick, _)| *tick);
        caught_up.append(&mut shown);
        caught_up
    }

    /// Returns the versions that changes name which may be shown later.
    pub fn versions(&self) -> HashSet<VersionId> {
        let standing = self.standing.values().flat_map(HashMap::values);
        let unsaid = standing.filter_map(|standing| standing.unsaid.as_ref());
        unsaid.filter_map(|(_, change)| change.version).collect()
    }

    /// Forgets windows that have left memory: there are no more changes of them.
    pub fn forget(&mut self, retired: &[WindowRange]) {
        let has_left = |window: &Window| retired.iter().any(|range| range.contains(*window));
        if !retired.is_empty() {
            self.standing.retain(|window, _| !has_left(window));
        }
    }

    /// Applies a change. Returns whether its violation was shown before.
    fn take(&mut self, tick: u64, change: &Change) -> bool {
        let violation = &change.violation;
        let window = self.standing.entry(violation.window).or_default();
        let key = (violation.limit, violation.entity);
        if change.event == Event::Cleared {
            return window.remove(&key).is_some_and(|standing| standing.shown);
        }
        let standing = window.entry(key).or_default();
        standing.unsaid = Some((tick, *change));
        standing.shown
    }

    /// Returns the limit of the active violation that a change is about, if it is active in one set only.
    fn alone(&self, change: &Change, catalog: &Catalog) -> Option<LimitId> {
        let violation = &change.violation;
        let window = self.standing.get(&violation.window)?;
        let stands =
            |limit: LimitId| window.contains_key(&(limit, violation.entity)).then_some(limit);
        stands(violation.limit).xor(catalog.counterpart(violation.limit).and_then(stands))
    }

    /// Returns the violation that a change is about, of this limit, which may be of either set.
    fn of(&mut self, change: &Change, limit: LimitId) -> Option<&mut Standing> {
        let violation = &change.violation;
        self.standing.get_mut(&violation.window)?.get_mut(&(limit, violation.entity))
    }
}

#[cfg(test)]
#[path = "difference_tests.rs"]
mod tests;
