//! Numbers the names and rows of limits: the dataflow has only these small numbers.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use floodmark_dataflows::types::{LimitId, Version, VersionId};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use metrics::Label;
use serde::{Deserialize, Serialize};

use super::rows::Row;
use super::slots::Slots;

/// One of the sets of limits. A name in both sets is two limits, one of each set.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum LimitSet {
    /// The limits that hold.
    #[default]
    Live,
    /// The limits of `--what-if`, which are tried beside those that hold.
    WhatIf,
}

impl LimitSet {
    /// Returns the word for the set in changes and in labels of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            LimitSet::Live => "live",
            LimitSet::WhatIf => "what_if",
        }
    }

    /// Returns the labels of a metric about limits of this set. Metrics of the live set have no label for the
    /// set, so that `--what-if` breaks no dashboard.
    pub fn labels<const N: usize>(self, labels: [(&'static str, &'static str); N]) -> Vec<Label> {
        let set = (self != LimitSet::Live).then_some(("limit_set", self.as_str()));
        let labels = labels.into_iter().chain(set);
        labels.map(|(name, value)| Label::from_static_parts(name, value)).collect()
    }

    fn other(self) -> Self {
        match self {
            LimitSet::Live => LimitSet::WhatIf,
            LimitSet::WhatIf => LimitSet::Live,
        }
    }
}

/// Names and rows by number. A number stands for one name or row until that is [forgotten](Catalog::forget); then the
/// catalog may reuse it for another one, after all other numbers.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    has_two_sets: bool,
    // Copies share most of these: an explanation under way keeps a copy of the catalog of its tick.
    names: Slots<Name>,
    rows: Slots<NumberedRow>,
    /// Numbers of limits by set and name. The names themselves are only in `names`.
    limits: [HashTable<LimitId>; 2],
    /// Numbers of rows, by set: equal rows of the two sets may be written differently.
    versions: [HashTable<VersionId>; 2],
    hasher: RandomState,
    limit_numbers: NumberAllocator,
    version_numbers: NumberAllocator,
}

/// Allocates free numbers in a circle: a number that was freed comes last.
#[derive(Clone, Copy, Debug)]
struct NumberAllocator {
    next: u32,
    /// The size of the circle; numbers start at 0.
    count: u32,
}

impl Default for NumberAllocator {
    fn default() -> Self {
        NumberAllocator { next: 0, count: u32::MAX }
    }
}

impl NumberAllocator {
    /// Returns a free number; `used` is the count of numbers in use.
    ///
    /// # Panics
    /// If all are in use. Memory runs out before that, unless a test has fewer numbers.
    fn allocate(&mut self, used: usize, is_in_use: impl Fn(u32) -> bool) -> u32 {
        assert!(used < self.count as usize, "all {} numbers of limits are in use", self.count);
        loop {
            let number = self.next;
            self.next = (number + 1) % self.count;
            if !is_in_use(number) {
                return number;
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Name {
    set: LimitSet,
    /// The newest row of this name, which contains the name.
    row: Arc<Row>,
    /// The number of rows of this name.
    rows: u32,
}

#[derive(Clone, Debug)]
struct NumberedRow {
    limit: LimitId,
    /// Whether the row holds. One that does not is forgotten later.
    holds: bool,
    /// Shared with the feed that read the row.
    row: Arc<Row>,
}

// There may be a million of each.
const _: () = assert!(size_of::<Option<Name>>() <= 16 && size_of::<Option<NumberedRow>>() <= 16);

impl Catalog {
    /// Returns an empty catalog.
    pub fn new() -> Self {
        Catalog::default()
    }

    /// Returns an empty catalog for two sets of limits, so that reports about a limit name its set.
    pub fn of_two_sets() -> Self {
        Catalog { has_two_sets: true, ..Catalog::default() }
    }

    /// Returns the catalog with `count` numbers for names and as many for rows.
    pub fn with_numbers(self, count: u32) -> Self {
        let numbers = NumberAllocator { next: 0, count };
        Catalog { limit_numbers: numbers, version_numbers: numbers, ..self }
    }

    /// Returns the sets of limits.
    pub fn sets(&self) -> &'static [LimitSet] {
        match self.has_two_sets {
            true => &[LimitSet::Live, LimitSet::WhatIf],
            false => &[LimitSet::Live],
        }
    }

    /// Returns the set of a limit for reports; `None` if there is only one set.
    pub fn named_set(&self, limit: LimitId) -> Option<LimitSet> {
        self.has_two_sets.then(|| self.set(limit))
    }

    /// Returns the versions of sorted rows of a set, and numbers new rows. Equal rows are equal versions, whenever they
    /// were read.
    pub fn versions(&mut self, set: LimitSet, sorted: &[Arc<Row>]) -> BTreeSet<Version> {
        sorted.iter().map(|row| self.version(set, row)).collect()
    }

    /// Numbers sorted rows of a set. The order makes numbers independent of the order in a file, so that runs can be
    /// compared.
    pub fn add(&mut self, set: LimitSet, sorted: &[Arc<Row>]) {
        self.reserve(set, sorted.len());
        for row in sorted {
            self.version(set, row);
        }
    }

    /// Reserves capacity for `more` rows of a set: a hash table that grows hashes all rows again.
    pub fn reserve(&mut self, set: LimitSet, more: usize) {
        let Catalog { limits, versions, names, rows, hasher, .. } = self;
        limits[set as usize].reserve(more, |id| hash_of_name(hasher, names, *id));
        versions[set as usize].reserve(more, |id| hasher.hash_one(&*numbered(rows, *id).row));
    }

    /// Returns the versions of all rows that hold, by number.
    pub fn held(&self) -> impl Iterator<Item = Version> {
        let held = self.rows.iter().filter(|(_, numbered)| numbered.holds);
        held.map(|(id, numbered)| as_version(VersionId(id), numbered))
    }

    /// Returns all rows that hold, each with its set.
    pub fn held_rows(&self) -> impl Iterator<Item = (LimitSet, &Arc<Row>)> {
        let held = self.rows.iter().filter(|(_, numbered)| numbered.holds);
        held.map(|(_, numbered)| (self.set(numbered.limit), &numbered.row))
    }

    /// Returns the name of a limit.
    ///
    /// # Panics
    /// If the number is not from this catalog.
    pub fn name(&self, limit: LimitId) -> &str {
        &self.named(limit).row.name
    }

    /// Returns the set of a limit.
    ///
    /// # Panics
    /// If the number is not from this catalog.
    pub fn set(&self, limit: LimitId) -> LimitSet {
        self.named(limit).set
    }

    /// Returns the limit of the same name in the other set, if a row of that set has had the name.
    ///
    /// # Panics
    /// If the number is not from this catalog.
    pub fn counterpart(&self, limit: LimitId) -> Option<LimitId> {
        self.limit(self.set(limit).other(), self.name(limit))
    }

    /// Returns the row of a version, with its value as last written.
    ///
    /// # Panics
    /// If the number is not from this catalog.
    pub fn row(&self, version: VersionId) -> &Row {
        &numbered(&self.rows, version).row
    }

    /// Returns the number of a limit, if a row of the set has had its name.
    pub fn limit(&self, set: LimitSet, name: &str) -> Option<LimitId> {
        let has_name = |id: &LimitId| self.named(*id).row.name == *name;
        self.limits[set as usize].find(self.hasher.hash_one(name), has_name).copied()
    }

    /// Returns the version of a row of a set, and numbers a new row.
    pub fn version(&mut self, set: LimitSet, row: &Arc<Row>) -> Version {
        let hash = self.hasher.hash_one(&**row);
        let is_same = |id: &VersionId| numbered(&self.rows, *id).row == *row;
        let known = self.versions[set as usize].find(hash, is_same).copied();
        let id = known.unwrap_or_else(|| self.add_row(set, row, hash));
        let known = self.rows.get(id.0).expect("each row that has a number is stored");
        // 5 may have become 5.0, which is the same value in another spelling.
        if !known.row.is_written_as(row) {
            let known = self.rows.get_mut(id.0).expect("the row is stored");
            known.row = row.clone();
            self.names.get_mut(known.limit.0).expect("a row has a name").row = row.clone();
        }
        as_version(id, numbered(&self.rows, id))
    }

    /// Whether the row of a version holds. A new row does, until [`Catalog::set_holds`] changes that.
    pub fn holds(&self, version: VersionId) -> bool {
        self.rows.get(version.0).is_some_and(|row| row.holds)
    }

    /// Sets whether the row of a version holds.
    pub fn set_holds(&mut self, version: VersionId, holds: bool) {
        if self.holds(version) != holds
            && let Some(row) = self.rows.get_mut(version.0)
        {
            row.holds = holds;
        }
    }

    /// Returns the row of each limit that is in force at a moment, in nanoseconds since 1970, and the next one, of
    /// the rows that hold. They come in the order of the limits.
    pub fn in_force(&self, at: i128) -> impl Iterator<Item = (LimitId, CurrentAndNext<'_>)> {
        let held = self.rows.iter().filter(|(_, row)| row.holds);
        let mut held: Vec<(LimitId, &Row)> = held.map(|(_, row)| (row.limit, &*row.row)).collect();
        held.sort_unstable_by_key(|(limit, _)| *limit);
        let mut held = held.into_iter().peekable();
        std::iter::from_fn(move || {
            let (limit, _) = *held.peek()?;
            let mut rows = CurrentAndNext::default();
            while let Some((_, row)) = held.next_if(|(of, _)| *of == limit) {
                rows.add(row, at);
            }
            Some((limit, rows))
        })
    }

    /// Forgets a row that no longer holds, and its name with the last row of that name.
    ///
    /// Call this only once all changes up to the last tick at which the row ceased to hold are written: after that no
    /// change refers to the row, and its number may be reused.
    pub fn forget(&mut self, version: VersionId) {
        let Some(NumberedRow { row, limit, .. }) = self.rows.remove(version.0) else { return };
        let set = self.set(limit) as usize;
        remove(&mut self.versions[set], self.hasher.hash_one(&*row), version);
        let name = self.names.get_mut(limit.0).expect("a row has a name");
        name.rows -= 1;
        if name.rows == 0 {
            remove(&mut self.limits[set], self.hasher.hash_one(&row.name), limit);
            self.names.remove(limit.0);
        }
    }

    /// Returns the number of rows, with those that no longer hold and are not forgotten.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the catalog has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 0
    }

    fn named(&self, limit: LimitId) -> &Name {
        self.names.get(limit.0).expect("the number is from this catalog")
    }

    fn add_name(&mut self, set: LimitSet, row: &Arc<Row>) -> LimitId {
        let names = &self.names;
        let is_in_use = |number| names.get(number).is_some();
        let id = LimitId(self.limit_numbers.allocate(names.len(), is_in_use));
        self.names.insert(id.0, Name { set, row: row.clone(), rows: 0 });
        let Catalog { limits, names, hasher, .. } = self;
        let hash = |id: &LimitId| hash_of_name(hasher, names, *id);
        limits[set as usize].insert_unique(hash(&id), id, hash);
        id
    }

    fn add_row(&mut self, set: LimitSet, row: &Arc<Row>, hash: u64) -> VersionId {
        let limit = self.limit(set, &row.name).unwrap_or_else(|| self.add_name(set, row));
        let rows = &self.rows;
        let is_in_use = |number| rows.get(number).is_some();
        let id = VersionId(self.version_numbers.allocate(rows.len(), is_in_use));
        self.rows.insert(id.0, NumberedRow { limit, holds: true, row: row.clone() });
        let Catalog { versions, rows, hasher, .. } = self;
        let rehash = |id: &VersionId| hasher.hash_one(&*numbered(rows, *id).row);
        versions[set as usize].insert_unique(hash, id, rehash);
        let name = self.names.get_mut(limit.0).expect("its name has a number");
        name.row = row.clone();
        name.rows += 1;
        id
    }
}

fn hash_of_name(hasher: &RandomState, names: &Slots<Name>, limit: LimitId) -> u64 {
    let name = names.get(limit.0).expect("each name that has a number is stored");
    hasher.hash_one(&name.row.name)
}

fn numbered(rows: &Slots<NumberedRow>, version: VersionId) -> &NumberedRow {
    rows.get(version.0).expect("the number is from this catalog")
}

fn as_version(id: VersionId, NumberedRow { limit, row, .. }: &NumberedRow) -> Version {
    Version {
        limit: *limit,
        effective: row.effective,
        id,
        bound: row.bound,
        scope: row.scope,
        value: row.value.as_ref().map(|value| value.threshold(row.bound)),
    }
}

fn remove<T: PartialEq>(table: &mut HashTable<T>, hash: u64, number: T) {
    if let Ok(entry) = table.find_entry(hash, |other| *other == number) {
        entry.remove();
    }
}

/// The rows of one limit around a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CurrentAndNext<'a> {
    /// The row in force: the one with the latest effective date up to the moment. A row without a value means that the
    /// limit does not exist.
    pub now: Option<&'a Row>,
    /// The first row after the moment.
    pub next: Option<&'a Row>,
}

impl<'a> CurrentAndNext<'a> {
    /// Adds a row of the limit.
    fn add(&mut self, row: &'a Row, at: i128) {
        if row.effective <= at {
            let now = self.now.filter(|now| now.effective > row.effective);
            self.now = now.or(Some(row));
        } else {
            let next = self.next.filter(|next| next.effective < row.effective);
            self.next = next.or(Some(row));
        }
    }
}
