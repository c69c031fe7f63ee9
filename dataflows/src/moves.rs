//! Emit bounds that move, and the updates that this makes for each entry of a table.

use std::cell::OnceCell;
use std::rc::Rc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::emit::{Emit, filter};
use crate::key::Key;
use crate::monitored::{EmitBound, EmitBoundChange, MonitoredScope, Rejudged};
use crate::prefix_index::PrefixIndex;
use crate::time::{Window, WindowRange};
use crate::types::{Bound, Pair, Volume};

/// Changes of emit bounds at one time in tables of one kind, with an index to look up those that concern an entry.
pub(crate) struct EmitBoundChanges {
    pub(crate) changes: Vec<EmitBoundChange>,
    /// Built when the first entry is looked up.
    index: OnceCell<PrefixIndex<u32>>,
}

impl EmitBoundChanges {
    pub(crate) fn new(changes: Vec<EmitBoundChange>) -> Rc<Self> {
        Rc::new(EmitBoundChanges { changes, index: OnceCell::new() })
    }

    /// The windows from the first to the last that some change concerns, of emit bounds or of what monitored scopes
    /// look at.
    pub(crate) fn hull_with(&self, rejudged: &[Rejudged]) -> WindowRange {
        let of_bounds = self.changes.iter().map(|change| change.windows);
        WindowRange::hull(of_bounds.chain(rejudged.iter().map(|change| change.windows)))
    }

    /// The windows from the first to the last that some change of the emit bounds of one [`Bound`] concerns.
    pub(crate) fn hull_of(&self, bound: Bound) -> WindowRange {
        let changes = self.changes.iter().filter(|change| change.monitored.bound == bound);
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

/// Up to so many changes, testing each of them is cheaper than a look-up.
const LINEAR_SCAN_MAX: usize = 8;

/// Changes that move the emit bound of a window otherwise than limits need: by the number of the change, the emit
/// bound before and after it.
pub(crate) type Exceptions = HashMap<u32, (Option<EmitBound>, Option<EmitBound>), RandomState>;

/// An emit bound that moves in a table.
#[derive(Clone, Copy)]
struct EmitBoundMove {
    /// The number of the change.
    at: u32,
    monitored: MonitoredScope,
    /// The least and the greatest amount that lies beyond one of the two emit bounds only.
    amounts: (i64, i64),
    /// Whether these amounts are emitted from now on, or no longer.
    enters: bool,
}

impl EmitBoundMove {
    /// The move of a monitored scope from one emit bound to another; `None`: it emits nothing. `None` if no amount
    /// lies between.
    fn new(at: u32, monitored: MonitoredScope, from: Option<i64>, to: Option<i64>) -> Option<Self> {
        let innermost = match monitored.bound {
            Bound::Max => i64::MAX,
            Bound::Min => i64::MIN,
        };
        let [from, to] = [from, to].map(|emit_bound| emit_bound.unwrap_or(innermost));
        let (least, most) = (from.min(to), from.max(to));
        if least == most {
            return None;
        }
        let (amounts, enters) = match monitored.bound {
            Bound::Max => ((least + 1, most), to == least),
            Bound::Min => ((least, most - 1), to == most),
        };
        Some(EmitBoundMove { at, monitored, amounts, enters })
    }

    /// Whether the move changes what is emitted of an entry in the monitored scope.
    #[inline]
    fn changes(&self, volume: Volume) -> bool {
        let (least, most) = self.amounts;
        let amount = volume.amount(self.monitored.metric);
        least <= amount && amount <= most && self.monitored.judges(volume)
    }
}

/// The emit bounds that move in one table.
pub(crate) struct Moves {
    changes: Rc<EmitBoundChanges>,
    window: Window,
    observed: bool,
    exceptions: Exceptions,
    /// The moves, if they are few enough to test each of them.
    scanned: Vec<EmitBoundMove>,
}

impl Moves {
    pub(crate) fn new(
        changes: Rc<EmitBoundChanges>,
        window: Window,
        observed: bool,
        exceptions: Exceptions,
    ) -> Self {
        let mut moves = Moves { changes, window, observed, exceptions, scanned: Vec::new() };
        let count = moves.changes.changes.len();
        if count <= LINEAR_SCAN_MAX {
            moves.scanned = (0..count as u32).filter_map(|at| moves.of(at)).collect();
        }
        moves
    }

    /// The move that a change makes in this table, if it makes one.
    fn of(&self, at: u32) -> Option<EmitBoundMove> {
        let EmitBoundChange { monitored, windows, from, to, .. } =
            self.changes.changes[at as usize];
        if !windows.contains(self.window) || (monitored.bound == Bound::Min && !self.observed) {
            return None;
        }
        let (from, to) = match self.exceptions.is_empty() {
            true => (from, to),
            false => self.exceptions.get(&at).copied().unwrap_or((from, to)),
        };
        let [from, to] = [from, to].map(|emit_bound| emit_bound.map(|emit_bound| emit_bound.at));
        EmitBoundMove::new(at, monitored, from, to)
    }

    /// Emits the updates that the moves make for one entry, and returns their number. `place` is called only if
    /// its result matters.
    #[inline]
    pub(crate) fn emit(
        &self,
        place: impl Fn() -> Pair,
        key: Key,
        volume: Volume,
        out: &mut impl Emit,
    ) -> usize {
        let mut updates = 0;
        if self.changes.changes.len() <= LINEAR_SCAN_MAX {
            for moved in &self.scanned {
                if moved.changes(volume) {
                    updates += self.emit_move(moved, (place(), key, volume), out);
                }
            }
            return updates;
        }
        let place = place();
        self.changes.index().containing(place, |at| {
            if let Some(moved) = self.of(*at).filter(|moved| moved.changes(volume)) {
                updates += self.emit_move(&moved, (place, key, volume), out);
            }
        });
        updates
    }

    /// Emits an entry, or retracts it, if it is in the monitored scope.
    fn emit_move(
        &self,
        moved: &EmitBoundMove,
        (place, key, volume): (Pair, Key, Volume),
        out: &mut impl Emit,
    ) -> usize {
        let (sources, destinations) = filter(&self.changes.changes[moved.at as usize].scope);
        if !(sources.contains(place.source()) && destinations.contains(place.destination())) {
            return 0;
        }
        let monitored = moved.monitored;
        out.emit(monitored, monitored.total(key, volume), if moved.enters { 1 } else { -1 });
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Per;

    /// A move changes the amounts beyond one of its two emit bounds only, and there is no move without such an
    /// amount.
    #[test]
    fn move_changes_only_amounts_beyond_one_of_its_bounds() {
        let emit_bounds =
            [None, Some(i64::MIN), Some(-1), Some(0), Some(1), Some(8), Some(i64::MAX)];
        let amounts = [i64::MIN, -2, -1, 0, 1, 2, 7, 8, 9, i64::MAX - 1, i64::MAX];
        for bound in [Bound::Max, Bound::Min] {
            for per in [Per::Pair, Per::Total] {
                let monitored = MonitoredScope { bound, per, ..MonitoredScope::default() };
                for (from, to) in
                    emit_bounds.iter().flat_map(|from| emit_bounds.map(|to| (*from, to)))
                {
                    let moved = EmitBoundMove::new(0, monitored, from, to);
                    for volume in amounts.iter().flat_map(|a| [0, 1].map(|p| Volume::new(*a, p))) {
                        let emits = |emit_bound: Option<i64>| {
                            emit_bound.is_some_and(|emit_bound| monitored.emits(emit_bound, volume))
                        };
                        let expected = i32::from(emits(to)) - i32::from(emits(from));
                        let changed = moved.filter(|moved| moved.changes(volume));
                        let change = changed.map_or(0, |moved| if moved.enters { 1 } else { -1 });
                        assert_eq!(change, expected, "{monitored:?} {from:?} {to:?} {volume:?}");
                    }
                }
            }
        }
    }
}
