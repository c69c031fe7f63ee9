//! The inner loop of the computation: updates of pairs, counted in the table of their window.

use crate::addresses::Addresses;
use crate::combine::{UpdateBatch, pair_v6};
use crate::emit_bounds::{EmitBoundIndex, MonitoredTable};
use crate::emitted::EmittedOf;
use crate::folds::{FoldIndex, Folds};
use crate::key::{Family, Key};
use crate::reports::Saturated;
use crate::table::Found;
use crate::time::{Time, Timed, Window};
use crate::types::{Entity, Per, Volume};

/// Entries that are looked up before any of them is added to, so that their waits for memory overlap.
const FOUND_AT_ONCE: usize = 32;

/// The tables and sums that updates of one window at one time go into.
pub(crate) struct Counting<'a> {
    pub(crate) time: Time,
    pub(crate) window: Window,
    pub(crate) pairs: &'a mut MonitoredTable,
    pub(crate) emit_bounds: &'a EmitBoundIndex,
    pub(crate) folds: &'a mut Folds,
    pub(crate) fold_index: &'a FoldIndex,
    /// Sums of rollups that updates went into.
    pub(crate) folded: usize,
    pub(crate) saturated: &'a mut Vec<Timed<Saturated>>,
}

impl Counting<'_> {
    /// Counts the updates of a batch.
    pub(crate) fn batch(
        &mut self,
        batch: &UpdateBatch,
        addresses: &mut Addresses,
        emitted: &mut EmittedOf<'_>,
    ) {
        let mut keyed = [(Key::MIN, Volume::default()); FOUND_AT_ONCE];
        for updates in batch.v4.chunks(FOUND_AT_ONCE) {
            for (keyed, &(bits, volume)) in keyed.iter_mut().zip(updates) {
                *keyed = (Key::v4(bits), volume);
            }
            self.add(&keyed[..updates.len()], addresses, emitted);
        }
        for updates in batch.v6.chunks(FOUND_AT_ONCE) {
            for (keyed, &(bits, volume)) in keyed.iter_mut().zip(updates) {
                *keyed = (addresses.pair_key(pair_v6(bits)), volume);
            }
            self.add(&keyed[..updates.len()], addresses, emitted);
        }
    }

    /// Counts at most [`FOUND_AT_ONCE`] updates.
    #[inline]
    fn add(
        &mut self,
        updates: &[(Key, Volume)],
        addresses: &mut Addresses,
        emitted: &mut EmittedOf<'_>,
    ) {
        let mut found = [Found::default(); FOUND_AT_ONCE];
        for (found, (key, _)) in found.iter_mut().zip(updates) {
            *found = self.pairs.table.find(*key);
        }
        for (found, &(key, volume)) in found.iter().zip(updates) {
            let place = || addresses.pair(key);
            let updated = self.pairs.add(self.emit_bounds, *found, key, place, volume, emitted);
            if updated.saturates() {
                let entity = Entity::Pair(addresses.pair(key));
                let total = Saturated { window: self.window, rollup: None, entity };
                self.saturated.push((total, self.time));
            }
            if key.family == Family::V6 {
                addresses.follow(Per::Pair, key, updated.entry, self.time);
            }
            if !self.fold_index.is_empty() {
                let pair = addresses.pair(key);
                self.folded += self.folds.add(self.fold_index, self.window, pair, volume);
            }
        }
    }
}
