//! Rows of limits that no longer hold, until nothing written later can name them: then the catalog forgets
//! them. Edits go on for as long as the run does.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use floodmark_dataflows::types::{Version, VersionId};

use crate::limits::catalog::Catalog;

/// Rows that are shown later are looked through when there are this many, at first.
const SWEEP_MIN: usize = 1024;

/// The rows that no longer hold and are still in the catalog.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Each with the tick from which on it does not hold.
    leaving: VecDeque<(u64, Version)>,
    /// The last of these ticks for each: a row may come back, and leave again, before the first is written.
    last: HashMap<VersionId, u64>,
    /// Rows that changes which are not shown yet may name.
    lingering: BTreeSet<Version>,
    sweep_at: usize,
}

impl Gone {
    /// A row does not hold from this tick on.
    pub(super) fn add(&mut self, tick: u64, version: Version) {
        self.leaving.push_back((tick, version));
        self.last.insert(version.id, tick);
    }

    /// Forgets the rows of ticks up to this one, all of whose changes are written. Rows that `held` has
    /// again stay. `named` returns the versions that changes to be shown later name, if there may be such:
    /// it is costly, and called when the rows that linger have doubled.
    pub(super) fn forget(
        &mut self,
        tick: u64,
        held: &BTreeSet<Version>,
        named: Option<&dyn Fn() -> HashSet<VersionId>>,
        catalog: &mut Catalog,
    ) {
        while let Some((gone, version)) = self.leaving.pop_front_if(|(gone, _)| *gone <= tick) {
            // Changes of the ticks in between name it.
            if self.last.get(&version.id).is_some_and(|last| *last > gone) {
                continue;
            }
            self.last.remove(&version.id);
            match named {
                _ if held.contains(&version) => {}
                Some(_) => drop(self.lingering.insert(version)),
                None => catalog.forget(&version),
            }
        }
        if let Some(named) = named.filter(|_| self.lingering.len() >= self.sweep_at.max(SWEEP_MIN))
        {
            let named = named();
            let leaving = &self.last;
            self.lingering.retain(|version| {
                // Of these the turn comes later.
                let comes_later = held.contains(version) || leaving.contains_key(&version.id);
                let lingers = named.contains(&version.id);
                if !comes_later && !lingers {
                    catalog.forget(version);
                }
                !comes_later && lingers
            });
            self.sweep_at = 2 * self.lingering.len();
        }
    }

    /// Whether no row waits for its tick to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.leaving.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::catalog::LimitSet;
    use crate::limits::json;
    use crate::limits::rows::Defaults;

    /// The version of a value of one limit.
    fn version(catalog: &mut Catalog, value: u64) -> Version {
        let text = format!(
            "{{\"limit_name\":\"a\",\"limit_value\":{value},\"effective_date\":\"2026-01-01\"}}"
        );
        let table = json::read(text.as_bytes(), Defaults::default()).expect("a row");
        *catalog.versions(LimitSet::Live, table.held()).first().expect("one row")
    }

    #[test]
    fn row_that_is_shown_later_stays_and_others_are_forgotten() {
        let (mut catalog, mut gone) = (Catalog::of_two_sets(), Gone::default());
        let kept = version(&mut catalog, 0);
        let named = || HashSet::from([kept.id]);
        let mut held = kept;
        for tick in 1..20_000 {
            let next = version(&mut catalog, tick);
            gone.add(tick, held);
            held = next;
            gone.forget(tick, &BTreeSet::from([held]), Some(&named), &mut catalog);
            assert!(catalog.len() <= SWEEP_MIN + 2, "{} rows at tick {tick}", catalog.len());
            assert_eq!(catalog.row(kept.id).name, "a");
        }
        let none = HashSet::new;
        for tick in 20_000..24_000 {
            let next = version(&mut catalog, tick);
            gone.add(tick, held);
            held = next;
            gone.forget(tick, &BTreeSet::from([held]), Some(&none), &mut catalog);
        }
        assert_eq!(catalog.limit(LimitSet::Live, "a"), Some(held.limit));
        assert!(version(&mut catalog, 0).id > held.id, "the row was forgotten");
    }

    #[test]
    fn row_that_leaves_twice_is_forgotten_after_the_second_time() {
        let (mut catalog, mut gone) = (Catalog::new().with_numbers(2), Gone::default());
        let one = version(&mut catalog, 1);
        // It left at tick 1, came back at tick 2, and left at tick 3, before tick 1 was written.
        gone.add(1, one);
        gone.add(3, one);
        for tick in 1..3 {
            gone.forget(tick, &BTreeSet::new(), None, &mut catalog);
            assert_eq!(catalog.row(one.id).name, "a", "changes of tick 2 name it");
        }
        let other = version(&mut catalog, 2);
        gone.forget(3, &BTreeSet::from([other]), None, &mut catalog);
        assert_eq!((catalog.len(), catalog.row(other.id).name.as_str()), (1, "a"));
        assert!(gone.is_empty());
        // A third row has the number of the first one, and stays when the second one leaves.
        let third = version(&mut catalog, 3);
        assert_eq!(third.id, one.id);
        gone.add(4, other);
        gone.forget(4, &BTreeSet::from([third]), None, &mut catalog);
        assert_eq!(catalog.len(), 1);
        assert_eq!(catalog.row(third.id).value.as_ref().map(|value| value.text()), Some("3"));
    }

    #[test]
    fn row_that_holds_again_is_not_forgotten() {
        let (mut catalog, mut gone) = (Catalog::new(), Gone::default());
        let one = version(&mut catalog, 1);
        gone.add(1, one);
        gone.forget(0, &BTreeSet::new(), None, &mut catalog);
        assert_eq!(catalog.len(), 1, "its changes are not written yet");
        gone.forget(1, &BTreeSet::from([one]), None, &mut catalog);
        assert_eq!(catalog.len(), 1);
        gone.add(2, one);
        gone.forget(2, &BTreeSet::new(), None, &mut catalog);
        assert!(catalog.is_empty() && gone.is_empty());
    }
}
