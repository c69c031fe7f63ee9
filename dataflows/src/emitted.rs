//! The updates that tables emit at one time.

use std::collections::BTreeSet;

use crate::emit::Emit;
use crate::key::Key;
use crate::monitored::{MonitoredScope, Rollup, Total};
use crate::pending::{EMIT_COST, Fuel};
use crate::table::Table;
use crate::time::{Phase, Time, Timed, Window};

pub(crate) type TotalUpdate = ((MonitoredScope, (Window, Total)), Time, isize);

/// A total with which violations may end. If records moved the total toward its emit bound, the total after all
/// records of the time; if limits change that judge it above a roof, the total before the records of the tick.
pub(crate) type Ending = ((MonitoredScope, Window), Total);

/// The updates that tables emitted at one time.
#[derive(Default)]
pub(crate) struct Emitted {
    pub(crate) totals: Vec<TotalUpdate>,
    /// Totals that moved toward their emit bound, to be looked up when all records of the time are counted.
    receded: BTreeSet<(Window, Option<Rollup>, MonitoredScope, Key)>,
    pub(crate) endings: Vec<Timed<Ending>>,
}

impl Emitted {
    pub(crate) fn len(&self) -> usize {
        self.totals.len()
    }

    /// Returns the receiver for the updates of one table; `None` is the table of pairs.
    pub(crate) fn of(
        &mut self,
        time: Time,
        window: Window,
        rollup: Option<Rollup>,
    ) -> EmittedOf<'_> {
        EmittedOf { emitted: self, time, window, rollup }
    }

    /// Looks up the totals that have receded in this time, whose records are all counted. Returns `true` when all
    /// are looked up, `false` when the fuel is spent.
    pub(crate) fn look_up_receded<'t>(
        &mut self,
        time: Time,
        fuel: &mut Fuel,
        table: impl Fn(Window, Option<Rollup>) -> Option<&'t Table>,
    ) -> bool {
        while !fuel.is_spent() {
            let Some((window, rollup, monitored, key)) = self.receded.pop_first() else {
                return true;
            };
            let volume = table(window, rollup).and_then(|table| table.get(key)).unwrap_or_default();
            self.endings.push((((monitored, window), monitored.total(key, volume)), time));
            fuel.spend(EMIT_COST);
        }
        false
    }
}

pub(crate) struct EmittedOf<'a> {
    emitted: &'a mut Emitted,
    time: Time,
    window: Window,
    rollup: Option<Rollup>,
}

impl Emit for EmittedOf<'_> {
    fn tick(&self) -> u64 {
        self.time.tick
    }

    fn emit(&mut self, monitored: MonitoredScope, total: Total, diff: isize) {
        self.emitted.totals.push(((monitored, (self.window, total)), self.time, diff));
    }

    fn receded(&mut self, monitored: MonitoredScope, key: Key) {
        self.emitted.receded.insert((self.window, self.rollup, monitored, key));
    }

    fn renewed(&mut self, monitored: MonitoredScope, total: Total) {
        // Windows that close, settle or retire publish no end of a violation, so none needs a volume.
        if self.time.phase < Phase::Data {
            self.emitted.endings.push((((monitored, self.window), total), self.time));
        }
    }
}
