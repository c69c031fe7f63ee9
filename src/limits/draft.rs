//! Rows to write into a file or a table.
//!
//! A column that a row leaves out is not written either: the default of `per` is an option of the commands, and a
//! row without `per` follows that option.

use std::borrow::Cow;

use floodmark_dataflows::types::{Metric, Prefix};
use serde::Serialize;

use super::reason::{Position, RowError};
use super::rows::{self, BOUNDS, Cell, Defaults, METRICS, PERS, RawRow, Row, bound_of_name, word};
use super::value::Value;
use crate::base::shown;
use crate::base::{date, network};

/// The columns that a row may leave out.
pub const OPTIONAL: [&str; 6] = ["bound", "metric", "per", "source", "destination", "host"];

/// Maximum characters of a number in a table, with and without an exponent.
const NUMBER_MAX: usize = 2000;

/// The first moment that a table of limits accepts: PostgreSQL writes earlier years as years BC.
const FIRST_YEAR: &str = "0001-01-01";

/// A row to write. Equal drafts have the same content, and leave out the same columns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Draft {
    /// The limit's name.
    pub name: String,
    /// The value; `None`: from the effective date on, the limit does not exist.
    pub value: Option<Value>,
    /// The effective date, in nanoseconds since 1970.
    pub effective: i128,
    /// The texts of the columns of [`OPTIONAL`], in that order; `None`: the column is left out.
    optional: [Option<String>; 6],
}

/// The reason why a file or a table can't store a row as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The date is finer than a microsecond, the precision of a table.
    #[error(
        "effective_date \"{}\" is finer than a microsecond, the precision of a table; round it",
        date::format_ns(*.effective)
    )]
    Fine {
        /// The date.
        effective: i128,
    },
    /// The date is not in the years that a file or a table accepts.
    #[error(
        "effective_date \"{}\" is not between the years 1 and 9999; give another one",
        date::format_ns(*.effective)
    )]
    Year {
        /// The date.
        effective: i128,
    },
    /// The value has too many digits for a table.
    #[error(
        "limit_value has more than {NUMBER_MAX} digits when it is written out; to have no limit, \
         give null"
    )]
    Long,
    /// The name has a NUL character, which a text in a table can't have.
    #[error("limit_name contains a NUL character, which a table cannot store; remove it")]
    Nul,
}

impl Draft {
    /// Returns a draft of a valid row, as it was read.
    pub fn of(raw: &RawRow<'_>, row: &Row) -> Self {
        let is_given = |column: &str| matches!(raw.cell(column), Some(Cell::Text(_)));
        let scope = row.scope;
        let network = |given: Prefix| (given != Prefix::ANY).then(|| network::text(given));
        let bound = (row.bound != bound_of_name(&row.name)).then(|| word(&BOUNDS, &row.bound));
        let metric = (scope.metric != Metric::default()).then(|| word(&METRICS, &scope.metric));
        let per = is_given("per").then(|| word(&PERS, &scope.per));
        Draft {
            name: row.name.to_string(),
            value: row.value.clone(),
            effective: row.effective,
            optional: [
                bound.map(str::to_owned),
                metric.map(str::to_owned),
                per.map(str::to_owned),
                network(scope.source),
                network(scope.destination),
                network(scope.host),
            ],
        }
    }

    /// Returns the text in an optional column; `None` if the row leaves the column out.
    pub fn optional(&self, column: &str) -> Option<&str> {
        let at = OPTIONAL.iter().position(|optional| *optional == column)?;
        self.optional[at].as_deref()
    }

    /// Returns the cells of the row.
    pub fn cells(&self) -> Vec<(Cow<'static, str>, Cell<'static>)> {
        let value = self
            .value
            .as_ref()
            .map_or(Cell::Null, |value| Cell::Number(value.text().to_owned().into()));
        let required = [
            ("limit_name", Cell::Text(self.name.clone().into())),
            ("limit_value", value),
            ("effective_date", Cell::Instant(self.effective)),
        ];
        let optional = OPTIONAL.into_iter().zip(&self.optional).filter_map(|(column, text)| {
            text.as_ref().map(|text| (column, Cell::Text(text.clone().into())))
        });
        let cells = required.into_iter().chain(optional);
        cells.map(|(column, cell)| (Cow::Borrowed(column), cell)).collect()
    }

    /// Checks the row, and returns it with these defaults in the columns that it leaves out.
    pub fn check(&self, defaults: Defaults) -> Result<Row, RowError> {
        rows::check(&RawRow { position: Position::default(), cells: Ok(self.cells()) }, defaults)
    }

    /// Checks that a table can store the row as it is.
    pub fn fits_table(&self) -> Result<(), Unfit> {
        let effective = self.effective;
        let first = date::parse(FIRST_YEAR).expect("a date");
        let long = |value: &Value| {
            value.text().len() > NUMBER_MAX || value.plain_width() > NUMBER_MAX as u64
        };
        match self {
            _ if effective % 1000 != 0 => Err(Unfit::Fine { effective }),
            _ if effective < first => Err(Unfit::Year { effective }),
            _ if self.value.as_ref().is_some_and(long) => Err(Unfit::Long),
            _ if self.name.contains('\0') => Err(Unfit::Nul),
            _ => self.fits_file(),
        }
    }

    /// Checks that a file can store the row as it is.
    pub fn fits_file(&self) -> Result<(), Unfit> {
        let effective = self.effective;
        match date::parse(&date::format_ns(effective).to_string()) {
            Ok(read) if read == effective => Ok(()),
            _ => Err(Unfit::Year { effective }),
        }
    }

    /// Returns the row as a JSON object in one line.
    pub fn json(&self) -> String {
        let [bound, metric, per, source, destination, host] =
            self.optional.each_ref().map(|text| text.as_deref());
        let object = Object {
            limit_name: &self.name,
            limit_value: self.value.as_ref(),
            effective_date: date::format_ns(self.effective),
            bound,
            metric,
            per,
            source,
            destination,
            host,
        };
        shown::json(&object).expect("texts and numbers can be written")
    }
}

/// A row as an object.
#[derive(Serialize)]
struct Object<'a> {
    limit_name: &'a str,
    limit_value: Option<&'a Value>,
    effective_date: date::Stamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    bound: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::types::{Bound, Per};

    use super::super::json;
    use super::*;

    fn draft(text: &str) -> Draft {
        let raw = json::raw_rows(text).unwrap().remove(0);
        let row = rows::check(&raw, Defaults::default()).unwrap();
        Draft::of(&raw, &row)
    }

    #[test]
    fn columns_with_default_values_are_left_out() {
        let full = r#"{"limit_name":"min 1","limit_value":"1.50","effective_date":"2024-05-01",
            "bound":"min","metric":"packets","per":"host","source":"any","destination":null,
            "host":"10.1.2.3/8"}"#;
        assert_eq!(
            draft(full).json(),
            r#"{"limit_name":"min 1","limit_value":1.50,"effective_date":"2024-05-01T00:00:00Z","bound":"min","metric":"packets","per":"host","host":"10.0.0.0/8"}"#
        );
        let plain = r#"{"limit_name":"min","limit_value":null,"effective_date":"2024-05-01T00:00:00.000000001Z","bound":"min","metric":"bytes","per":"pair"}"#;
        assert_eq!(
            draft(plain).json(),
            r#"{"limit_name":"min","limit_value":null,"effective_date":"2024-05-01T00:00:00.000000001Z","per":"pair"}"#
        );
        for text in [full, plain] {
            let draft = draft(text);
            let raw = json::raw_rows(text).unwrap().remove(0);
            assert_eq!(draft.check(Defaults::default()), rows::check(&raw, Defaults::default()));
            assert_eq!(self::draft(&draft.json()), draft);
        }
    }

    #[test]
    fn row_without_per_follows_the_option() {
        let totals = Defaults { per: Per::Total };
        let plain = r#"{"limit_name":"a","limit_value":1,"effective_date":"2024-05-01"}"#;
        assert_eq!(draft(plain).check(totals).unwrap().scope.per, Per::Total);
        let with_per = plain.replace('}', r#","per":"pair"}"#);
        assert_eq!(draft(&with_per).check(totals).unwrap().scope.per, Per::Pair);
        assert_eq!(draft(&with_per).check(totals).unwrap().bound, Bound::Max);
    }

    #[test]
    fn rows_that_a_table_or_a_file_cannot_store_are_rejected() {
        let with = |name: &str, value: &str, date: &str| {
            draft(&format!(
                r#"{{"limit_name":"{name}","limit_value":{value},"effective_date":"{date}"}}"#
            ))
        };
        let fits = |value: &str, date: &str| with("a", value, date).fits_table();
        assert_eq!(fits("1e1999", "2024-05-01T00:00:00.000001Z"), Ok(()));
        assert_eq!(fits("1e2000", "2024-05-01"), Err(Unfit::Long));
        assert_eq!(fits("1e-999999999999999999999", "2024-05-01"), Err(Unfit::Long));
        assert_eq!(fits(&format!("0.{}", "0".repeat(2000)), "2024-05-01"), Err(Unfit::Long));
        assert!(matches!(fits("1", "2024-05-01T00:00:00.0000001Z"), Err(Unfit::Fine { .. })));
        assert!(matches!(fits("1", "0000-05-01"), Err(Unfit::Year { .. })));
        assert_eq!(with("a", "1", "0000-05-01").fits_file(), Ok(()));
        assert_eq!(with(r"a\u0000", "1", "2024-05-01").fits_table(), Err(Unfit::Nul));
        let late = Draft { effective: i128::MAX / 1000 * 1000, ..with("a", "1", "2024-05-01") };
        assert!(matches!(late.fits_table(), Err(Unfit::Year { .. })));
    }
}
