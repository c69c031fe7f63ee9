//! What the tables of all workers are told, beside traffic.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::addresses::Key;
use crate::clock::Clock;
use crate::gauge::{CutChange, Gauge, PutOut, Rollup, Total};
use crate::table::Table;
use crate::time::{Time, Window};
use crate::types::{Entity, Pair, Volume};

/// A question about what is held at the end of a tick, asked at its
/// [`Phase::Read`](crate::time::Phase::Read).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Read {
    /// The totals of pairs in the windows that start within `from..until`.
    Rows {
        /// The first window.
        from: Window,
        /// Before the first one that is left out.
        until: Window,
    },
    /// How much is held.
    Held,
    /// What an entity comes to in a window.
    ///
    /// A rollup that nobody uses there is summed for the answer, which walks the pairs of the window.
    Amount {
        /// The window.
        window: Window,
        /// The sum over pairs that is meant; `None`: the total of a pair.
        rollup: Option<Rollup>,
        /// Whose: a pair without a rollup, else what the rollup is for.
        entity: Entity,
    },
}

/// When the totals of windows are handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOn {
    /// When no record can change them any more, of windows that are whole.
    Settled,
    /// When they leave memory.
    Retired,
}

/// A part of an answer. It is whole when the tick of its question is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Totals of pairs: asked for, or [handed on](HandOn).
    Rows {
        /// The window.
        window: Window,
        /// In no order.
        rows: Vec<(Pair, Volume)>,
    },
    /// How much a worker holds, in parts to be added.
    Held {
        /// Totals of pairs.
        pairs: u64,
        /// Totals of rollups.
        rollups: u64,
        /// IPv6 addresses that totals use, or that somebody downstream may still ask for.
        addresses: u64,
    },
    /// What an entity comes to, in parts to be added; none at all if nothing of it is held.
    Amount {
        /// The window.
        window: Window,
        /// The sum over pairs; `None`: the total of a pair.
        rollup: Option<Rollup>,
        /// Whose.
        entity: Entity,
        /// How much.
        volume: Volume,
    },
}

/// What entities come to in windows, by a sum over pairs or as a pair: the parts of answers to
/// [`Read::Amount`] added. Of what is not there nothing is held.
pub type Amounts = BTreeMap<(Window, Option<Rollup>, Entity), Volume>;

/// Records that came after their window had closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// Before it had settled: they count, and revise what was said.
    pub counted: u64,
    /// After it had settled: they are not counted.
    pub dropped: u64,
    /// What is not counted.
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

/// What concerns tables, in one stream, so that an operator has it in the order of time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Cut(CutChange),
    /// A view needs a rollup of a window (+1), or no longer does (-1).
    View(Rollup, Window, isize),
    Clock(Clock),
    Read(Read),
}

/// Which rollups of which windows somebody needs.
#[derive(Default)]
pub(crate) struct InUse {
    users: BTreeMap<(Window, Rollup), isize>,
}

/// A rollup of a window comes into use, or out of it.
pub(crate) enum Use {
    Begins(Window, Rollup),
    Ends(Window, Rollup),
}

impl InUse {
    /// Whether somebody needs a rollup of a window.
    pub(crate) fn uses(&self, window: Window, rollup: Rollup) -> bool {
        self.users.get(&(window, rollup)).is_some_and(|users| *users > 0)
    }

    /// Takes the orders of a time, and tells what they change.
    pub(crate) fn update(&mut self, orders: &[Order]) -> Vec<Use> {
        let mut before = BTreeMap::new();
        for order in orders {
            let (window, rollup, diff) = match order {
                Order::Cut(CutChange { scope, window, from, to, .. }) => {
                    let Some(rollup) = Rollup::of(scope) else {
                        continue;
                    };
                    (*window, rollup, isize::from(to.is_some()) - isize::from(from.is_some()))
                }
                Order::View(rollup, window, diff) => (*window, *rollup, *diff),
                Order::Clock(_) | Order::Read(_) => continue,
            };
            let users = self.users.entry((window, rollup)).or_default();
            before.entry((window, rollup)).or_insert(*users > 0);
            *users += diff;
        }
        let mut uses = Vec::new();
        for ((window, rollup), was) in before {
            let is = self.users[&(window, rollup)] > 0;
            if !is {
                self.users.remove(&(window, rollup));
            }
            match (was, is) {
                (false, true) => uses.push(Use::Begins(window, rollup)),
                (true, false) => uses.push(Use::Ends(window, rollup)),
                _ => {}
            }
        }
        uses
    }
}

pub(crate) type TotalUpdate = (((Gauge, Window), Total), Time, isize);

/// What tables put out at one time.
#[derive(Default)]
pub(crate) struct Puts {
    pub(crate) totals: Vec<TotalUpdate>,
    /// What fell from beyond a cut, to be looked up when all of the time is counted.
    fell: BTreeSet<(Window, Option<Rollup>, Gauge, Key)>,
    /// The same, as it is then.
    pub(crate) fallen: Vec<((Gauge, Window), Total)>,
}

impl Puts {
    pub(crate) fn len(&self) -> usize {
        self.totals.len()
    }

    /// The same, for one table; `None` is the one of pairs.
    pub(crate) fn of(&mut self, time: Time, window: Window, rollup: Option<Rollup>) -> PutsOf<'_> {
        PutsOf { puts: self, time, window, rollup }
    }

    /// Looks up what has fallen in this time, which is all counted.
    pub(crate) fn look_up_fallen<'t>(
        &mut self,
        table: impl Fn(Window, Option<Rollup>) -> Option<&'t Table>,
    ) {
        for (window, rollup, gauge, key) in std::mem::take(&mut self.fell) {
            let volume = table(window, rollup).and_then(|table| table.get(key)).unwrap_or_default();
            self.fallen.push(((gauge, window), gauge.total(key, volume)));
        }
    }
}

pub(crate) struct PutsOf<'a> {
    puts: &'a mut Puts,
    time: Time,
    window: Window,
    rollup: Option<Rollup>,
}

impl PutOut for PutsOf<'_> {
    fn put(&mut self, gauge: Gauge, total: Total, diff: isize) {
        self.puts.totals.push((((gauge, self.window), total), self.time, diff));
    }

    fn fell(&mut self, gauge: Gauge, key: Key) {
        self.puts.fell.insert((self.window, self.rollup, gauge, key));
    }
}
