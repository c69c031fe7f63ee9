//! The violations that stand, as they were published last, in the form of a collection.

use std::collections::BTreeMap;

use super::active::Id;
use crate::pending::{COPY_COST, Fuel};
use crate::time::{Phase, Time, Window, WindowRange};
use crate::types::{Change, Event, Violation};

/// An update of the collection.
pub(super) type ViolationUpdate = (Violation, Time, isize);

/// The collection.
#[derive(Default)]
pub(super) struct Published {
    windows: BTreeMap<Window, BTreeMap<Id, Violation>>,
}

impl Published {
    /// Applies a change that is published at a tick.
    pub(super) fn apply(
        &mut self,
        tick: u64,
        id: Id,
        change: &Change,
        updates: &mut Vec<ViolationUpdate>,
    ) {
        let violation = change.violation;
        let ids = self.windows.entry(violation.window).or_default();
        let before = match change.event {
            Event::Raised | Event::Updated => ids.insert(id, violation),
            Event::Cleared => ids.remove(&id),
        };
        let time = Time::new(tick, Phase::Read);
        updates.extend(before.map(|before| (before, time, -1)));
        if change.event != Event::Cleared {
            updates.push((violation, time, 1));
        } else if ids.is_empty() {
            self.windows.remove(&violation.window);
        }
    }

    /// Drops the violations of windows. `true` when all are.
    pub(super) fn retire(
        &mut self,
        tick: u64,
        windows: WindowRange,
        updates: &mut Vec<ViolationUpdate>,
        fuel: &mut Fuel,
    ) -> bool {
        while let Some((window, ids)) = self.windows.range_mut(windows.from..windows.until).next() {
            let window = *window;
            while let Some((_, violation)) = ids.pop_first() {
                updates.push((violation, Time::new(tick, Phase::Read), -1));
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
