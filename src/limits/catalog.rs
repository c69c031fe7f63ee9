//! The owner of names and rows: the dataflow knows both as small numbers only.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use floodmark_dataflows::types::{LimitId, Version, VersionId};
use metrics::Label;
use serde::Serialize;

use super::rows::Row;

/// Which of the sets of limits a limit is in. A name may be in both: it is a limit of each then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitSet {
    /// The one that holds.
    #[default]
    Live,
    /// The one beside it, of `--what-if`.
    WhatIf,
}

impl LimitSet {
    /// As it is written in changes and in labels of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            LimitSet::Live => "live",
            LimitSet::WhatIf => "what_if",
        }
    }

    /// The labels of a metric about limits of this set. Of the one that holds they are as if there were
    /// no other, so that nobody has to ask otherwise when somebody tries what would be.
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

/// Names and rows by number. A number means one thing until that is [forgotten](Catalog::forget); then it
/// may be given to another name or row, after all other numbers.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    compares: bool,
    // Texts are shared with copies: one who is being answered keeps the catalog of his tick.
    names: HashMap<LimitId, Name>,
    limits: [HashMap<Arc<str>, LimitId>; 2],
    rows: HashMap<VersionId, Arc<Row>>,
    /// By set, too: equal rows of the two may be written differently.
    versions: [HashMap<Arc<Row>, VersionId>; 2],
    limit_numbers: Numbers,
    version_numbers: Numbers,
}

/// Gives numbers that are free, in a circle: a number that was freed comes last.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    next: u32,
    /// How many numbers there are, from 0 on.
    count: u32,
}

impl Default for Numbers {
    fn default() -> Self {
        Numbers { next: 0, count: u32::MAX }
    }
}

impl Numbers {
    /// Gives a number that is not taken; so many are.
    ///
    /// # Panics
    /// If all are taken, for which the memory of no machine is large enough, unless a test has fewer.
    fn give(&mut self, taken: usize, is_taken: impl Fn(u32) -> bool) -> u32 {
        assert!(taken < self.count as usize, "all {} numbers of limits are taken", self.count);
        loop {
            let number = self.next;
            self.next = (number + 1) % self.count;
            if !is_taken(number) {
                return number;
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Name {
    set: LimitSet,
    name: Arc<str>,
    /// Rows of this name.
    rows: usize,
}

impl Catalog {
    /// A catalog of nothing.
    pub fn new() -> Self {
        Catalog::default()
    }

    /// The same, for two sets of limits. What is said of a limit says of which set it is then.
    pub fn of_two_sets() -> Self {
        Catalog { compares: true, ..Catalog::default() }
    }

    /// The same, with so many numbers for names and as many for rows.
    pub fn with_numbers(self, count: u32) -> Self {
        let numbers = Numbers { next: 0, count };
        Catalog { limit_numbers: numbers, version_numbers: numbers, ..self }
    }

    /// The sets of limits there are.
    pub fn sets(&self) -> &'static [LimitSet] {
        match self.compares {
            true => &[LimitSet::Live, LimitSet::WhatIf],
            false => &[LimitSet::Live],
        }
    }

    /// The set to be named with a limit; `None` if there is only one set.
    pub fn named_set(&self, limit: LimitId) -> Option<LimitSet> {
        self.compares.then(|| self.set(limit))
    }

    /// The versions that rows of a set are. Equal rows are equal versions, whenever they were read; the
    /// order of the rows makes no difference.
    pub fn versions<'a>(
        &mut self,
        set: LimitSet,
        rows: impl IntoIterator<Item = &'a Row>,
    ) -> BTreeSet<Version> {
        // Sorted, so that numbers do not depend on the order in a file, and runs can be compared.
        let sorted: BTreeSet<&Row> = rows.into_iter().collect();
        sorted.into_iter().map(|row| self.version(set, row)).collect()
    }

    /// The name of a limit.
    ///
    /// # Panics
    /// If the number is not from this catalog.
    pub fn name(&self, limit: LimitId) -> &str {
        &self.names[&limit].name
    }

    /// The set that a limit is in.
    ///
    /// # Panics
    /// If the number is not from this catalog.
    pub fn set(&self, limit: LimitId) -> LimitSet {
        self.names[&limit].set
    }

    /// The limit of the same name in the other set, if a row there has had it.
    ///
    /// # Panics
    /// If the number is not from this catalog.
    pub fn counterpart(&self, limit: LimitId) -> Option<LimitId> {
        self.limit(self.set(limit).other(), self.name(limit))
    }

    /// The row of a version, with its value as last written.
    ///
    /// # Panics
    /// If the number is not from this catalog.
    pub fn row(&self, version: VersionId) -> &Row {
        &self.rows[&version]
    }

    /// The number of a limit, if a row of the set has had its name.
    pub fn limit(&self, set: LimitSet, name: &str) -> Option<LimitId> {
        self.limits[set as usize].get(name).copied()
    }

    /// The version that a row of a set is.
    pub fn version(&mut self, set: LimitSet, row: &Row) -> Version {
        let limit = self.limit(set, &row.name).unwrap_or_else(|| self.add_name(set, &row.name));
        let held = self.versions[set as usize].get(row).copied();
        let id = held.unwrap_or_else(|| self.add_row(set, limit, row));
        // 5 may have become 5.0, which is the same value in other letters.
        let known = self.rows.get_mut(&id).expect("each row that has a number is here");
        let text = |row: &Row| row.value.as_ref().map(|value| value.text().to_owned());
        if text(known) != text(row) {
            *known = Arc::new(row.clone());
        }
        Version {
            limit,
            effective: row.effective,
            id,
            bound: row.bound,
            scope: row.scope,
            value: row.value.as_ref().map(|value| value.threshold(row.bound)),
        }
    }

    /// Forgets a row that holds no longer, and its name with the last row of that.
    ///
    /// Only when all is written that was said up to the last tick at which it ceased to hold: after that
    /// nobody is judged by it, and its number may be that of another row.
    pub fn forget(&mut self, version: &Version) {
        let Some(row) = self.rows.remove(&version.id) else { return };
        debug_assert_eq!(
            (row.effective, row.bound, row.scope),
            (version.effective, version.bound, version.scope)
        );
        let set = self.set(version.limit) as usize;
        self.versions[set].remove(&row);
        let name = self.names.get_mut(&version.limit).expect("a row has a name");
        name.rows -= 1;
        if name.rows == 0 {
            self.limits[set].remove(&name.name);
            self.names.remove(&version.limit);
        }
    }

    /// How many rows are known.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no row is known.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn add_name(&mut self, set: LimitSet, name: &str) -> LimitId {
        let names = &self.names;
        let is_taken = |number| names.contains_key(&LimitId(number));
        let id = LimitId(self.limit_numbers.give(names.len(), is_taken));
        let name: Arc<str> = name.into();
        self.names.insert(id, Name { set, name: name.clone(), rows: 0 });
        self.limits[set as usize].insert(name, id);
        id
    }

    fn add_row(&mut self, set: LimitSet, limit: LimitId, row: &Row) -> VersionId {
        let rows = &self.rows;
        let is_taken = |number| rows.contains_key(&VersionId(number));
        let id = VersionId(self.version_numbers.give(rows.len(), is_taken));
        let row = Arc::new(row.clone());
        self.rows.insert(id, row.clone());
        self.versions[set as usize].insert(row, id);
        self.names.get_mut(&limit).expect("its name has a number").rows += 1;
        id
    }
}

/// The versions of one limit around a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing<'a> {
    /// The one in force: with the greatest effective date up to the moment. It may say that the limit
    /// does not exist.
    pub now: Option<&'a Version>,
    /// The first one after the moment.
    pub next: Option<&'a Version>,
}

/// What of each limit is in force at a moment, in nanoseconds since 1970, and what follows; in the order
/// of the limits.
pub fn in_force(
    versions: &BTreeSet<Version>,
    at: i128,
) -> impl Iterator<Item = (LimitId, Standing<'_>)> {
    // They are in the order of their limits, and of their dates in that.
    let mut versions = versions.iter().peekable();
    std::iter::from_fn(move || {
        let limit = versions.peek()?.limit;
        let mut standing = Standing::default();
        while let Some(version) = versions.next_if(|version| version.limit == limit) {
            if version.effective <= at {
                standing.now = Some(version);
            } else if standing.next.is_none() {
                standing.next = Some(version);
            }
        }
        Some((limit, standing))
    })
}
