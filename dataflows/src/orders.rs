//! Control messages to the tables of all workers, beside traffic and limits, and the outputs of the tables.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::clock::WindowEvent;
use crate::emit::Emit;
use crate::key::Key;
use crate::monitored::{EmitBoundChange, MonitoredScope, Rollup, ScopeChange, Total};
use crate::pending::{EMIT_COST, Fuel};
use crate::ranges::Steps;
use crate::table::Table;
use crate::time::{Phase, Time, Timed, Window, WindowRange};
use crate::types::{Entity, Pair, Volume};

/// A request for state that is retained at the end of a tick, entered at its [`Phase::Read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Read {
    /// The totals of pairs in the windows that start within `from..until`.
    Rows {
        /// The first window.
        from: Window,
        /// The first window after these.
        until: Window,
    },
    /// The numbers of live entries.
    Held,
    /// The volume of an entity in a window.
    ///
    /// The sum of a rollup that is not in use there is computed for the response, by a walk of the window's pairs.
    Amount {
        /// The window.
        window: Window,
        /// The sum over pairs to read; `None`: the total of a pair.
        rollup: Option<Rollup>,
        /// The entity: a pair without a rollup, else one that the rollup is for.
        entity: Entity,
    },
}

/// The moment at which the operator of the pairs emits the totals of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitTotals {
    /// At the tick at which the window settles: no record changes the totals any more. Windows that are not whole
    /// are left out.
    OnSettle,
    /// At the tick at which the window retires: the totals leave memory.
    OnRetire,
}

/// A part of a response. The response is complete when the tick of its read is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Totals of pairs: for a read, or [emitted](EmitTotals) without one.
    Rows {
        /// The window.
        window: Window,
        /// In no order.
        rows: Vec<(Pair, Volume)>,
    },
    /// The numbers of live entries of a worker, in parts to be added.
    Held {
        /// Totals of pairs.
        pairs: u64,
        /// Totals of rollups.
        rollups: u64,
        /// IPv6 addresses that totals use, or that an operator downstream may still resolve.
        addresses: u64,
    },
    /// The volume of an entity, in parts to be added; there is no part if nothing of the entity is retained.
    Amount {
        /// The window.
        window: Window,
        /// The sum over pairs; `None`: the total of a pair.
        rollup: Option<Rollup>,
        /// The entity.
        entity: Entity,
        /// The volume of this part.
        volume: Volume,
    },
}

/// The volumes of entities in windows, by a sum over pairs or as a pair: the added parts of responses to
/// [`Read::Amount`]. A key that is absent has nothing retained.
pub type Amounts = BTreeMap<(Window, Option<Rollup>, Entity), Volume>;

/// Records that came after their window had closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// Records that came before their window had settled: they count, and revise published changes.
    pub counted: u64,
    /// Records that came after their window had settled: they are not counted.
    pub dropped: u64,
    /// The volume of the dropped records.
    pub dropped_volume: Volume,
}

/// A total that has reached the end of 64 bits ([`Volume::is_saturated`]). It stays there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Saturated {
    /// The window of the total.
    pub window: Window,
    /// The rollup of the total; `None` for the total of a pair.
    pub rollup: Option<Rollup>,
    /// The entity of the total.
    pub entity: Entity,
}

/// Control events for every worker, beside limits, in one stream, so that an operator has them in the order of
/// time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// A view needs a rollup of each window (+1), or no longer does (-1).
    View(Rollup, isize),
    WindowEvent(WindowEvent),
    Read(Read),
}

impl Order {
    /// Whether an operator depends on the order: some events are for display alone.
    pub(crate) fn concerns_windows(&self) -> bool {
        !matches!(self, Order::WindowEvent(event) if !event.concerns_windows())
    }
}

/// Rollups that limits and views need, with the windows in which they do.
#[derive(Default)]
pub(crate) struct InUse {
    /// The number of monitored scopes and views that need it, by window.
    users: BTreeMap<Rollup, Steps<u32>>,
}

/// A rollup comes into use in some windows, or out of it.
#[derive(Clone, Copy)]
pub(crate) enum Use {
    Begins(WindowRange, Rollup),
    Ends(WindowRange, Rollup),
}

impl InUse {
    /// Whether a limit or a view needs a rollup of a window.
    pub(crate) fn uses(&self, window: Window, rollup: Rollup) -> bool {
        self.users.get(&rollup).is_some_and(|users| users.at(window) > 0)
    }

    /// The windows in which a limit or a view needs a rollup, as ranges that do not touch.
    pub(crate) fn windows(&self, rollup: &Rollup) -> Vec<WindowRange> {
        let mut ranges = Vec::<WindowRange>::new();
        for (range, _) in self.users.get(rollup).into_iter().flat_map(Steps::ranges) {
            match ranges.last_mut() {
                Some(last) if last.until == range.from => last.until = range.until,
                _ => ranges.push(range),
            }
        }
        ranges
    }

    /// Applies the changes of emit bounds, and the orders, of a time, and returns the uses that begin and end.
    pub(crate) fn update(
        &mut self,
        monitored_scopes: &[ScopeChange],
        orders: &[Order],
    ) -> Vec<Use> {
        let of_bounds = monitored_scopes.iter().filter_map(|change| {
            let ScopeChange::EmitBound(EmitBoundChange { ref scope, windows, from, to, .. }) =
                *change
            else {
                return None;
            };
            let diff = i32::from(to.is_some()) - i32::from(from.is_some());
            Some((windows, Rollup::of(scope)?, diff))
        });
        let of_views = orders.iter().filter_map(|order| match order {
            Order::View(rollup, diff) => Some((WindowRange::ALL, *rollup, *diff as i32)),
            Order::WindowEvent(_) | Order::Read(_) => None,
        });
        let of_both = of_bounds.chain(of_views);
        let mut uses = Vec::new();
        // Beginnings are counted before ends, so that a rollup that goes from one user to another is
        // in use throughout.
        for sign in [1, -1] {
            for (windows, rollup, diff) in
                of_both.clone().filter(|(.., diff)| diff.signum() == sign)
            {
                self.count(windows, rollup, diff, &mut uses);
            }
        }
        uses
    }

    fn count(&mut self, windows: WindowRange, rollup: Rollup, diff: i32, uses: &mut Vec<Use>) {
        let users = self.users.entry(rollup).or_default();
        let add = |users: u32| users.saturating_add_signed(diff);
        users.update(windows, add, |piece, old, new| match (old, new) {
            (0, _) => uses.push(Use::Begins(piece, rollup)),
            (_, 0) => uses.push(Use::Ends(piece, rollup)),
            _ => {}
        });
        if users.is_default() {
            self.users.remove(&rollup);
        }
    }
}

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

    fn put(&mut self, monitored: MonitoredScope, total: Total, diff: isize) {
        self.emitted.totals.push(((monitored, (self.window, total)), self.time, diff));
    }

    fn recedes(&mut self, monitored: MonitoredScope, key: Key) {
        self.emitted.receded.insert((self.window, self.rollup, monitored, key));
    }

    fn renews(&mut self, monitored: MonitoredScope, total: Total) {
        // Windows that close, settle or retire publish no end of a violation, so none needs a volume.
        if self.time.phase < Phase::Data {
            self.emitted.endings.push((((monitored, self.window), total), self.time));
        }
    }
}
