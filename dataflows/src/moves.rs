//! Cuts that move, and what that puts out of each entry of a table.

use std::cell::OnceCell;
use std::rc::Rc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::gauge::{Cut, CutChange, Gauge, Rejudged};
use crate::key::Key;
use crate::prefix_index::PrefixIndex;
use crate::put_out::{PutOut, filter};
use crate::time::{Window, WindowRange};
use crate::types::{Bound, Pair, Volume};

/// Changes of cuts at one time in tables of one kind, and how to find those that concern an entry.
pub(crate) struct CutChanges {
    pub(crate) changes: Vec<CutChange>,
    /// Made when the first entry is looked at.
    index: OnceCell<PrefixIndex<u32>>,
}

impl CutChanges {
    pub(crate) fn new(changes: Vec<CutChange>) -> Rc<Self> {
        Rc::new(CutChanges { changes, index: OnceCell::new() })
    }

    /// The windows from the first to the last that some change concerns, of cuts or of what gauges look at.
    pub(crate) fn hull_with(&self, rejudged: &[Rejudged]) -> WindowRange {
        let of_cuts = self.changes.iter().map(|change| change.windows);
        WindowRange::hull(of_cuts.chain(rejudged.iter().map(|change| change.windows)))
    }

    /// The same, of the changes of cuts of one bound.
    pub(crate) fn hull_of(&self, bound: Bound) -> WindowRange {
        let changes = self.changes.iter().filter(|change| change.gauge.bound == bound);
        WindowRange::hull(changes.map(|change| change.windows))
    }

    fn index(&self) -> &PrefixIndex<u32> {
        self.index.get_or_init(|| {
            let mut index = PrefixIndex::default();
            for (at, change) in (0..).zip(&self.changes) {
                let (sources, destinations) = filter(&change.scope);
                index.insert(sources, destinations, at);
            }
            index
        })
    }
}

/// Up to here it is cheaper to ask each change than to look them up.
const CHANGES_ASKED_IN_TURN: usize = 8;

/// Changes that move the cut of a window from and to elsewhere than limits need.
pub(crate) type Exceptions = HashMap<u32, (Option<Cut>, Option<Cut>), RandomState>;

/// A cut that moves in a table.
#[derive(Clone, Copy)]
struct Move {
    /// The number of the change.
    at: u32,
    gauge: Gauge,
    /// The least and the greatest amount that lies beyond one of the two cuts only.
    amounts: (i64, i64),
    /// Whether these are put out from now on, or no longer.
    enters: bool,
}

impl Move {
    /// The move of a gauge from one cut to another; `None`: it puts out nothing. `None` if no amount lies between.
    fn new(at: u32, gauge: Gauge, from: Option<i64>, to: Option<i64>) -> Option<Self> {
        let innermost = match gauge.bound {
            Bound::Max => i64::MAX,
            Bound::Min => i64::MIN,
        };
        let [from, to] = [from, to].map(|cut| cut.unwrap_or(innermost));
        let (least, most) = (from.min(to), from.max(to));
        if least == most {
            return None;
        }
        let (amounts, enters) = match gauge.bound {
            Bound::Max => ((least + 1, most), to == least),
            Bound::Min => ((least, most - 1), to == most),
        };
        Some(Move { at, gauge, amounts, enters })
    }

    /// Whether the move changes what is put out of an entry in the scope of the gauge.
    #[inline]
    fn changes(&self, volume: Volume) -> bool {
        let (least, most) = self.amounts;
        let amount = volume.amount(self.gauge.metric);
        least <= amount && amount <= most && self.gauge.judges(volume)
    }
}

/// The cuts that move in one table.
pub(crate) struct Moves {
    changes: Rc<CutChanges>,
    window: Window,
    observed: bool,
    exceptions: Exceptions,
    /// The moves, where it is cheaper to ask each than to look them up.
    in_turn: Vec<Move>,
}

impl Moves {
    pub(crate) fn new(
        changes: Rc<CutChanges>,
        window: Window,
        observed: bool,
        exceptions: Exceptions,
    ) -> Self {
        let mut moves = Moves { changes, window, observed, exceptions, in_turn: Vec::new() };
        let count = moves.changes.changes.len();
        if count <= CHANGES_ASKED_IN_TURN {
            moves.in_turn = (0..count as u32).filter_map(|at| moves.of(at)).collect();
        }
        moves
    }

    /// The move that a change makes in this table, if it makes one.
    fn of(&self, at: u32) -> Option<Move> {
        let CutChange { gauge, windows, from, to, .. } = self.changes.changes[at as usize];
        if !windows.contains(self.window) || (gauge.bound == Bound::Min && !self.observed) {
            return None;
        }
        let (from, to) = match self.exceptions.is_empty() {
            true => (from, to),
            false => self.exceptions.get(&at).copied().unwrap_or((from, to)),
        };
        let [from, to] = [from, to].map(|cut| cut.map(|cut| cut.at));
        Move::new(at, gauge, from, to)
    }

    /// Puts out what the moves change of one entry, and returns how many updates that are. `place` is
    /// asked only where it matters.
    #[inline]
    pub(crate) fn show(
        &self,
        place: impl Fn() -> Pair,
        key: Key,
        volume: Volume,
        out: &mut impl PutOut,
    ) -> usize {
        let mut updates = 0;
        if self.changes.changes.len() <= CHANGES_ASKED_IN_TURN {
            for moved in &self.in_turn {
                if moved.changes(volume) {
                    updates += self.put(moved, (place(), key, volume), out);
                }
            }
            return updates;
        }
        let place = place();
        self.changes.index().containing(place, |at| {
            if let Some(moved) = self.of(*at).filter(|moved| moved.changes(volume)) {
                updates += self.put(&moved, (place, key, volume), out);
            }
        });
        updates
    }

    /// Puts out an entry, or takes it back, if it is in the scope of the gauge.
    fn put(
        &self,
        moved: &Move,
        (place, key, volume): (Pair, Key, Volume),
        out: &mut impl PutOut,
    ) -> usize {
        let (sources, destinations) = filter(&self.changes.changes[moved.at as usize].scope);
        if !(sources.contains(place.source()) && destinations.contains(place.destination())) {
            return 0;
        }
        let gauge = moved.gauge;
        out.put(gauge, gauge.total(key, volume), if moved.enters { 1 } else { -1 });
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Per;

    /// A move changes what lies beyond one of its cuts only, and is none if nothing does.
    #[test]
    fn what_a_move_changes_is_beyond_one_of_its_cuts() {
        let cuts = [None, Some(i64::MIN), Some(-1), Some(0), Some(1), Some(8), Some(i64::MAX)];
        let amounts = [i64::MIN, -2, -1, 0, 1, 2, 7, 8, 9, i64::MAX - 1, i64::MAX];
        for bound in [Bound::Max, Bound::Min] {
            for per in [Per::Pair, Per::Total] {
                let gauge = Gauge { bound, per, ..Gauge::default() };
                for (from, to) in cuts.iter().flat_map(|from| cuts.map(|to| (*from, to))) {
                    let moved = Move::new(0, gauge, from, to);
                    for volume in amounts.iter().flat_map(|a| [0, 1].map(|p| Volume::new(*a, p))) {
                        let puts_out =
                            |cut: Option<i64>| cut.is_some_and(|cut| gauge.puts_out(cut, volume));
                        let expected = i32::from(puts_out(to)) - i32::from(puts_out(from));
                        let changed = moved.filter(|moved| moved.changes(volume));
                        let change = changed.map_or(0, |moved| if moved.enters { 1 } else { -1 });
                        assert_eq!(change, expected, "{gauge:?} {from:?} {to:?} {volume:?}");
                    }
                }
            }
        }
    }
}
