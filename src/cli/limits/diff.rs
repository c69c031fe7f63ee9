//! `floodmark limits diff`: the differences between two sets of limits.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;

use super::console::{Format, print};
use super::reading::Read;
use super::report::{Columns, count, rule};
use crate::base::date::{Stamp, format_ns};
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::quote::Shown;
use crate::base::shown;
use crate::cli::grid::Grid;
use crate::cli::values::LimitRows;
use crate::limits::rows::Row;
use crate::limits::{Address, feed};

/// The options of `floodmark limits diff`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Diff {
    /// The old limits: a file of JSON, or a database as postgres://USER@HOST/DATABASE
    ///
    /// The URI of a database may name its table, as postgres://USER@HOST/DATABASE#TABLE, which overrides
    /// --limits-table.
    #[arg(value_name = "OLD")]
    old: String,

    /// The new limits, in the same form
    #[arg(value_name = "NEW")]
    new: String,

    #[command(flatten)]
    rows: LimitRows,

    /// Exit with 1 if the limits differ
    #[arg(long)]
    exit_code: bool,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Diff {
    pub(super) fn run(&self) -> Outcome {
        let read = |place: &str| {
            let read = Read::of(&self.options(place)?)?;
            // The place may contain a password, so it is not shown.
            let side = if place == self.old { "old limits: " } else { "new limits: " };
            read.note_refused(side);
            Ok::<_, Failure>(read)
        };
        let (old, new) = (read(&self.old)?, read(&self.new)?);
        let differences = differences(old.table.rows(), new.table.rows());
        let text = match self.format {
            Format::Table => text(&differences),
            Format::Json => json(&differences).context("writing differences as JSON")?,
        };
        print(&mut std::io::stdout().lock(), &text)?;
        Ok(if self.exit_code && !differences.is_empty() { Exit::Failed } else { Exit::Done })
    }

    fn options(&self, place: &str) -> Result<feed::Options, Failure> {
        let options = self.rows.of(place)?;
        if options.address == Address::file("-") && self.old == self.new {
            let error = anyhow::anyhow!("standard input can be one set of limits, not both");
            return Err(Failure::new(Exit::Usage, error));
        }
        Ok(options)
    }
}

/// A version that is not in both sets, or not the same in both.
struct Difference<'a> {
    old: Option<&'a Row>,
    new: Option<&'a Row>,
}

impl<'a> Difference<'a> {
    fn any(&self) -> &'a Row {
        self.old.or(self.new).expect("a version is in one of both")
    }

    fn change(&self) -> &'static str {
        match (self.old, self.new) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        }
    }
}

/// Returns the differences, by name and date.
fn differences<'a>(
    old: impl Iterator<Item = &'a Row>,
    new: impl Iterator<Item = &'a Row>,
) -> Vec<Difference<'a>> {
    let mut both = BTreeMap::<(&str, i128), Difference<'a>>::new();
    for row in old {
        both.insert((&row.name, row.effective), Difference { old: Some(row), new: None });
    }
    for row in new {
        let none = Difference { old: None, new: None };
        both.entry((&row.name, row.effective)).or_insert(none).new = Some(row);
    }
    both.into_values().filter(|difference| difference.old != difference.new).collect()
}

fn text(differences: &[Difference<'_>]) -> String {
    if differences.is_empty() {
        return "no difference\n".to_owned();
    }
    let mut grid = Grid::new(["change", "limit_name", "from", "old", "new"]);
    for difference in differences {
        let row = difference.any();
        grid.push([
            difference.change().to_owned(),
            Shown(&row.name).to_string(),
            format_ns(row.effective).to_string(),
            difference.old.map(rule).unwrap_or_default(),
            difference.new.map(rule).unwrap_or_default(),
        ]);
    }
    let number = |change: &str| {
        differences.iter().filter(|difference| difference.change() == change).count()
    };
    let (added, removed, changed) = (number("added"), number("removed"), number("changed"));
    let all = count(differences.len(), "difference");
    format!("{grid}\n{all}: {added} added, {removed} removed, {changed} changed\n")
}

/// A difference as one line of JSON.
#[derive(Serialize)]
struct JsonDifference<'a> {
    change: &'static str,
    limit_name: &'a str,
    effective_date: Stamp,
    old: Option<Columns<'a>>,
    new: Option<Columns<'a>>,
}

fn json(differences: &[Difference<'_>]) -> serde_json::Result<String> {
    let lines = differences.iter().map(|difference| {
        let row = difference.any();
        let line = JsonDifference {
            change: difference.change(),
            limit_name: &row.name,
            effective_date: format_ns(row.effective),
            old: difference.old.map(Columns::of),
            new: difference.new.map(Columns::of),
        };
        Ok(shown::json(&line)? + "\n")
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::rows::Defaults;

    fn read(text: &str) -> Read {
        Read::of_bytes(text.as_bytes(), "f".as_ref(), Defaults::default()).unwrap()
    }

    #[test]
    fn versions_are_compared_by_name_and_date() {
        let old = read(
            r#"{"limit_name":"a","limit_value":5,"effective_date":"2024-05-01"}
               {"limit_name":"b","limit_value":5,"effective_date":"2024-05-01"}
               {"limit_name":"c","limit_value":5,"effective_date":"2024-05-01"}"#
                .replace("\n  ", "\n")
                .as_str(),
        );
        let new = read(
            r#"{"limit_name":"c","limit_value":5,"effective_date":"2024-05-02"}
               {"limit_name":"b","limit_value":5,"effective_date":"2024-05-01","per":"total"}
               {"limit_name":"a","limit_value":"5.0","effective_date":"2024-05-01T00:00:00Z"}"#
                .replace("\n  ", "\n")
                .as_str(),
        );
        let found = differences(old.table.rows(), new.table.rows());
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            squeezed(&text(&found)),
            "change limit_name from old new \
             changed b 2024-05-01T00:00:00Z max 5 bytes per pair max 5 bytes per total \
             removed c 2024-05-01T00:00:00Z max 5 bytes per pair - \
             added c 2024-05-02T00:00:00Z - max 5 bytes per pair \
             3 differences: 1 added, 1 removed, 1 changed"
        );
        let json = json(&found).unwrap();
        assert!(
            json.lines().nth(1).unwrap().starts_with(
                r#"{"change":"removed","limit_name":"c","effective_date":"2024-05-01T00:00:00Z","old":{"limit_value":5,"#
            ),
            "{json}"
        );
        assert_eq!(text(&differences(old.table.rows(), old.table.rows())), "no difference\n");
    }
}
