//! The totals that the records of a tick took from a value beyond a cut: if that was a violation, the new
//! total is published with its end.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::addresses::Key;
use crate::gauge::{Gauge, Total};
use crate::orders::TotalUpdate;
use crate::stash::{Budget, PUT_COST};
use crate::time::{Phase, Window};

/// A total of one gauge.
type Of = (Gauge, Window, Key);

/// Totals that moved within one tick.
#[derive(Default)]
pub(super) struct Records {
    /// Totals that are still beyond the cut, in the order in which they moved.
    moved: Vec<((Gauge, Window), Total)>,
    /// Totals that fell to within the cut, as they are at the end of the tick.
    pub(super) fallen: Vec<((Gauge, Window), Total)>,
    /// Made when the first total is looked up: most ticks end no violation.
    index: HashMap<Of, Total, RandomState>,
    indexed: usize,
}

impl Records {
    /// Keeps the totals that moved at one time: a table retracts such a total, and emits it anew right behind
    /// that.
    pub(super) fn keep(&mut self, updates: &[TotalUpdate]) {
        for pair in updates.windows(2) {
            let [((from, old), _, -1), ((at, new), time, 1)] = pair else { continue };
            if time.phase == Phase::Data && from == at && old.key == new.key {
                self.moved.push((*at, *new));
            }
        }
    }

    /// Makes the index. `true` when it is made.
    pub(super) fn index(&mut self, budget: &mut Budget) -> bool {
        let Records { moved, fallen, index, indexed } = self;
        // A later total replaces an earlier one; that of the end of the tick replaces all.
        for ((gauge, window), total) in moved.iter().chain(fallen.iter()).skip(*indexed) {
            index.insert((*gauge, *window, total.key), *total);
            *indexed += 1;
            budget.spend(PUT_COST);
            if budget.is_spent() {
                break;
            }
        }
        *indexed == moved.len() + fallen.len()
    }

    /// The total at the end of the tick, if it moved.
    pub(super) fn find(&self, gauge: Gauge, window: Window, key: Key) -> Option<Total> {
        self.index.get(&(gauge, window, key)).copied()
    }
}
