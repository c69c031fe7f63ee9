//! One table of one window: key → volume, in about 25 bytes a slot.
//!
//! A table does not fit into a cache, so an update mostly waits for memory. A caller with many updates looks up
//! the entries of several of them first (`Table::find`), so that these waits overlap.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::key::{Family, Key};
use crate::pending::Fuel;
use crate::types::Volume;

type Slot = (u64, Volume);

/// Volumes by key. An entry of no bytes and no packets is no entry.
#[derive(Default)]
pub struct Table {
    v4: HashTable<Slot>,
    v6: HashTable<Slot>,
    // Seeded: whoever sends packets chooses their addresses, and could make them collide.
    hasher: RandomState,
}

/// The effect of an update on an entry; a volume is `Volume::default()` where there is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Updated {
    /// The volume before the update.
    pub old: Volume,
    /// The volume after the update.
    pub new: Volume,
    /// The effect on the existence of the entry.
    pub entry: EntryChange,
}

/// The effect of an update on the existence of an entry.
///
/// As wide as the fields next to it: a single byte that is written, and then read back with its padding, would
/// make every update wait for the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum EntryChange {
    /// The entry is new.
    Added,
    /// The entry was removed.
    Removed,
    /// There was an entry, and there still is.
    Kept,
    /// There was no entry, and there is none.
    Absent,
}

/// The result of a look-up: the bucket of the entry, if there was one. The entry may have moved or been removed
/// since.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    hash: u64,
    bucket: Option<usize>,
}

impl Updated {
    /// Whether the update took the sum to the end of 64 bits.
    #[inline]
    pub(crate) fn saturates(&self) -> bool {
        self.new.is_saturated() && !self.old.is_saturated()
    }
}

impl Table {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The volume under a key.
    pub fn get(&self, key: Key) -> Option<Volume> {
        let slots = match key.family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        slots.find(self.hasher.hash_one(key.id), |slot| slot.0 == key.id).map(|slot| slot.1)
    }

    /// Looks up an entry that is about to be added to.
    #[inline]
    pub(crate) fn find(&self, key: Key) -> Found {
        let slots = match key.family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let hash = self.hasher.hash_one(key.id);
        Found { hash, bucket: slots.find_bucket_index(hash, |slot| slot.0 == key.id) }
    }

    /// Adds a volume to an entry that was looked up; other updates in between do no harm. A sum that would leave
    /// 64 bits [saturates](Volume::is_saturated) and stays so.
    #[inline]
    pub(crate) fn add_found(&mut self, found: Found, key: Key, delta: Volume) -> Updated {
        let slots = match key.family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        if let Some(slot) = found.bucket.and_then(|bucket| slots.get_bucket_mut(bucket))
            && slot.0 == key.id
        {
            let old = slot.1;
            let new = old.saturating_add(delta);
            if new != Volume::default() {
                slot.1 = new;
                return Updated { old, new, entry: EntryChange::Kept };
            }
        }
        self.add_hashed(found.hash, key, delta)
    }

    fn add_hashed(&mut self, hash: u64, key: Key, delta: Volume) -> Updated {
        let Table { v4, v6, hasher } = self;
        let slots = match key.family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        match slots.entry(hash, |slot| slot.0 == key.id, |slot| hasher.hash_one(slot.0)) {
            Entry::Occupied(mut occupied) => {
                let old = occupied.get().1;
                let new = old.saturating_add(delta);
                if new == Volume::default() {
                    occupied.remove();
                    return Updated { old, new, entry: EntryChange::Removed };
                }
                occupied.get_mut().1 = new;
                Updated { old, new, entry: EntryChange::Kept }
            }
            Entry::Vacant(vacant) => {
                let entry = if delta == Volume::default() {
                    EntryChange::Absent
                } else {
                    vacant.insert((key.id, delta));
                    EntryChange::Added
                };
                Updated { old: Volume::default(), new: delta, entry }
            }
        }
    }

    /// Visits entries from a position on. Returns `true` when all are visited, `false` when the fuel is spent.
    /// Each visit returns its cost, which is taken from the fuel, too. A walk can resume where it stopped as long
    /// as no update came in between.
    pub(crate) fn walk(
        &self,
        position: &mut usize,
        fuel: &mut Fuel,
        mut visit: impl FnMut(Key, Volume) -> usize,
    ) -> bool {
        let v4 = self.v4.num_buckets();
        walk(&self.v4, 0, position, fuel, |id, volume| {
            visit(Key { family: Family::V4, id }, volume)
        }) && walk(&self.v6, v4, position, fuel, |id, volume| {
            visit(Key { family: Family::V6, id }, volume)
        })
    }

    /// As [`Table::walk`], for IPv6 entries alone.
    pub(crate) fn walk_v6(
        &self,
        position: &mut usize,
        fuel: &mut Fuel,
        mut visit: impl FnMut(Key, Volume) -> usize,
    ) -> bool {
        walk(&self.v6, 0, position, fuel, |id, volume| {
            visit(Key { family: Family::V6, id }, volume)
        })
    }
}

/// Walks slots, the first of which has position `first`.
fn walk(
    slots: &HashTable<Slot>,
    first: usize,
    position: &mut usize,
    fuel: &mut Fuel,
    mut visit: impl FnMut(u64, Volume) -> usize,
) -> bool {
    let end = first + slots.num_buckets();
    while *position < end {
        if fuel.is_spent() {
            return false;
        }
        let chunk = end.min(*position + WALK_CHUNK);
        let mut cost = 0;
        for bucket in *position - first..chunk - first {
            if let Some(&(id, volume)) = slots.get_bucket(bucket) {
                cost += visit(id, volume);
            }
        }
        fuel.spend(chunk - *position + cost);
        *position = chunk;
    }
    true
}

/// Positions that a walk visits before it checks the fuel again.
const WALK_CHUNK: usize = 4096;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn key(number: u64) -> Key {
        let family = if number.is_multiple_of(3) { Family::V6 } else { Family::V4 };
        Key { family, id: number }
    }

    /// An entry may move, be removed or be added between its look-up and the addition.
    #[test]
    fn addition_to_an_entry_changed_since_its_look_up_is_exact() {
        let mut table = Table::default();
        let mut model = BTreeMap::<u64, i64>::new();
        for round in 0..200u64 {
            // Some numbers twice, some only now and then, so that tables grow and entries leave.
            let numbers: Vec<u64> = (0..40).map(|n| (n * n + round * (n % 7)) % 700).collect();
            let found: Vec<Found> = numbers.iter().map(|number| table.find(key(*number))).collect();
            for (number, found) in numbers.iter().zip(found) {
                let held = model.entry(*number).or_default();
                let old = *held;
                // Every third time the entry is emptied.
                let bytes = if (number + round).is_multiple_of(3) { -*held } else { 5 };
                *held += bytes;
                let delta = Volume::new(bytes, 0);
                let entry = match (old, *held) {
                    (0, 0) => EntryChange::Absent,
                    (0, _) => EntryChange::Added,
                    (_, 0) => EntryChange::Removed,
                    _ => EntryChange::Kept,
                };
                let [old, new] = [old, *held].map(|bytes| Volume::new(bytes, 0));
                let updated = table.add_found(found, key(*number), delta);
                let expected = Updated { old, new, entry };
                assert_eq!(updated, expected, "round {round}, number {number}");
            }
            model.retain(|_, bytes| *bytes != 0);
            assert_eq!(table.len(), model.len(), "round {round}");
        }
        for (number, bytes) in model {
            assert_eq!(table.get(key(number)), Some(Volume::new(bytes, 0)));
        }
    }
}
