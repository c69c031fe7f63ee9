//! Gauges: what limits of one scope and bound look at, and the cut below which they need not look.
//!
//! A limit can only be broken by totals on one side of its value. So of each table only the totals
//! beyond a *cut* are put out: above a floor for `max`, below a ceiling for `min`. A [`Gauge`] is
//! one (scope, bound); its cut in a window lies at a power of two, so that a limit may move without
//! moving it, and only ever moves outward while the gauge is in use there, so that it never flaps.

use std::cell::OnceCell;

use serde::{Deserialize, Serialize};

use crate::addresses::Key;
use crate::prefix_index::{PrefixIndex, Ranked};
use crate::table::{Found, Table, Updated};
use crate::time::Window;
use crate::types::{Bound, Entity, Metric, Pair, Per, Prefix, Scope, Volume};

/// A (scope, bound) in use, as one worker numbers it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Gauge {
    /// Its number; free for another gauge when no window uses it any more.
    pub id: u32,
    /// What the totals are of.
    pub per: Per,
    /// Which part of a volume is the amount.
    pub metric: Metric,
    /// Whether the cut is a floor or a ceiling.
    pub bound: Bound,
}

impl Gauge {
    /// Whether an entry is beyond the cut. An entity without packets is not judged by a `min`,
    /// except that the total of a scope is there even if nothing is in it.
    #[inline]
    pub(crate) fn puts_out(&self, cut: i64, volume: Volume) -> bool {
        let amount = volume.amount(self.metric);
        match self.bound {
            Bound::Max => amount > cut,
            Bound::Min => amount < cut && (volume.packets != 0 || self.per == Per::Total),
        }
    }

    pub(crate) fn total(&self, key: Key, volume: Volume) -> Total {
        let (amount, other) = match self.metric {
            Metric::Bytes => (volume.bytes, volume.packets),
            Metric::Packets => (volume.packets, volume.bytes),
        };
        Total { amount, key, other }
    }
}

/// The cut for limits whose nearest value is `value`: the next power of two outward.
pub(crate) fn cut(bound: Bound, value: i64) -> i64 {
    if value <= 0 {
        return value;
    }
    match bound {
        Bound::Max => 1 << value.ilog2(),
        Bound::Min => value.unsigned_abs().next_power_of_two().try_into().unwrap_or(i64::MAX),
    }
}

/// What a gauge shows of an entity. Ordered by amount first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Total {
    /// In the gauge's metric.
    pub amount: i64,
    /// Who.
    pub key: Key,
    /// In the other metric.
    pub other: i64,
}

impl Total {
    /// The volume, given which metric the amount is in.
    pub fn volume(&self, metric: Metric) -> Volume {
        match metric {
            Metric::Bytes => Volume::new(self.amount, self.other),
            Metric::Packets => Volume::new(self.other, self.amount),
        }
    }
}

/// The cut of a gauge in a window, from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutChange {
    /// Whose.
    pub gauge: Gauge,
    /// What the gauge looks at.
    pub scope: Scope,
    /// Where.
    pub window: Window,
    /// The cut until now; `None`: the gauge was not in use there.
    pub from: Option<i64>,
    /// The new cut; `None`: no limit uses the gauge there any more.
    pub to: Option<i64>,
}

/// A sum over pairs that some limit or view asks for: the addresses or the total of the pairs between
/// two prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rollup {
    /// What is summed for; not [`Per::Pair`].
    pub per: Per,
    /// Only pairs whose source is in here are summed.
    pub source: Prefix,
    /// Only pairs whose destination is in here are summed.
    pub destination: Prefix,
}

impl Rollup {
    /// The rollup in which a scope finds its amounts; `None` if that is the table of pairs. A prefix
    /// on the very address that is counted for only chooses among entries, so it makes no rollup of
    /// its own.
    pub fn of(scope: &Scope) -> Option<Rollup> {
        let (source, destination) = match scope.per {
            Per::Pair => return None,
            Per::Source => (Prefix::ANY, scope.destination),
            Per::Destination => (scope.source, Prefix::ANY),
            Per::Host | Per::Total => (scope.source, scope.destination),
        };
        Some(Rollup { per: scope.per, source, destination })
    }

    /// Whether a pair is part of what the rollup sums for an entity.
    pub fn counts(&self, pair: &Pair, entity: &Entity) -> bool {
        let (source, destination) = (pair.source(), pair.destination());
        let is_of = match (self.per, *entity) {
            (Per::Source, Entity::Source(address)) => source == address,
            (Per::Destination, Entity::Destination(address)) => destination == address,
            (Per::Host, Entity::Host(address)) => source == address || destination == address,
            (Per::Total, Entity::Total) => true,
            _ => false,
        };
        is_of && self.source.contains(source) && self.destination.contains(destination)
    }
}

/// Takes what tables put out.
pub(crate) trait PutOut {
    /// A total comes to be beyond a cut (+1), or no longer is (-1).
    fn put(&mut self, gauge: Gauge, total: Total, diff: isize);
    /// An update took a total from beyond a cut to within.
    fn fell(&mut self, gauge: Gauge, key: Key);
}

/// A cut moves, or a gauge comes into use or out of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    gauge: Gauge,
    filter: (Prefix, Prefix),
    from: Option<i64>,
    to: Option<i64>,
}

impl Move {
    /// Puts out what the move changes of an entry. Returns how many updates that are.
    fn show(
        &self,
        place: impl FnOnce() -> Pair,
        key: Key,
        volume: Volume,
        out: &mut impl PutOut,
    ) -> usize {
        let before = self.from.is_some_and(|cut| self.gauge.puts_out(cut, volume));
        let after = self.to.is_some_and(|cut| self.gauge.puts_out(cut, volume));
        if before == after {
            return 0;
        }
        let (place, (sources, destinations)) = (place(), self.filter);
        if !(sources.contains(place.source()) && destinations.contains(place.destination())) {
            return 0;
        }
        out.put(self.gauge, self.gauge.total(key, volume), if after { 1 } else { -1 });
        1
    }
}

/// Cuts that move at one time in one table, and how to find those that concern an entry.
pub(crate) struct Moves {
    moves: Vec<Move>,
    /// Made when the first entry is looked at: the table of a window that begins has none.
    index: OnceCell<PrefixIndex<u32>>,
}

/// Up to here it is cheaper to ask each move than to look them up.
const MOVES_ASKED_IN_TURN: usize = 8;

impl Moves {
    fn new(moves: Vec<Move>) -> Self {
        Moves { moves, index: OnceCell::new() }
    }

    fn index(&self) -> &PrefixIndex<u32> {
        self.index.get_or_init(|| {
            let mut index = PrefixIndex::default();
            for (at, moved) in (0..).zip(&self.moves) {
                index.insert(moved.filter.0, moved.filter.1, at);
            }
            index
        })
    }

    /// Puts out what the moves change of one entry, and returns how many updates that are. `place`
    /// is asked only where it matters.
    #[inline]
    pub(crate) fn show(
        &self,
        place: impl Fn() -> Pair,
        key: Key,
        volume: Volume,
        out: &mut impl PutOut,
    ) -> usize {
        if self.moves.len() <= MOVES_ASKED_IN_TURN {
            return self.moves.iter().map(|moved| moved.show(&place, key, volume, out)).sum();
        }
        let place = place();
        let mut updates = 0;
        self.index().containing(place, |at| {
            updates += self.moves[at as usize].show(|| place, key, volume, out);
        });
        updates
    }
}

/// A gauge with its cut in one window.
#[derive(Clone, Copy)]
struct Cut {
    gauge: Gauge,
    cut: i64,
}

impl Ranked for Cut {
    /// The sooner an amount is beyond a cut, the lower its rank: that of a ceiling falls as it rises.
    fn rank(&self) -> i64 {
        toward(self.gauge.bound, self.cut)
    }
}

/// An amount or a cut, so that amounts greater than a cut are those beyond it.
fn toward(bound: Bound, amount: i64) -> i64 {
    match bound {
        Bound::Max => amount,
        Bound::Min => !amount,
    }
}

/// The cuts of one bound and metric.
struct Cuts {
    bound: Bound,
    metric: Metric,
    index: PrefixIndex<Cut>,
}

/// A table, with the gauges that look at it.
///
/// The prefixes of a scope either choose what is summed, and then the table itself is under them, or
/// which of the entries are looked at: the *filter* of a gauge. An address has the place (itself,
/// itself).
pub(crate) struct Gauged {
    pub(crate) table: Table,
    /// Apart by bound and metric, so that each has its cuts in the order in which amounts pass them: an
    /// update looks at those that it passes, not at all that concern its entry.
    cuts: [Cuts; 4],
    /// No cut is below (bytes, packets), so what stays at or under both needs no look at the cuts.
    floors: Volume,
    /// The same from above, for ceilings.
    ceilings: Volume,
}

const KINDS: [(Bound, Metric); 4] = [
    (Bound::Max, Metric::Bytes),
    (Bound::Max, Metric::Packets),
    (Bound::Min, Metric::Bytes),
    (Bound::Min, Metric::Packets),
];

/// The part of a scope that chooses among the entries of its table.
fn filter(scope: &Scope) -> (Prefix, Prefix) {
    match scope.per {
        Per::Pair => (scope.source, scope.destination),
        Per::Source => (scope.source, Prefix::ANY),
        Per::Destination => (scope.destination, Prefix::ANY),
        Per::Host => (scope.host, Prefix::ANY),
        Per::Total => (Prefix::ANY, Prefix::ANY),
    }
}

impl Gauged {
    pub(crate) fn new() -> Self {
        let mut gauged = Gauged {
            table: Table::default(),
            cuts: KINDS.map(|(bound, metric)| Cuts {
                bound,
                metric,
                index: PrefixIndex::default(),
            }),
            floors: Volume::default(),
            ceilings: Volume::default(),
        };
        gauged.bound_cuts();
        gauged
    }

    /// Sets cuts. What the returned moves show of each entry must be put out before the next update.
    pub(crate) fn set(&mut self, changes: &[CutChange]) -> Moves {
        let mut moves = Vec::with_capacity(changes.len());
        for &CutChange { gauge, ref scope, from, to, .. } in changes {
            let filter = filter(scope);
            let kind = (gauge.bound, gauge.metric);
            let cuts = self.cuts.iter_mut().find(|cuts| (cuts.bound, cuts.metric) == kind);
            let index = &mut cuts.expect("there is one of each kind").index;
            if from.is_some() {
                index.remove(filter.0, filter.1, |held| held.gauge.id == gauge.id);
            }
            if let Some(cut) = to {
                index.insert(filter.0, filter.1, Cut { gauge, cut });
            }
            moves.push(Move { gauge, filter, from, to });
        }
        self.bound_cuts();
        Moves::new(moves)
    }

    fn bound_cuts(&mut self) {
        let [floor_bytes, floor_packets, ceiling_bytes, ceiling_packets] =
            self.cuts.each_ref().map(|cuts| toward(cuts.bound, cuts.index.least_rank()));
        self.floors = Volume::new(floor_bytes, floor_packets);
        self.ceilings = Volume::new(ceiling_bytes, ceiling_packets);
    }

    #[inline]
    fn within_cuts(&self, volume: Volume) -> bool {
        volume.bytes <= self.floors.bytes
            && volume.packets <= self.floors.packets
            && volume.bytes >= self.ceilings.bytes
            && volume.packets >= self.ceilings.packets
    }

    /// Adds to an entry that was looked for, and puts out what that changes.
    #[inline]
    pub(crate) fn add(
        &mut self,
        found: Found,
        key: Key,
        place: impl FnOnce() -> Pair,
        delta: Volume,
        out: &mut impl PutOut,
    ) -> Updated {
        let updated = self.table.add_found(found, key, delta);
        if !(self.within_cuts(updated.old) && self.within_cuts(updated.new)) {
            self.show(key, place(), updated, out);
        }
        updated
    }

    #[inline(never)]
    fn show(&self, key: Key, place: Pair, updated: Updated, out: &mut impl PutOut) {
        if updated.old == updated.new {
            return;
        }
        let Updated { old, new, .. } = updated;
        for Cuts { bound, metric, index } in &self.cuts {
            let [was, is] = [old, new].map(|volume| toward(*bound, volume.amount(*metric)));
            index.containing_to(was.max(is).saturating_sub(1), place, |Cut { gauge, cut }| {
                let before = gauge.puts_out(cut, old);
                let after = gauge.puts_out(cut, new);
                if before {
                    out.put(gauge, gauge.total(key, old), -1);
                }
                if after {
                    out.put(gauge, gauge.total(key, new), 1);
                } else if before {
                    out.fell(gauge, key);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_powers_of_two_outward() {
        let floors = [(0, 0), (1, 1), (2, 2), (3, 2), (1023, 512), (i64::MAX, 1 << 62)];
        for (value, floor) in floors {
            assert_eq!(cut(Bound::Max, value), floor, "max {value}");
        }
        let ceilings = [(0, 0), (1, 1), (2, 2), (3, 4), (1025, 2048), (i64::MAX, i64::MAX)];
        for (value, ceiling) in ceilings {
            assert_eq!(cut(Bound::Min, value), ceiling, "min {value}");
        }
    }

    #[test]
    fn no_total_that_breaks_a_limit_is_within_its_cut() {
        let gauge = |bound| Gauge { bound, ..Gauge::default() };
        for value in (0..70).chain([i64::MAX - 1, i64::MAX]) {
            for amount in (0..80).chain([i64::MAX - 1, i64::MAX]) {
                let volume = Volume::new(amount, 1);
                let (max, min) = (gauge(Bound::Max), gauge(Bound::Min));
                assert!(amount <= value || max.puts_out(cut(Bound::Max, value), volume));
                assert!(amount >= value || min.puts_out(cut(Bound::Min, value), volume));
            }
        }
    }
}
