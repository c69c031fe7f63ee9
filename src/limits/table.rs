//! A table of limits: which of its rows hold.

use std::collections::HashMap;

use super::date;
use super::reason::{Position, Reason};
use super::rows::{self, Defaults, RawRow, Row};

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where the row stands.
    pub position: Position,
    /// The limit's name, if it can be told.
    pub name: Option<String>,
    /// Whether it holds.
    pub ruling: Ruling,
}

/// Whether a row holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It does.
    Holds(Row),
    /// Another row says the same of the same name and date, and counts for both.
    Duplicate(Position),
    /// It does not.
    Refused(Reason),
}

/// The number of refused rows of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Rows that are refused.
    pub refused: usize,
    /// All rows.
    pub rows: usize,
}

/// All rows of a table and what became of each. Which rows hold does not depend on their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// One for each row, in the order read.
    pub verdicts: Vec<Verdict>,
}

impl Table {
    /// Checks rows, each by itself and then against those of the same name and date.
    pub fn new<'a>(raws: impl IntoIterator<Item = RawRow<'a>>, defaults: Defaults) -> Self {
        let judge = |raw: RawRow<'a>| Verdict {
            position: raw.position,
            name: raw.name().map(str::to_owned),
            ruling: rows::check(&raw, defaults).map_or_else(Ruling::Refused, Ruling::Holds),
        };
        let mut table = Table { verdicts: raws.into_iter().map(judge).collect() };
        for (index, ruling) in table.rivals() {
            table.verdicts[index].ruling = ruling;
        }
        table
    }

    /// The rows that hold.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.verdicts.iter().filter_map(Verdict::row)
    }

    /// The rows that do not, and why.
    pub fn refusals(&self) -> impl Iterator<Item = (&Verdict, &Reason)> {
        self.verdicts.iter().filter_map(|verdict| match &verdict.ruling {
            Ruling::Refused(reason) => Some((verdict, reason)),
            _ => None,
        })
    }

    /// Counts the refused rows.
    pub fn refusal_counts(&self) -> Refusals {
        Refusals { refused: self.refusals().count(), rows: self.verdicts.len() }
    }

    /// What becomes of rows that are good by themselves but not alone with their name and date.
    fn rivals(&self) -> Vec<(usize, Ruling)> {
        let mut groups: HashMap<(&str, i128), Vec<Rival<'_>>> = HashMap::new();
        for (index, verdict) in self.verdicts.iter().enumerate() {
            if let Some(row) = verdict.row() {
                let rivals = groups.entry((&row.name, row.effective)).or_default();
                rivals.push(Rival { index, position: verdict.position, row });
            }
        }
        groups
            .into_values()
            .filter(|group| group.len() > 1)
            .flat_map(|group| rulings(&group))
            .collect()
    }
}

impl Verdict {
    /// The row, if it holds.
    pub fn row(&self) -> Option<&Row> {
        match &self.ruling {
            Ruling::Holds(row) => Some(row),
            _ => None,
        }
    }
}

/// A row among those of its name and date.
struct Rival<'a> {
    /// Its place among the verdicts.
    index: usize,
    position: Position,
    row: &'a Row,
}

/// What becomes of the rows of one name and date, save for the one that goes on holding.
fn rulings(group: &[Rival<'_>]) -> Vec<(usize, Ruling)> {
    // Of equal rows the one with the shortest value text holds (5, not 5.0), so that what is printed
    // does not depend on the order either.
    let text = |rival: &&Rival<'_>| {
        rival.row.value.as_ref().map(|value| (value.text().len(), value.text().to_owned()))
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
    others.map(|rival| (rival.index, Ruling::Duplicate(first.position))).collect()
}

/// Refuses all; each names a row that differs from it.
fn conflicts(
    group: &[Rival<'_>],
    first: &Rival<'_>,
    different: &Rival<'_>,
) -> Vec<(usize, Ruling)> {
    let effective = date::format_ns(first.row.effective);
    let refused = |rival: &Rival<'_>| {
        let other = if rival.row == first.row { different.position } else { first.position };
        (rival.index, Ruling::Refused(Reason::Conflict { other, effective }))
    };
    group.iter().map(refused).collect()
}
