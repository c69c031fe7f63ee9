//! The volumes that are published with the ends of violations, one of each total that may end one.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::emitted::Ending;
use crate::key::Key;
use crate::monitored::{MonitoredScope, Total};
use crate::pending::{EMIT_COST, Fuel};
use crate::time::{Phase, Timed, Window};

/// The endings of one tick.
#[derive(Default)]
pub(super) struct Endings {
    /// For violations that records end: volumes at the end of the tick.
    by_records: Lookup,
    /// For violations that limits end: volumes before the records of the tick count. There is no ending of a total
    /// that was emitted with its exact volume.
    by_limits: Lookup,
}

impl Endings {
    pub(super) fn keep(&mut self, (ending, time): Timed<Ending>) {
        self.of(time.phase).endings.push(ending);
    }

    fn of(&mut self, phase: Phase) -> &mut Lookup {
        match phase {
            Phase::Rows | Phase::Dates => &mut self.by_limits,
            _ => &mut self.by_records,
        }
    }

    /// Builds the index by which to [find](Endings::find) the endings of a phase. `true` when it is built.
    pub(super) fn index(&mut self, phase: Phase, fuel: &mut Fuel) -> bool {
        self.of(phase).index(fuel)
    }

    /// The total with which a phase ended a violation, if there is an ending for it.
    pub(super) fn find(
        &mut self,
        phase: Phase,
        monitored: MonitoredScope,
        window: Window,
        key: Key,
    ) -> Option<Total> {
        self.of(phase).index.get(&(monitored, window, key)).copied()
    }
}

/// Endings, of which a later one replaces an earlier one.
#[derive(Default)]
struct Lookup {
    endings: Vec<Ending>,
    /// Made when the first one is looked up: most ticks end no violation.
    index: HashMap<(MonitoredScope, Window, Key), Total, RandomState>,
    indexed: usize,
}

impl Lookup {
    fn index(&mut self, fuel: &mut Fuel) -> bool {
        for ((monitored, window), total) in &self.endings[self.indexed..] {
            if fuel.is_spent() {
                return false;
            }
            self.index.insert((*monitored, *window, total.key), *total);
            self.indexed += 1;
            fuel.spend(EMIT_COST);
        }
        true
    }
}
