//! Of what is said of two sets of limits, what tells in what they differ.
//!
//! They differ in a violation (limit name, window, entity) when it stands in one of the sets and not in
//! the other. Its changes are shown in each tick before or after which they differ. What was not shown
//! may come to matter: of a violation that comes to stand alone the last word is shown then, as it was
//! said; and one that was shown is shown to be cleared, also where both sets clear it at once.
//!
//! So whoever folds what is shown by `id` holds, after every tick, each violation that stands alone as it
//! was last said, and beside these only such that stand in both sets, of which it holds both.

use std::collections::{BTreeMap, HashMap, HashSet};

use floodmark_dataflows::time::{Window, WindowRange};
use floodmark_dataflows::types::{Change, Entity, Event, LimitId, VersionId};

use crate::limits::catalog::Catalog;

/// A change, and the tick at which it was said.
pub type Said = (u64, Change);

/// Chooses what is shown. It holds the violations that stand, until they are forgotten with their window.
#[derive(Debug, Default)]
pub struct Difference {
    standing: BTreeMap<Window, HashMap<(LimitId, Entity), Standing>>,
    /// All changes of the tick under way: sets are compared as they are before and after it.
    tick: Vec<Change>,
}

/// A violation of one set that stands.
#[derive(Debug, Default)]
struct Standing {
    /// Whether it was shown, so that those who fold what is shown hold it.
    shown: bool,
    /// The last word on it, unless that was shown.
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
    /// Each change, and the tick at which it was said.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Change)> {
        let (tick, all, chosen): (u64, &[Change], &[Said]) = match self {
            Shown::All(tick, all) => (*tick, all, &[]),
            Shown::Chosen(chosen) => (0, &[], chosen),
        };
        let chosen = chosen.iter().map(|(tick, change)| (*tick, change));
        all.iter().map(move |change| (tick, change)).chain(chosen)
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl Difference {
    /// Accepts changes of the tick under way.
    pub fn accept(&mut self, mut changes: Vec<Change>) {
        self.tick.append(&mut changes);
    }

    /// The differences to be shown of a tick whose changes have all been accepted.
    pub fn end_tick(&mut self, tick: u64, retired: &[WindowRange], catalog: &Catalog) -> Vec<Said> {
        let changes = std::mem::take(&mut self.tick);
        let shown = self.show(tick, &changes, catalog);
        self.forget(retired);
        shown
    }

    /// What is to be shown of all that was said at a tick, in the order in which it is to be.
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
        // What is said of one set may leave a violation of the other one alone.
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

    /// Windows have left memory: nothing more is said of them.
    pub fn forget(&mut self, retired: &[WindowRange]) {
        let has_left = |window: &Window| retired.iter().any(|range| range.contains(*window));
        if !retired.is_empty() {
            self.standing.retain(|window, _| !has_left(window));
        }
    }

    /// Takes a change. Returns whether what it is about was shown before.
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

    /// The limit of which the violation stands that a change is about, if it stands in one set only.
    fn alone(&self, change: &Change, catalog: &Catalog) -> Option<LimitId> {
        let violation = &change.violation;
        let window = self.standing.get(&violation.window)?;
        let stands =
            |limit: LimitId| window.contains_key(&(limit, violation.entity)).then_some(limit);
        stands(violation.limit).xor(catalog.counterpart(violation.limit).and_then(stands))
    }

    /// The violation that a change is about, of a limit of either set.
    fn of(&mut self, change: &Change, limit: LimitId) -> Option<&mut Standing> {
        let violation = &change.violation;
        self.standing.get_mut(&violation.window)?.get_mut(&(limit, violation.entity))
    }
}

#[cfg(test)]
#[path = "difference_tests.rs"]
mod tests;
