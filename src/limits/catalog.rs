//! The owner of names and rows: the dataflow knows both as small numbers only.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use floodmark_dataflows::types::{LimitId, Version, VersionId};

use super::rows::Row;

/// Names and rows by number. A number stands for the life of the program: what was said about a limit
/// may have to be said again after its row is gone.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    names: Vec<String>,
    limits: HashMap<String, LimitId>,
    rows: Vec<Row>,
    versions: HashMap<Row, VersionId>,
}

impl Catalog {
    /// A catalog of nothing.
    pub fn new() -> Self {
        Catalog::default()
    }

    /// The versions that rows are. Equal rows are equal versions, whenever they were read; the order
    /// of the rows makes no difference.
    pub fn versions<'a>(&mut self, rows: impl IntoIterator<Item = &'a Row>) -> BTreeSet<Version> {
        // Sorted, so that numbers do not depend on the order in a file, and runs can be compared.
        let sorted: BTreeSet<&Row> = rows.into_iter().collect();
        sorted.into_iter().map(|row| self.version(row)).collect()
    }

    /// The name of a limit.
    ///
    /// # Panics
    /// If the number is not from this catalog.
    pub fn name(&self, limit: LimitId) -> &str {
        &self.names[limit.0 as usize]
    }

    /// The row of a version, with its value as last written.
    ///
    /// # Panics
    /// If the number is not from this catalog.
    pub fn row(&self, version: VersionId) -> &Row {
        &self.rows[version.0 as usize]
    }

    /// The number of a limit, if a row has had its name.
    pub fn limit(&self, name: &str) -> Option<LimitId> {
        self.limits.get(name).copied()
    }

    /// The version that a row is.
    pub fn version(&mut self, row: &Row) -> Version {
        let limit = self.limits.get(&row.name).copied().unwrap_or_else(|| self.add_name(&row.name));
        let id = self.versions.get(row).copied().unwrap_or_else(|| self.add_row(row));
        // 5 may have become 5.0, which is the same value in other letters.
        self.rows[id.0 as usize].value.clone_from(&row.value);
        Version {
            limit,
            effective: row.effective,
            id,
            bound: row.bound,
            scope: row.scope,
            value: row.value.as_ref().map(|value| value.threshold(row.bound)),
        }
    }

    fn add_name(&mut self, name: &str) -> LimitId {
        let id = LimitId(number(self.names.len()));
        self.names.push(name.to_owned());
        self.limits.insert(name.to_owned(), id);
        id
    }

    fn add_row(&mut self, row: &Row) -> VersionId {
        let id = VersionId(number(self.rows.len()));
        self.rows.push(row.clone());
        self.versions.insert(row.clone(), id);
        id
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("memory ends before four thousand million rows")
}

/// What turns the versions held into the next ones, retractions first.
pub fn edits(held: &BTreeSet<Version>, next: &BTreeSet<Version>) -> Vec<(Version, isize)> {
    let gone = held.difference(next).map(|version| (*version, -1));
    let new = next.difference(held).map(|version| (*version, 1));
    gone.chain(new).collect()
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

/// What of each limit is in force at a moment, in nanoseconds since 1970, and what follows.
pub fn in_force<'a>(
    versions: impl IntoIterator<Item = &'a Version>,
    at: i128,
) -> BTreeMap<LimitId, Standing<'a>> {
    let mut limits = BTreeMap::<LimitId, Standing<'a>>::new();
    for version in versions {
        let standing = limits.entry(version.limit).or_default();
        let side = if version.effective <= at { &mut standing.now } else { &mut standing.next };
        let distance = |version: &Version| at.abs_diff(version.effective);
        if side.is_none_or(|nearest| distance(version) < distance(nearest)) {
            *side = Some(version);
        }
    }
    limits
}
