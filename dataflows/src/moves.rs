//! Cuts that move, and what that puts out of each entry of a table.

use std::cell::OnceCell;
use std::rc::Rc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::addresses::Key;
use crate::cuts::{PutOut, filter};
use crate::gauge::{Cut, CutChange, Rejudged};
use crate::prefix_index::PrefixIndex;
use crate::ranges::WindowRange;
use crate::time::Window;
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

/// The cuts that move in one table.
pub(crate) struct Moves {
    pub(crate) changes: Rc<CutChanges>,
    pub(crate) window: Window,
    pub(crate) observed: bool,
    pub(crate) exceptions: Exceptions,
}

impl Moves {
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
        let changes = &self.changes.changes;
        if changes.len() <= CHANGES_ASKED_IN_TURN {
            return (0..changes.len() as u32)
                .map(|at| self.show_one(at, &place, key, volume, out))
                .sum();
        }
        let place = place();
        let mut updates = 0;
        self.changes.index().containing(place, |at| {
            updates += self.show_one(*at, || place, key, volume, out);
        });
        updates
    }

    fn show_one(
        &self,
        at: u32,
        place: impl FnOnce() -> Pair,
        key: Key,
        volume: Volume,
        out: &mut impl PutOut,
    ) -> usize {
        let CutChange { gauge, ref scope, windows, from, to } = self.changes.changes[at as usize];
        if !windows.contains(self.window) || (gauge.bound == Bound::Min && !self.observed) {
            return 0;
        }
        let (from, to) = match self.exceptions.is_empty() {
            true => (from, to),
            false => self.exceptions.get(&at).copied().unwrap_or((from, to)),
        };
        let before = from.is_some_and(|cut| gauge.puts_out(cut.at, volume));
        let after = to.is_some_and(|cut| gauge.puts_out(cut.at, volume));
        if before == after {
            return 0;
        }
        let (place, (sources, destinations)) = (place(), filter(scope));
        if !(sources.contains(place.source()) && destinations.contains(place.destination())) {
            return 0;
        }
        out.put(gauge, gauge.total(key, volume), if after { 1 } else { -1 });
        1
    }
}
