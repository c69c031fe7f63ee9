//! The violations that stand, by window.

use std::collections::BTreeMap;

use crate::key::{Family, Key};
use crate::monitored::{MonitoredScope, Total};
use crate::pending::{COPY_COST, Fuel};
use crate::time::{Window, WindowRange};
use crate::types::{LimitId, Per, VersionId};

/// A violation within its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) limit: LimitId,
    pub(super) per: Per,
    family: Family,
    number: u64,
}

impl Id {
    pub(super) fn new(limit: LimitId, per: Per, key: Key) -> Self {
        Id { limit, per, family: key.family, number: key.id }
    }

    /// The least id of a limit.
    pub(super) fn first(limit: LimitId) -> Self {
        Id::new(limit, Per::Pair, Key::MIN)
    }

    pub(super) fn key(self) -> Key {
        Key { family: self.family, id: self.number }
    }
}

/// The state of a violation as it was published last, or would have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ActiveViolation {
    pub(super) monitored: MonitoredScope,
    amount: i64,
    other: i64,
    pub(super) version: VersionId,
}

impl ActiveViolation {
    pub(super) fn new(monitored: MonitoredScope, total: Total, version: VersionId) -> Self {
        ActiveViolation { monitored, amount: total.amount, other: total.other, version }
    }

    pub(super) fn total(&self, id: Id) -> Total {
        Total { amount: self.amount, key: id.key(), other: self.other }
    }
}

/// The violations that stand. There may be as many as there are totals.
#[derive(Default)]
pub(super) struct ActiveViolations {
    windows: BTreeMap<Window, BTreeMap<Id, ActiveViolation>>,
}

impl ActiveViolations {
    pub(super) fn get(&self, window: Window, id: Id) -> Option<ActiveViolation> {
        self.windows.get(&window)?.get(&id).copied()
    }

    pub(super) fn insert(&mut self, window: Window, id: Id, standing: ActiveViolation) {
        self.windows.entry(window).or_default().insert(id, standing);
    }

    pub(super) fn remove(&mut self, window: Window, id: Id) {
        if let Some(ids) = self.windows.get_mut(&window) {
            ids.remove(&id);
            if ids.is_empty() {
                self.windows.remove(&window);
            }
        }
    }

    /// The windows in a range that have violations.
    pub(super) fn windows(&self, windows: WindowRange) -> impl Iterator<Item = Window> {
        self.windows.range(windows.from..windows.until).map(|(window, _)| *window)
    }

    /// The violations of a window from an id on.
    pub(super) fn range_from(
        &self,
        window: Window,
        id: Id,
    ) -> impl Iterator<Item = (Id, ActiveViolation)> {
        let ids = self.windows.get(&window).into_iter().flat_map(move |ids| ids.range(id..));
        ids.map(|(id, standing)| (*id, *standing))
    }

    /// The windows in which a limit is violated.
    pub(super) fn violated(&self, limit: LimitId) -> Vec<Window> {
        let of_limit = |window: &Window| {
            self.range_from(*window, Id::first(limit))
                .next()
                .is_some_and(|(id, _)| id.limit == limit)
        };
        self.windows(WindowRange::ALL).filter(of_limit).collect()
    }

    /// Drops the violations of windows. `true` when all are.
    pub(super) fn retire(&mut self, windows: WindowRange, fuel: &mut Fuel) -> bool {
        while let Some((window, ids)) = self.windows.range_mut(windows.from..windows.until).next() {
            let window = *window;
            while ids.pop_first().is_some() {
                fuel.spend(COPY_COST);
                if fuel.is_spent() {
                    return false;
                }
            }
            self.windows.remove(&window);
        }
        true
    }
}
