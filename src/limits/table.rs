//! A table of limits: decides which of its rows hold.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::reason::{Position, RowError};
use super::rows::{self, Defaults, RawRow, Row};
use super::text::Text;
use crate::base::date;

/// The result of checking a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The position of the row.
    pub position: Position,
    /// Whether the row holds.
    pub ruling: Ruling,
}

/// Whether a row holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// The row holds.
    Holds(Arc<Row>),
    /// Another row of the same name and date has the same content, and holds for both.
    Duplicate {
        /// The position of the other row.
        of: Position,
        /// The other row.
        row: Arc<Row>,
    },
    /// The row does not hold.
    Refused(Box<Refused>),
}

// There may be a million rows.
const _: () = assert!(size_of::<Verdict>() <= 32);

/// A row that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The limit's name, if the row has one.
    pub name: Option<Text>,
    /// The reason why the row does not hold.
    pub reason: RowError,
}

/// The number of refused rows of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Refused rows.
    pub refused: usize,
    /// All rows.
    pub rows: usize,
}

/// All rows of a table, with the verdict on each. The order of the rows has no influence on which rows hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The verdicts on all rows, in the order read.
    pub verdicts: Vec<Verdict>,
    /// The rows that hold, sorted: one of each name and date.
    held: Vec<Arc<Row>>,
}

impl Table {
    /// Checks rows, each by itself and then against those of the same name and date.
    pub fn new<'a>(raws: impl IntoIterator<Item = RawRow<'a>>, defaults: Defaults) -> Self {
        let mut builder = Builder::new(defaults, &[]);
        raws.into_iter().for_each(|raw| builder.push(&raw));
        builder.finish()
    }

    /// Checks rows as [`Table::new`] does, without consuming them.
    pub fn of(raws: &[RawRow<'_>], defaults: Defaults) -> Self {
        let mut builder = Builder::new(defaults, &[]);
        raws.iter().for_each(|raw| builder.push(raw));
        builder.finish()
    }

    /// Returns the rows that hold, in the order read.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.verdicts.iter().filter_map(Verdict::row)
    }

    /// Returns the rows that hold, sorted.
    pub fn held(&self) -> &[Arc<Row>] {
        &self.held
    }

    /// Consumes the table, and returns the rows that hold, sorted.
    pub fn into_held(self) -> Vec<Arc<Row>> {
        self.held
    }

    /// Returns the refused rows with their reasons.
    pub fn refusals(&self) -> impl Iterator<Item = (&Verdict, &RowError)> {
        self.verdicts.iter().filter_map(|verdict| match &verdict.ruling {
            Ruling::Refused(refused) => Some((verdict, &refused.reason)),
            _ => None,
        })
    }

    /// Counts the refused rows.
    pub fn refusal_counts(&self) -> Refusals {
        Refusals { refused: self.refusals().count(), rows: self.verdicts.len() }
    }
}

impl Verdict {
    /// Returns the limit's name, if the row has one.
    pub fn name(&self) -> Option<&str> {
        match &self.ruling {
            Ruling::Holds(row) | Ruling::Duplicate { row, .. } => Some(&row.name),
            Ruling::Refused(refused) => refused.name.as_deref(),
        }
    }

    /// Returns the row, if it holds.
    pub fn row(&self) -> Option<&Row> {
        self.held().map(|row| &**row)
    }

    fn held(&self) -> Option<&Arc<Row>> {
        match &self.ruling {
            Ruling::Holds(row) => Some(row),
            _ => None,
        }
    }
}

/// Builds a table from rows that arrive one by one, so that no raw row is kept.
pub struct Builder<'k> {
    defaults: Defaults,
    known: KnownRows<'k>,
    verdicts: Vec<Verdict>,
}

impl<'k> Builder<'k> {
    /// Returns a builder without rows. A row equal to one of `known` is shared with it instead of stored again.
    pub fn new(defaults: Defaults, known: &'k [Arc<Row>]) -> Self {
        Builder { defaults, known: KnownRows::new(known), verdicts: Vec::new() }
    }

    /// Checks a row by itself.
    pub fn push(&mut self, raw: &RawRow<'_>) {
        let ruling = match rows::check(raw, self.defaults) {
            Ok(row) => Ruling::Holds(self.known.share(row)),
            Err(reason) => {
                Ruling::Refused(Box::new(Refused { name: raw.name().map(Text::from), reason }))
            }
        };
        self.verdicts.push(Verdict { position: raw.position, ruling });
    }

    /// Drops the rows so far: they are too many for limits.
    pub fn clear(&mut self) {
        self.verdicts = Vec::new();
    }

    /// Checks the rows against those of the same name and date.
    pub fn finish(self) -> Table {
        let mut verdicts = self.verdicts;
        verdicts.shrink_to_fit();
        let mut order = sorted(&verdicts);
        let same =
            |one: &u32, other: &u32| match (row_at(&verdicts, *one), row_at(&verdicts, *other)) {
                (Some(one), Some(other)) => {
                    one.effective == other.effective && one.name == other.name
                }
                _ => false,
            };
        let rivals: Vec<(usize, Ruling)> = order
            .chunk_by(same)
            .filter(|group| group.len() > 1)
            .flat_map(|group| {
                let rival = |index: &u32| {
                    let (index, verdict) = (*index as usize, &verdicts[*index as usize]);
                    let row = verdict.held().expect("rows in this order are valid by themselves");
                    Rival { index, position: verdict.position, row }
                };
                rulings(&group.iter().map(rival).collect::<Vec<_>>())
            })
            .collect();
        for (index, ruling) in rivals {
            verdicts[index].ruling = ruling;
        }
        order.retain(|index| row_at(&verdicts, *index).is_some());
        let held = order.iter().filter_map(|index| row_at(&verdicts, *index).cloned()).collect();
        Table { verdicts, held }
    }
}

fn row_at(verdicts: &[Verdict], index: u32) -> Option<&Arc<Row>> {
    verdicts[index as usize].held()
}

/// Returns the indexes of the rows that are valid by themselves, sorted by name, date and index.
fn sorted(verdicts: &[Verdict]) -> Vec<u32> {
    let names = || verdicts.iter().filter_map(|verdict| Some(verdict.row()?.name.as_bytes()));
    let first = names().next().unwrap_or_default();
    let common = names().fold(first.len(), |common, name| {
        let pairs = first[..common].iter().zip(name);
        pairs.take_while(|(one, other)| one == other).count()
    });
    // Eight bytes behind the common start decide most comparisons without reading the rows, which are scattered in
    // memory. A shorter name is padded with zeros, so its start may equal that of a name with zeros.
    let start = |name: &[u8]| {
        let mut start = [0; 8];
        name[common..].iter().zip(&mut start).for_each(|(byte, start)| *start = *byte);
        u64::from_be_bytes(start)
    };
    let indexes = (0_u32..).zip(verdicts);
    let mut order: Vec<(u64, u32)> = indexes
        .filter_map(|(index, verdict)| Some((start(verdict.row()?.name.as_bytes()), index)))
        .collect();
    let key = |index: u32| row_at(verdicts, index).map(|row| (&row.name, row.effective, index));
    order.sort_unstable_by(|one, other| {
        one.0.cmp(&other.0).then_with(|| key(one.1).cmp(&key(other.1)))
    });
    order.into_iter().map(|(_, index)| index).collect()
}

/// The rows of an earlier table, for a lookup by content.
struct KnownRows<'k> {
    rows: &'k [Arc<Row>],
    /// Indexes into `rows`, by name and date.
    indexes: HashTable<u32>,
    hasher: RandomState,
}

impl<'k> KnownRows<'k> {
    fn new(rows: &'k [Arc<Row>]) -> Self {
        let hasher = RandomState::default();
        let mut indexes = HashTable::with_capacity(rows.len());
        let hash = |row: &Row| hasher.hash_one((&row.name, row.effective));
        for (index, row) in (0..).zip(rows) {
            indexes.insert_unique(hash(row), index, |index: &u32| hash(&rows[*index as usize]));
        }
        KnownRows { rows, indexes, hasher }
    }

    /// Returns the known row that is equal and has the same spelling, or else the row itself.
    fn share(&self, row: Row) -> Arc<Row> {
        if self.rows.is_empty() {
            return Arc::new(row);
        }
        let is_same = |index: &u32| {
            let known = &self.rows[*index as usize];
            **known == row && known.is_written_as(&row)
        };
        let hash = self.hasher.hash_one((&row.name, row.effective));
        match self.indexes.find(hash, is_same) {
            Some(index) => self.rows[*index as usize].clone(),
            None => Arc::new(row),
        }
    }
}

/// One of several rows of the same name and date.
struct Rival<'a> {
    /// The index of the row's verdict.
    index: usize,
    position: Position,
    row: &'a Arc<Row>,
}

/// Returns the new rulings on rows of one name and date, except on a row that still holds.
fn rulings<'a>(group: &[Rival<'a>]) -> Vec<(usize, Ruling)> {
    // Of equal rows the one with the shortest value text holds (5, not 5.0), so that the printed value does not depend
    // on the order either.
    let text = |rival: &&Rival<'a>| {
        rival.row.value.as_ref().map(|value| (value.text().len(), value.text()))
    };
    let Some(first) = group.iter().min_by_key(text) else {
        return Vec::new();
    };
    match group.iter().find(|rival| rival.row != first.row) {
        None => duplicates(group, first),
        Some(different) => conflicts(group, first, different),
    }
}

fn duplicates(group: &[Rival<'_>], first: &Rival<'_>) -> Vec<(usize, Ruling)> {
    let others = group.iter().filter(|rival| rival.index != first.index);
    let ruling = || Ruling::Duplicate { of: first.position, row: first.row.clone() };
    others.map(|rival| (rival.index, ruling())).collect()
}

/// Refuses all rows; each refusal names a row that differs.
fn conflicts(
    group: &[Rival<'_>],
    first: &Rival<'_>,
    different: &Rival<'_>,
) -> Vec<(usize, Ruling)> {
    let effective = date::format_ns(first.row.effective);
    let refused = |rival: &Rival<'_>| {
        let other = if rival.row == first.row { different.position } else { first.position };
        let (name, reason) = (rival.row.name.clone(), RowError::Conflict { other, effective });
        (rival.index, Ruling::Refused(Box::new(Refused { name: Some(name), reason })))
    };
    group.iter().map(refused).collect()
}
