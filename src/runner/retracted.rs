//! Rows of limits that no longer hold, until no change written later can name them: then the catalog forgets them, so
//! that edits do not grow memory for as long as the run goes on.

use std::collections::{HashMap, HashSet, VecDeque};

use floodmark_dataflows::types::VersionId;

use crate::limits::catalog::Catalog;

/// Number of deferred rows at which they are first checked against the changes still to be published.
const SWEEP_MIN: usize = 1024;

/// The rows that no longer hold and are still in the catalog.
#[derive(Debug, Default)]
pub(super) struct RetractedRows {
    /// Rows in the order in which they were retracted, each with the tick of that.
    by_tick: VecDeque<(u64, VersionId)>,
    /// The last of these ticks of each row, which may return, and be retracted again, before the first tick is written.
    last: HashMap<VersionId, u64>,
    /// Rows that changes may name which are published later.
    deferred: HashSet<VersionId>,
    /// Number of deferred rows at which they are checked again.
    sweep_at: usize,
}

impl RetractedRows {
    /// Adds a row that does not hold from this tick on.
    pub(super) fn add(&mut self, tick: u64, version: VersionId) {
        self.by_tick.push_back((tick, version));
        self.last.insert(version, tick);
    }

    /// Forgets the rows of ticks up to this one, all of whose changes are written. Rows that hold again
    /// stay. `named` returns the versions that changes to be published later name, if there may be such:
    /// it is costly, and called when the number of deferred rows has doubled.
    pub(super) fn forget(
        &mut self,
        tick: u64,
        named: Option<&dyn Fn() -> HashSet<VersionId>>,
        catalog: &mut Catalog,
    ) {
        while let Some((at, version)) = self.by_tick.pop_front_if(|(at, _)| *at <= tick) {
            // Changes of the ticks in between name it.
            if self.last.get(&version).is_some_and(|last| *last > at) {
                continue;
            }
            self.last.remove(&version);
            match named {
                _ if catalog.holds(version) => {}
                Some(_) => drop(self.deferred.insert(version)),
                None => catalog.forget(version),
            }
        }
        if named.is_none() {
            for version in std::mem::take(&mut self.deferred) {
                if !catalog.holds(version) && !self.last.contains_key(&version) {
                    catalog.forget(version);
                }
            }
        }
        if let Some(named) = named.filter(|_| self.deferred.len() >= self.sweep_at.max(SWEEP_MIN)) {
            let named = named();
            let retracted_later = &self.last;
            self.deferred.retain(|version| {
                // Its own tick decides about it.
                let comes_later = catalog.holds(*version) || retracted_later.contains_key(version);
                let is_named = named.contains(version);
                if !comes_later && !is_named {
                    catalog.forget(*version);
                }
                !comes_later && is_named
            });
            self.sweep_at = 2 * self.deferred.len();
        }
    }

    /// Whether no row waits for its tick to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.by_tick.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::types::Version;

    use super::*;
    use crate::limits::catalog::LimitSet;
    use crate::limits::json;
    use crate::limits::rows::Defaults;

    /// Adds a row of one limit, which holds, with this value.
    fn version(catalog: &mut Catalog, value: u64) -> Version {
        let text = format!(
            "{{\"limit_name\":\"a\",\"limit_value\":{value},\"effective_date\":\"2026-01-01\"}}"
        );
        let table = json::read(text.as_bytes(), Defaults::default()).expect("a row");
        let version = *catalog.versions(LimitSet::Live, table.held()).first().expect("one row");
        catalog.set_holds(version.id, true);
        version
    }

    /// The row of a version does not hold from this tick on.
    fn leave(gone: &mut RetractedRows, tick: u64, version: Version, catalog: &mut Catalog) {
        catalog.set_holds(version.id, false);
        gone.add(tick, version.id);
    }

    #[test]
    fn row_of_a_deferred_change_is_kept_and_others_are_forgotten() {
        let (mut catalog, mut gone) = (Catalog::of_two_sets(), RetractedRows::default());
        let kept = version(&mut catalog, 0);
        let named = || HashSet::from([kept.id]);
        let mut held = kept;
        for tick in 1..20_000 {
            let next = version(&mut catalog, tick);
            leave(&mut gone, tick, held, &mut catalog);
            held = next;
            gone.forget(tick, Some(&named), &mut catalog);
            assert!(catalog.len() <= SWEEP_MIN + 2, "{} rows at tick {tick}", catalog.len());
            assert_eq!(catalog.row(kept.id).name, "a");
        }
        let none = HashSet::new;
        for tick in 20_000..24_000 {
            let next = version(&mut catalog, tick);
            leave(&mut gone, tick, held, &mut catalog);
            held = next;
            gone.forget(tick, Some(&none), &mut catalog);
        }
        assert_eq!(catalog.limit(LimitSet::Live, "a"), Some(held.limit));
        assert!(version(&mut catalog, 0).id > held.id, "the row was forgotten");
    }

    #[test]
    fn row_retracted_twice_is_forgotten_after_the_second_tick() {
        let (mut catalog, mut gone) = (Catalog::new().with_numbers(2), RetractedRows::default());
        let one = version(&mut catalog, 1);
        // It left at tick 1, came back at tick 2, and left at tick 3, before tick 1 was written.
        leave(&mut gone, 1, one, &mut catalog);
        leave(&mut gone, 3, one, &mut catalog);
        for tick in 1..3 {
            gone.forget(tick, None, &mut catalog);
            assert_eq!(catalog.row(one.id).name, "a", "changes of tick 2 name it");
        }
        let other = version(&mut catalog, 2);
        gone.forget(3, None, &mut catalog);
        assert_eq!((catalog.len(), catalog.row(other.id).name.as_str()), (1, "a"));
        assert!(gone.is_empty());
        // A third row has the number of the first one, and stays when the second one leaves.
        let third = version(&mut catalog, 3);
        assert_eq!(third.id, one.id);
        leave(&mut gone, 4, other, &mut catalog);
        gone.forget(4, None, &mut catalog);
        assert_eq!(catalog.len(), 1);
        assert_eq!(catalog.row(third.id).value.as_ref().map(|value| value.text()), Some("3"));
    }

    #[test]
    fn row_that_holds_again_is_kept() {
        let (mut catalog, mut gone) = (Catalog::new(), RetractedRows::default());
        let one = version(&mut catalog, 1);
        leave(&mut gone, 1, one, &mut catalog);
        gone.forget(0, None, &mut catalog);
        assert_eq!(catalog.len(), 1, "its changes are not written yet");
        assert_eq!(version(&mut catalog, 1), one);
        gone.forget(1, None, &mut catalog);
        assert_eq!(catalog.len(), 1);
        leave(&mut gone, 2, one, &mut catalog);
        gone.forget(2, None, &mut catalog);
        assert!(catalog.is_empty() && gone.is_empty());
    }
}
