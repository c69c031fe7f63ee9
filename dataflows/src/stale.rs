//! Totals that grew since they were put out, where no limit looks.
//!
//! Amounts that no limit of a gauge tells apart are a [cell](Cut::cell). While a total grows within one, what was
//! put out of it stays, until limits come to look into the cell. Those above the roof break every limit: they
//! are put out anew as well when their amounts may be published, which is when limits change for them, and when
//! their window settles; in the tick of such a change, and in the one in which they come there, whenever they
//! grow.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::hash_map::{Entry, IntoIter};
use hashbrown::{HashMap, HashSet};

use crate::gauge::{ABOVE_ROOF, Amounts, Cut, Gauge};
use crate::key::Key;
use crate::pending::{Fuel, PUT_COST};
use crate::put_out::PutOut;
use crate::table::Table;
use crate::types::Volume;

/// Volumes that were put out of the totals of one cell, at least one. Where each pair has a limit of its own,
/// there is seldom another.
enum PutBefore {
    One(Key, Volume),
    Many(Box<HashMap<Key, Volume, RandomState>>),
}

impl PutBefore {
    fn get(&self, key: Key) -> Option<Volume> {
        match self {
            PutBefore::One(held, volume) => (*held == key).then_some(*volume),
            PutBefore::Many(many) => many.get(&key).copied(),
        }
    }

    /// Takes a total in, unless it is there.
    fn insert(&mut self, key: Key, volume: Volume) {
        match self {
            PutBefore::One(held, _) if *held == key => {}
            PutBefore::One(held, before) => {
                let both = [(*held, *before), (key, volume)].into_iter().collect();
                *self = PutBefore::Many(Box::new(both));
            }
            PutBefore::Many(many) => {
                many.entry(key).or_insert(volume);
            }
        }
    }

    /// Takes a total out, and tells whether none is left.
    fn remove(&mut self, key: Key) -> (Option<Volume>, bool) {
        match self {
            PutBefore::One(held, volume) if *held == key => (Some(*volume), true),
            PutBefore::One(..) => (None, false),
            PutBefore::Many(many) => (many.remove(&key), many.is_empty()),
        }
    }
}

/// The stale totals of one table.
#[derive(Default)]
pub(crate) struct Stale {
    /// By the number of the gauge, and the cell.
    cells: HashMap<(u32, i64), (Gauge, PutBefore), RandomState>,
    rose: Rose,
}

/// Totals that rose above their roof in a tick, or grew there and were put out. There may be as many as there are
/// totals, so that only a part of a hash is kept of each. Where two have the same, one is put out for nothing.
#[derive(Default)]
struct Rose {
    tick: u64,
    parts: HashSet<u32, RandomState>,
    hasher: RandomState,
}

impl Rose {
    fn begin(&mut self, tick: u64) {
        if self.tick != tick {
            self.tick = tick;
            self.parts = HashSet::default();
        }
    }

    fn part(&self, gauge: Gauge, key: Key) -> u32 {
        self.hasher.hash_one((gauge.id, key)) as u32
    }

    fn insert(&mut self, gauge: Gauge, key: Key) {
        self.parts.insert(self.part(gauge, key));
    }

    fn contains(&self, gauge: Gauge, key: Key) -> bool {
        !self.parts.is_empty() && self.parts.contains(&self.part(gauge, key))
    }
}

/// What moves.
#[derive(Clone, Copy)]
pub(crate) struct Move {
    pub(crate) gauge: Gauge,
    pub(crate) cut: Cut,
    pub(crate) key: Key,
    pub(crate) old: Volume,
    pub(crate) new: Volume,
}

impl Stale {
    /// A total moves in a tick. Returned is the volume that was put out of it; `None` if that stays, which it
    /// can only if the total need not be exact.
    pub(crate) fn follow(&mut self, tick: u64, total: Move, is_exact: bool) -> Option<Volume> {
        let Move { gauge, cut, key, old, new } = total;
        self.rose.begin(tick);
        let [from, to] = [old, new].map(|volume| cut.cell(volume.amount(gauge.metric)));
        let grows = old.amount(gauge.metric) <= new.amount(gauge.metric);
        if let Some(cell) = from
            && from == to
            && grows
            && !(is_exact || cell == ABOVE_ROOF && self.rose.contains(gauge, key))
        {
            match self.cells.entry((gauge.id, cell)) {
                Entry::Occupied(mut held) => held.get_mut().1.insert(key, old),
                Entry::Vacant(place) => drop(place.insert((gauge, PutBefore::One(key, old)))),
            }
            return None;
        }
        if to == Some(ABOVE_ROOF) {
            self.rose.insert(gauge, key);
        }
        Some(from.and_then(|cell| self.take(gauge, cell, key)).unwrap_or(old))
    }

    fn take(&mut self, gauge: Gauge, cell: i64, key: Key) -> Option<Volume> {
        let (_, put_before) = self.cells.get_mut(&(gauge.id, cell))?;
        let (volume, is_last) = put_before.remove(key);
        if is_last {
            self.cells.remove(&(gauge.id, cell));
        }
        volume
    }

    /// The volume that was put out of a total, if it is another one.
    pub(crate) fn put_before(
        &self,
        gauge: Gauge,
        cut: Cut,
        key: Key,
        volume: Volume,
    ) -> Option<Volume> {
        let cell = cut.cell(volume.amount(gauge.metric))?;
        self.cells.get(&(gauge.id, cell))?.1.get(key)
    }

    /// Takes the totals of some amounts of each gauge, which are to be put out anew before the next update.
    pub(crate) fn renew(&mut self, of: impl Fn(Gauge) -> Option<Amounts>) -> Option<Renewal> {
        let mut renewal = Renewal::default();
        self.cells.retain(|(_, cell), (gauge, put_before)| {
            let Some(amounts) = of(*gauge) else { return true };
            let gauge = *gauge;
            let of_part = *cell == ABOVE_ROOF && amounts.to < ABOVE_ROOF;
            if !of_part && !amounts.touch(*cell) {
                return true;
            }
            // A total only grew since it was put out.
            let leaves = |volume: &Volume| !of_part || volume.amount(gauge.metric) <= amounts.to;
            match put_before {
                PutBefore::One(key, volume) if leaves(volume) => {
                    renewal.ones.push((gauge, *key, *volume));
                    false
                }
                PutBefore::One(..) => true,
                PutBefore::Many(many) if !of_part => {
                    renewal.many.push((gauge, std::mem::take(&mut **many).into_iter()));
                    false
                }
                PutBefore::Many(many) => {
                    let some = many.extract_if(|_, volume| leaves(volume));
                    renewal.ones.extend(some.map(|(key, volume)| (gauge, key, volume)));
                    !many.is_empty()
                }
            }
        });
        let is_empty = renewal.ones.is_empty() && renewal.many.is_empty();
        (!is_empty).then_some(renewal)
    }
}

/// Stale totals that are put out as they are.
#[derive(Default)]
pub(crate) struct Renewal {
    ones: Vec<(Gauge, Key, Volume)>,
    many: Vec<(Gauge, IntoIter<Key, Volume>)>,
}

impl Renewal {
    fn next(&mut self) -> Option<(Gauge, Key, Volume)> {
        while let Some((gauge, totals)) = self.many.last_mut() {
            if let Some((key, volume)) = totals.next() {
                return Some((*gauge, key, volume));
            }
            self.many.pop();
        }
        self.ones.pop()
    }

    /// Goes on until all are put out, and then is `true`, or until the fuel is spent.
    pub(crate) fn put_out(
        &mut self,
        table: &Table,
        fuel: &mut Fuel,
        out: &mut impl PutOut,
    ) -> bool {
        while !fuel.is_spent() {
            let Some((gauge, key, before)) = self.next() else {
                return true;
            };
            let total = gauge.total(key, table.get(key).unwrap_or_default());
            out.put(gauge, gauge.total(key, before), -1);
            out.put(gauge, total, 1);
            out.renews(gauge, total);
            fuel.spend(2 * PUT_COST);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuts::{CutIndex, Gauged};
    use crate::gauge::{CutChange, Total};
    use crate::moves::CutChanges;
    use crate::time::Window;
    use crate::time::WindowRange;
    use crate::types::{Bound, Pair, Scope, Updates};

    #[derive(Default)]
    struct Puts {
        tick: u64,
        puts: Vec<(i64, isize)>,
    }

    impl PutOut for Puts {
        fn tick(&self) -> u64 {
            self.tick
        }

        fn put(&mut self, _: Gauge, total: Total, diff: isize) {
            self.puts.push((total.amount, diff));
        }

        fn recedes(&mut self, _: Gauge, _: Key) {}

        fn renews(&mut self, _: Gauge, _: Total) {}
    }

    const PAIR: Pair = Pair::V4(std::net::Ipv4Addr::LOCALHOST, std::net::Ipv4Addr::LOCALHOST);

    /// A table with one entry, under a limit of 1000: the cut is 512, the cell of the limit 960 to 1024.
    struct One {
        index: CutIndex,
        gauged: Gauged,
        out: Puts,
    }

    impl One {
        fn new(updates: Updates) -> Self {
            let mut index = CutIndex::new(updates);
            let to = Some(Cut::of(Bound::Max, Cut::place(Bound::Max, 1000)));
            let (gauge, windows) = (Gauge::default(), WindowRange::ALL);
            let cut = CutChange { gauge, scope: Scope::default(), windows, from: None, to };
            index.set(&[cut]);
            let mut gauged = Gauged::new(Window(0), false);
            gauged.move_cuts(&index, &CutChanges::new(vec![cut]), false);
            One { index, gauged, out: Puts::default() }
        }

        /// What is put out when the total comes to an amount in the next tick.
        fn grow_to(&mut self, amount: i64) -> Vec<(i64, isize)> {
            self.out.tick += 1;
            self.move_to(amount)
        }

        /// The same in the same tick.
        fn move_to(&mut self, amount: i64) -> Vec<(i64, isize)> {
            let key = Key::MIN;
            let before = self.gauged.table.get(key).unwrap_or_default().bytes;
            let delta = Volume::new(amount - before, 1);
            let found = self.gauged.table.find(key);
            self.gauged.add(&self.index, found, key, || PAIR, delta, &mut self.out);
            std::mem::take(&mut self.out.puts)
        }
    }

    #[test]
    fn total_that_grows_within_a_cell_is_put_out_once() {
        let mut one = One::new(Updates::Settled);
        assert_eq!(one.grow_to(512), []);
        assert_eq!(one.grow_to(520), [(520, 1)]);
        assert_eq!(one.grow_to(575), []);
        assert_eq!(one.grow_to(576), [(520, -1), (576, 1)]);
        // Where the value lies, each amount counts.
        assert_eq!(one.grow_to(1000), [(576, -1), (1000, 1)]);
        assert_eq!(one.grow_to(1001), [(1000, -1), (1001, 1)]);
        assert_eq!(one.grow_to(1024), [(1001, -1), (1024, 1)]);
    }

    #[test]
    fn total_far_over_a_limit_is_put_out_in_the_tick_in_which_it_comes_there() {
        let mut one = One::new(Updates::Settled);
        assert_eq!(one.grow_to(2000), [(2000, 1)]);
        assert_eq!(one.move_to(2001), [(2000, -1), (2001, 1)]);
        for amount in [3000, 1 << 20, 1 << 40] {
            assert_eq!(one.grow_to(amount), []);
        }
        // A correction is told at once.
        assert_eq!(one.grow_to(5000), [(2001, -1), (5000, 1)]);
        assert_eq!(one.grow_to(800), [(5000, -1), (800, 1)]);
    }

    #[test]
    fn total_above_a_roof_is_put_out_anew_when_its_window_settles() {
        let mut one = One::new(Updates::Settled);
        for amount in [2000, 3000, 4000] {
            one.grow_to(amount);
        }
        let mut renewal = one.gauged.renew_above_roofs().expect("it is stale");
        let mut fuel = Fuel::new(Fuel::STEP);
        assert!(renewal.put_out(&one.gauged.table, &mut fuel, &mut one.out));
        assert_eq!(one.out.puts, [(2000, -1), (4000, 1)]);
        assert!(one.gauged.renew_above_roofs().is_none());
    }

    #[test]
    fn with_updates_of_each_tick_no_violation_is_stale() {
        let mut one = One::new(Updates::Tick);
        assert_eq!(one.grow_to(2000), [(2000, 1)]);
        assert_eq!(one.grow_to(3000), [(2000, -1), (3000, 1)]);
    }
}
