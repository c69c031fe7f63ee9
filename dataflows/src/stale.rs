//! Stale totals: they have grown since they were emitted, but no limit tells the two amounts apart.
//!
//! A [cell](EmitBound::cell) is a range of amounts that no limit of a monitored scope tells apart. While a total
//! grows within a cell, its emitted volume stays, until limits change that judge amounts of the cell. Totals above
//! the roof break every limit. They are emitted anew also when their amounts may be published: when limits change
//! for them, and when their window settles. In the tick of such a change, and in the tick in which a total rises
//! above the roof, it is emitted whenever it grows.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::hash_map::{Entry, IntoIter};
use hashbrown::{HashMap, HashSet};

use crate::emit::Emit;
use crate::key::Key;
use crate::monitored::{ABOVE_ROOF, AmountRange, EmitBound, MonitoredScope};
use crate::pending::{EMIT_COST, Fuel};
use crate::table::Table;
use crate::types::Volume;

/// Volumes that were emitted of the stale totals of one cell, at least one. Where each pair has a limit of its
/// own, there is seldom another.
enum EmittedBefore {
    One(Key, Volume),
    Many(Box<HashMap<Key, Volume, RandomState>>),
}

impl EmittedBefore {
    fn get(&self, key: Key) -> Option<Volume> {
        match self {
            EmittedBefore::One(held, volume) => (*held == key).then_some(*volume),
            EmittedBefore::Many(many) => many.get(&key).copied(),
        }
    }

    /// Adds a total, unless it is there.
    fn insert(&mut self, key: Key, volume: Volume) {
        match self {
            EmittedBefore::One(held, _) if *held == key => {}
            EmittedBefore::One(held, before) => {
                let both = [(*held, *before), (key, volume)].into_iter().collect();
                *self = EmittedBefore::Many(Box::new(both));
            }
            EmittedBefore::Many(many) => {
                many.entry(key).or_insert(volume);
            }
        }
    }

    /// Removes a total. Returns its volume, and whether no total is left.
    fn remove(&mut self, key: Key) -> (Option<Volume>, bool) {
        match self {
            EmittedBefore::One(held, volume) if *held == key => (Some(*volume), true),
            EmittedBefore::One(..) => (None, false),
            EmittedBefore::Many(many) => (many.remove(&key), many.is_empty()),
        }
    }
}

/// The stale totals of one table.
#[derive(Default)]
pub(crate) struct Stale {
    /// By the number of the monitored scope, and the cell.
    cells: HashMap<(u32, i64), (MonitoredScope, EmittedBefore), RandomState>,
    risen: RisenInTick,
}

/// Totals that rose above their roof in a tick, or grew there and were emitted. There may be as many as there are
/// totals, so that only a part of a hash is kept of each. If two totals have the same part, one of them is emitted
/// without need.
#[derive(Default)]
struct RisenInTick {
    tick: u64,
    parts: HashSet<u32, RandomState>,
    hasher: RandomState,
}

impl RisenInTick {
    fn begin(&mut self, tick: u64) {
        if self.tick != tick {
            self.tick = tick;
            self.parts = HashSet::default();
        }
    }

    fn part(&self, monitored: MonitoredScope, key: Key) -> u32 {
        self.hasher.hash_one((monitored.id, key)) as u32
    }

    fn insert(&mut self, monitored: MonitoredScope, key: Key) {
        self.parts.insert(self.part(monitored, key));
    }

    fn contains(&self, monitored: MonitoredScope, key: Key) -> bool {
        !self.parts.is_empty() && self.parts.contains(&self.part(monitored, key))
    }
}

/// A total that an update moves, with the emit bound in its window.
#[derive(Clone, Copy)]
pub(crate) struct Move {
    pub(crate) monitored: MonitoredScope,
    pub(crate) emit_bound: EmitBound,
    pub(crate) key: Key,
    pub(crate) old: Volume,
    pub(crate) new: Volume,
}

impl Stale {
    /// Follows a total that moves in a tick. Returns the volume that was emitted of it last; `None` if that volume
    /// stays emitted, as it may only if the total need not be exact.
    pub(crate) fn follow(&mut self, tick: u64, total: Move, is_exact: bool) -> Option<Volume> {
        let Move { monitored, emit_bound, key, old, new } = total;
        self.risen.begin(tick);
        let [from, to] = [old, new].map(|volume| emit_bound.cell(volume.amount(monitored.metric)));
        let grows = old.amount(monitored.metric) <= new.amount(monitored.metric);
        if let Some(cell) = from
            && from == to
            && grows
            && !(is_exact || cell == ABOVE_ROOF && self.risen.contains(monitored, key))
        {
            match self.cells.entry((monitored.id, cell)) {
                Entry::Occupied(mut held) => held.get_mut().1.insert(key, old),
                Entry::Vacant(place) => {
                    place.insert((monitored, EmittedBefore::One(key, old)));
                }
            }
            return None;
        }
        if to == Some(ABOVE_ROOF) {
            self.risen.insert(monitored, key);
        }
        Some(from.and_then(|cell| self.remove(monitored, cell, key)).unwrap_or(old))
    }

    fn remove(&mut self, monitored: MonitoredScope, cell: i64, key: Key) -> Option<Volume> {
        let (_, emitted_before) = self.cells.get_mut(&(monitored.id, cell))?;
        let (volume, is_last) = emitted_before.remove(key);
        if is_last {
            self.cells.remove(&(monitored.id, cell));
        }
        volume
    }

    /// The volume that was emitted of a total, if it differs from the current one.
    pub(crate) fn emitted_before(
        &self,
        monitored: MonitoredScope,
        emit_bound: EmitBound,
        key: Key,
        volume: Volume,
    ) -> Option<Volume> {
        let cell = emit_bound.cell(volume.amount(monitored.metric))?;
        self.cells.get(&(monitored.id, cell))?.1.get(key)
    }

    /// Removes the totals of some amounts of each monitored scope. The caller emits them anew before the next
    /// update.
    pub(crate) fn renew(
        &mut self,
        of: impl Fn(MonitoredScope) -> Option<AmountRange>,
    ) -> Option<Renewal> {
        let mut renewal = Renewal::default();
        self.cells.retain(|(_, cell), (monitored, emitted_before)| {
            let Some(amounts) = of(*monitored) else { return true };
            let monitored = *monitored;
            let of_part = *cell == ABOVE_ROOF && amounts.to < ABOVE_ROOF;
            if !of_part && !amounts.touch(*cell) {
                return true;
            }
            // A total only grew since it was emitted.
            let leaves =
                |volume: &Volume| !of_part || volume.amount(monitored.metric) <= amounts.to;
            match emitted_before {
                EmittedBefore::One(key, volume) if leaves(volume) => {
                    renewal.ones.push((monitored, *key, *volume));
                    false
                }
                EmittedBefore::One(..) => true,
                EmittedBefore::Many(many) if !of_part => {
                    renewal.many.push((monitored, std::mem::take(&mut **many).into_iter()));
                    false
                }
                EmittedBefore::Many(many) => {
                    let some = many.extract_if(|_, volume| leaves(volume));
                    renewal.ones.extend(some.map(|(key, volume)| (monitored, key, volume)));
                    !many.is_empty()
                }
            }
        });
        let is_empty = renewal.ones.is_empty() && renewal.many.is_empty();
        (!is_empty).then_some(renewal)
    }
}

/// Stale totals that are emitted anew, with their current volumes.
#[derive(Default)]
pub(crate) struct Renewal {
    ones: Vec<(MonitoredScope, Key, Volume)>,
    many: Vec<(MonitoredScope, IntoIter<Key, Volume>)>,
}

impl Renewal {
    fn next(&mut self) -> Option<(MonitoredScope, Key, Volume)> {
        while let Some((monitored, totals)) = self.many.last_mut() {
            if let Some((key, volume)) = totals.next() {
                return Some((*monitored, key, volume));
            }
            self.many.pop();
        }
        self.ones.pop()
    }

    /// Continues to emit the totals. Returns `true` when all are emitted, `false` when the fuel is spent.
    pub(crate) fn emit(&mut self, table: &Table, fuel: &mut Fuel, out: &mut impl Emit) -> bool {
        while !fuel.is_spent() {
            let Some((monitored, key, before)) = self.next() else {
                return true;
            };
            let total = monitored.total(key, table.get(key).unwrap_or_default());
            out.emit(monitored, monitored.total(key, before), -1);
            out.emit(monitored, total, 1);
            out.renewed(monitored, total);
            fuel.spend(2 * EMIT_COST);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit_bounds::{EmitBoundIndex, MonitoredTable};
    use crate::monitored::{EmitBoundChange, Total};
    use crate::moves::EmitBoundChanges;
    use crate::time::Window;
    use crate::time::WindowRange;
    use crate::types::{Bound, Pair, Scope, Updates};

    #[derive(Default)]
    struct EmittedAmounts {
        tick: u64,
        emitted: Vec<(i64, isize)>,
    }

    impl Emit for EmittedAmounts {
        fn tick(&self) -> u64 {
            self.tick
        }

        fn emit(&mut self, _: MonitoredScope, total: Total, diff: isize) {
            self.emitted.push((total.amount, diff));
        }

        fn receded(&mut self, _: MonitoredScope, _: Key) {}

        fn renewed(&mut self, _: MonitoredScope, _: Total) {}
    }

    const PAIR: Pair = Pair::V4(std::net::Ipv4Addr::LOCALHOST, std::net::Ipv4Addr::LOCALHOST);

    /// A table with one entry, under a limit of 1000: the emit bound is 512, the cell of the limit 960 to 1024.
    struct One {
        index: EmitBoundIndex,
        monitored_table: MonitoredTable,
        out: EmittedAmounts,
    }

    impl One {
        fn new(updates: Updates) -> Self {
            let mut index = EmitBoundIndex::new(updates);
            let to = Some(EmitBound::of(Bound::Max, EmitBound::place(Bound::Max, 1000)));
            let (monitored, windows) = (MonitoredScope::default(), WindowRange::ALL);
            let emit_bound =
                EmitBoundChange { monitored, scope: Scope::default(), windows, from: None, to };
            index.set(&[emit_bound]);
            let mut monitored_table = MonitoredTable::new(Window(0), false);
            monitored_table.move_bounds(&index, &EmitBoundChanges::new(vec![emit_bound]), false);
            One { index, monitored_table, out: EmittedAmounts::default() }
        }

        /// Moves the total to an amount in the next tick, and returns the updates that the table emits.
        fn grow_to(&mut self, amount: i64) -> Vec<(i64, isize)> {
            self.out.tick += 1;
            self.move_to(amount)
        }

        /// Moves the total to an amount in the same tick, and returns the updates that the table emits.
        fn move_to(&mut self, amount: i64) -> Vec<(i64, isize)> {
            let key = Key::MIN;
            let before = self.monitored_table.table.get(key).unwrap_or_default().bytes;
            let delta = Volume::new(amount - before, 1);
            let found = self.monitored_table.table.find(key);
            self.monitored_table.add(&self.index, found, key, || PAIR, delta, &mut self.out);
            std::mem::take(&mut self.out.emitted)
        }
    }

    #[test]
    fn total_that_grows_within_a_cell_is_emitted_once() {
        let mut one = One::new(Updates::Settled);
        assert_eq!(one.grow_to(512), []);
        assert_eq!(one.grow_to(520), [(520, 1)]);
        assert_eq!(one.grow_to(575), []);
        assert_eq!(one.grow_to(576), [(520, -1), (576, 1)]);
        // In the cell of the limit's value, the table emits each amount.
        assert_eq!(one.grow_to(1000), [(576, -1), (1000, 1)]);
        assert_eq!(one.grow_to(1001), [(1000, -1), (1001, 1)]);
        assert_eq!(one.grow_to(1024), [(1001, -1), (1024, 1)]);
    }

    #[test]
    fn total_that_grows_above_a_roof_is_emitted_only_in_the_tick_of_its_rise() {
        let mut one = One::new(Updates::Settled);
        assert_eq!(one.grow_to(2000), [(2000, 1)]);
        assert_eq!(one.move_to(2001), [(2000, -1), (2001, 1)]);
        for amount in [3000, 1 << 20, 1 << 40] {
            assert_eq!(one.grow_to(amount), []);
        }
        // The table emits a correction at once.
        assert_eq!(one.grow_to(5000), [(2001, -1), (5000, 1)]);
        assert_eq!(one.grow_to(800), [(5000, -1), (800, 1)]);
    }

    #[test]
    fn total_above_a_roof_is_emitted_anew_when_its_window_settles() {
        let mut one = One::new(Updates::Settled);
        for amount in [2000, 3000, 4000] {
            one.grow_to(amount);
        }
        let mut renewal = one.monitored_table.renew_above_roofs().expect("it is stale");
        let mut fuel = Fuel::new(Fuel::STEP);
        assert!(renewal.emit(&one.monitored_table.table, &mut fuel, &mut one.out));
        assert_eq!(one.out.emitted, [(2000, -1), (4000, 1)]);
        assert!(one.monitored_table.renew_above_roofs().is_none());
    }

    #[test]
    fn total_with_updates_at_each_tick_is_never_stale() {
        let mut one = One::new(Updates::Tick);
        assert_eq!(one.grow_to(2000), [(2000, 1)]);
        assert_eq!(one.grow_to(3000), [(2000, -1), (3000, 1)]);
    }
}
