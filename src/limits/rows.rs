//! Checks rows by themselves, and turns their cells into the content of a version of a limit.
//!
//! A file or a table yields [`RawRow`]s; [`check`] returns a row with its defaults, or the reason why it can't hold.
//! [`super::table`] decides which of several rows hold.

use std::borrow::Cow;

use floodmark_dataflows::types::{Bound, Metric, Per, Prefix, Scope};

use super::reason::{Position, RowError};
use super::text::Text;
use super::value::Value;
use crate::base::{date, network};

/// The columns of `traffic_limits`.
pub const COLUMNS: [&str; 9] = [
    "limit_name",
    "limit_value",
    "effective_date",
    "bound",
    "metric",
    "per",
    "source",
    "destination",
    "host",
];

/// The words of `bound`.
pub const BOUNDS: [(&str, Bound); 2] = [("max", Bound::Max), ("min", Bound::Min)];

/// The words of `metric`.
pub const METRICS: [(&str, Metric); 2] = [("bytes", Metric::Bytes), ("packets", Metric::Packets)];

/// The words of `per`.
pub const PERS: [(&str, Per); 5] = [
    ("pair", Per::Pair),
    ("source", Per::Source),
    ("destination", Per::Destination),
    ("host", Per::Host),
    ("total", Per::Total),
];

/// Returns the word for a value in one of [`BOUNDS`], [`METRICS`], [`PERS`].
pub fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    let found = words.iter().find(|(_, candidate)| candidate == value);
    found.expect("each list of words has all values of its type").0
}

/// Maximum characters of a text or number in a column. Changes carry names and values of limits, and brokers reject
/// messages above a megabyte.
pub const TEXT_MAX: usize = 4096;

/// The content of a column of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell<'a> {
    /// No value.
    Null,
    /// A text.
    Text(Cow<'a, str>),
    /// A number, with the digits it was written in.
    Number(Cow<'a, str>),
    /// A moment, in nanoseconds since 1970, from a column of a date or time type.
    Instant(i128),
    /// A value that no column accepts.
    Other {
        /// The kind of the value, with its article.
        kind: &'static str,
        /// The value as it was written.
        text: Cow<'a, str>,
    },
}

/// A row as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRow<'a> {
    /// The position of the row.
    pub position: Position,
    /// Columns and contents, in the order read; or the reason why the row can't be parsed.
    pub cells: Result<Vec<(Cow<'a, str>, Cell<'a>)>, RowError>,
}

impl RawRow<'_> {
    /// Returns the limit's name for messages, if the row has one that is not too long.
    pub fn name(&self) -> Option<&str> {
        let cells = self.cells.as_ref().ok()?;
        cells.iter().find_map(|(column, cell)| match cell {
            Cell::Text(name) if column == "limit_name" && !is_too_long(name) => Some(name.as_ref()),
            _ => None,
        })
    }

    /// Returns the content of a column; `None` if the row does not have the column.
    pub fn cell(&self, column: &str) -> Option<&Cell<'_>> {
        let cells = self.cells.as_ref().ok()?;
        cells.iter().find(|(name, _)| name == column).map(|(_, cell)| cell)
    }

    /// Returns name and effective date, if these are valid; other columns may be invalid.
    pub fn key(&self) -> Option<(&str, i128)> {
        let effective = match self.cell("effective_date")? {
            Cell::Instant(nanos) => *nanos,
            Cell::Text(text) => date::parse(text).ok()?,
            _ => return None,
        };
        Some((self.name()?, effective))
    }
}

/// The defaults for columns that a row leaves out, as the options of a command set them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// The kind of entity that a limit without `per` judges.
    pub per: Per,
}

/// A checked row: a limit from its effective date on. Rows of equal content are equal, however they were
/// written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// The limit's name.
    pub name: Text,
    /// The effective date, in nanoseconds since 1970.
    pub effective: i128,
    /// The side on which the value is broken.
    pub bound: Bound,
    /// The counted metric, the kind of entity, and the pairs over which it is counted.
    pub scope: Scope,
    /// The value; `None`: from the effective date on, the limit does not exist.
    pub value: Option<Value>,
}

// There may be a million rows.
const _: () = assert!(size_of::<Row>() <= 128);

impl Row {
    /// Whether an equal row also has the same spelling: 5 may have become 5.0, which is the same value.
    pub fn is_written_as(&self, other: &Row) -> bool {
        match (&self.value, &other.value) {
            (Some(one), Some(other)) => one.text() == other.text(),
            (one, other) => one.is_none() == other.is_none(),
        }
    }
}

/// Returns the column whose name is nearest to that of an unknown column, within two letters.
pub fn nearest_column(unknown: &str) -> Option<&'static str> {
    // No column is near to a name much longer than all of them.
    if unknown.len() > 32 {
        return None;
    }
    let unknown = unknown.to_lowercase();
    let distance = |column: &&str| strsim::damerau_levenshtein(&unknown, column);
    COLUMNS.into_iter().min_by_key(distance).filter(|nearest| distance(nearest) <= 2)
}

/// Returns the column that an unknown column of a table is probably mistyped for: the nearest one, unless that is a
/// short word and the unknown column may be another word (`user` is not `per`, and `cost` is not `host`).
pub fn mistyped_column(unknown: &str) -> Option<&'static str> {
    let nearest = nearest_column(unknown)?;
    let unknown = unknown.to_lowercase();
    let near = strsim::damerau_levenshtein(&unknown, nearest) <= 1;
    let same_start = unknown.chars().next() == nearest.chars().next();
    (nearest.len() > SHORT_WORD_MAX || near && same_start).then_some(nearest)
}

/// Maximum letters of a short word: many other words are within two letters of it.
const SHORT_WORD_MAX: usize = 4;

/// Returns the column to suggest for an unknown column: the one that it abbreviates (`dst`), else the nearest.
fn suggested_column(unknown: &str) -> Option<&'static str> {
    let mut abbreviated = COLUMNS.into_iter().filter(|column| abbreviates(unknown, column));
    match (abbreviated.next(), abbreviated.next()) {
        (Some(only), None) => Some(only),
        _ => nearest_column(unknown),
    }
}

/// Whether `short` is `word` without some of its letters, but with the first.
fn abbreviates(short: &str, word: &str) -> bool {
    let mut letters = word.chars();
    short.len() >= 3
        && short.chars().next() == word.chars().next()
        && short.chars().all(|letter| letters.any(|candidate| candidate == letter))
}

/// Checks a row by itself and fills in the columns that it leaves out.
pub fn check(raw: &RawRow<'_>, defaults: Defaults) -> Result<Row, RowError> {
    let cells = Cells::of(raw)?;
    let name = cells.name()?;
    let bound = cells.word("bound", &BOUNDS, bound_of_name(name))?;
    let per = cells.word("per", &PERS, defaults.per)?;
    Ok(Row {
        value: cells.value()?,
        effective: cells.effective()?,
        bound,
        scope: cells.scope(per)?,
        name: name.into(),
    })
}

/// Returns the bound of a limit without the column `bound`. A name that is `min`, or begins with it and a digit or
/// `-`, `_` or `.`, has a lower bound; others such as `minutes` have an upper one.
pub fn bound_of_name(name: &str) -> Bound {
    match name.strip_prefix("min").map(|rest| rest.bytes().next()) {
        Some(None | Some(b'-' | b'_' | b'.' | b'0'..=b'9')) => Bound::Min,
        _ => Bound::Max,
    }
}

/// The cells of a row in the order of [`COLUMNS`].
struct Cells<'a>([Option<&'a Cell<'a>>; COLUMNS.len()]);

impl<'a> Cells<'a> {
    fn of(raw: &'a RawRow<'a>) -> Result<Self, RowError> {
        let mut cells = [None; COLUMNS.len()];
        for (key, cell) in raw.cells.as_ref().map_err(Clone::clone)? {
            let Some(index) = COLUMNS.iter().position(|column| column == key) else {
                let suggestion = suggested_column(key);
                return Err(RowError::UnknownKey { key: key.to_string(), suggestion });
            };
            if cells[index].replace(cell).is_some() {
                return Err(RowError::RepeatedKey { key: key.to_string() });
            }
            if let Cell::Text(text) | Cell::Number(text) = cell
                && is_too_long(text)
            {
                return Err(RowError::TooLong { column: COLUMNS[index] });
            }
        }
        Ok(Cells(cells))
    }

    fn get(&self, column: &'static str) -> Option<&'a Cell<'a>> {
        self.0[COLUMNS.iter().position(|known| *known == column)?]
    }

    /// Returns the text of a column; `None` if the column is null or left out.
    fn text(
        &self,
        column: &'static str,
        wanted: &'static str,
    ) -> Result<Option<&'a str>, RowError> {
        match self.get(column) {
            None | Some(Cell::Null) => Ok(None),
            Some(Cell::Text(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(column, other, wanted)),
        }
    }

    fn name(&self) -> Result<&'a str, RowError> {
        let wanted = "a text that names the limit";
        self.text("limit_name", wanted)?
            .filter(|name| !name.is_empty())
            .ok_or(RowError::Missing { column: "limit_name", wanted })
    }

    fn value(&self) -> Result<Option<Value>, RowError> {
        let (column, wanted) = ("limit_value", "a number, a text holding one, or null");
        match self.get(column) {
            // Null ends a limit, and must be explicit: a column left out is not null.
            None => Err(RowError::Missing { column, wanted }),
            Some(Cell::Null) => Ok(None),
            Some(Cell::Text(text) | Cell::Number(text)) => {
                Value::parse(text).map(Some).map_err(RowError::Value)
            }
            Some(other) => Err(wrong_type(column, other, wanted)),
        }
    }

    fn effective(&self) -> Result<i128, RowError> {
        let wanted = "a text like 2024-05-01 or 2024-05-01T12:00:00Z";
        if let Some(Cell::Instant(nanos)) = self.get("effective_date") {
            return Ok(*nanos);
        }
        let text = self.text("effective_date", wanted)?;
        let text = text.ok_or(RowError::Missing { column: "effective_date", wanted })?;
        date::parse(text).map_err(RowError::Date)
    }

    fn scope(&self, per: Per) -> Result<Scope, RowError> {
        let scope = Scope {
            per,
            metric: self.word("metric", &METRICS, Metric::default())?,
            source: self.prefix("source")?,
            destination: self.prefix("destination")?,
            host: self.prefix("host")?,
        };
        if let (Some(source), Some(destination)) =
            (scope.source.network(), scope.destination.network())
            && source.addr().is_ipv4() != destination.addr().is_ipv4()
        {
            let (source_prefix, destination) = (source.to_string(), destination.to_string());
            return Err(RowError::Families { source_prefix, destination });
        }
        if scope.host != Prefix::ANY && per != Per::Host {
            let host = network::text(scope.host);
            return Err(RowError::HostWithoutPerHost { host, per: word(&PERS, &per) });
        }
        Ok(scope)
    }

    fn prefix(&self, column: &'static str) -> Result<Prefix, RowError> {
        let text = self.text(column, "a text like 10.0.0.0/8, or null")?.unwrap_or_default();
        network::parse(text).map_err(|error| RowError::Prefix { column, error })
    }

    fn word<T: Copy>(
        &self,
        column: &'static str,
        words: &[(&'static str, T)],
        default: T,
    ) -> Result<T, RowError> {
        let Some(text) = self.text(column, "one of its words as a text, or null")? else {
            return Ok(default);
        };
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| RowError::UnknownWord {
            column,
            text: text.to_owned(),
            words: words.iter().map(|(word, _)| *word).collect(),
        })
    }
}

/// Whether a text has more than [`TEXT_MAX`] characters.
fn is_too_long(text: &str) -> bool {
    text.len() > TEXT_MAX && text.chars().nth(TEXT_MAX).is_some()
}

fn wrong_type(column: &str, cell: &Cell<'_>, wanted: &'static str) -> RowError {
    let (kind, text) = match cell {
        Cell::Null => ("null", String::new()),
        Cell::Text(text) => ("a text", text.to_string()),
        Cell::Number(text) => ("a number", text.to_string()),
        Cell::Instant(nanos) => ("a time", date::format_ns(*nanos).to_string()),
        Cell::Other { kind, text } => (*kind, text.to_string()),
    };
    RowError::WrongType { column: column.to_owned(), kind, text, wanted }
}
