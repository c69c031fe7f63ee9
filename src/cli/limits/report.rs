//! What `floodmark limits check` prints.

use std::collections::BTreeMap;

use floodmark_dataflows::types::{LimitId, Prefix, Version};
use serde::Serialize;

use crate::cli::grid::Grid;
use crate::limits::catalog::{Catalog, LimitSet, Standing};
use crate::limits::date::{Stamp, format_ns};
use crate::limits::prefix;
use crate::limits::quote::{Quoted, Shown};
use crate::limits::rows::{BOUNDS, METRICS, PERS, Row, word};
use crate::limits::table::{Ruling, Table, Verdict};
use crate::limits::value::Value;
use crate::shown;

/// What there is to say about a table of limits at a moment.
pub(super) struct Report<'a> {
    pub(super) table: &'a Table,
    pub(super) catalog: &'a Catalog,
    /// In nanoseconds since 1970.
    pub(super) at: i128,
    pub(super) limits: BTreeMap<LimitId, Standing<'a>>,
    /// Columns of a table that limits don't know.
    pub(super) unknown_columns: &'a [String],
}

impl Report<'_> {
    /// Aligned columns under headings, and a summary.
    pub(super) fn text(&self) -> String {
        let parts =
            [self.holding(), self.duplicates(), self.refused(), self.unknown(), self.in_force()];
        let mut text: String =
            parts.iter().filter(|part| !part.is_empty()).map(|part| format!("{part}\n")).collect();
        text += &self.summary();
        text
    }

    fn holding(&self) -> String {
        let mut grid = Grid::new([
            "row",
            "line",
            "limit_name",
            "bound",
            "limit_value",
            "metric",
            "per",
            "source",
            "destination",
            "host",
            "effective_date",
            "state",
        ]);
        for (verdict, row) in self.held() {
            grid.push([
                verdict.position.row.to_string(),
                verdict.position.line.map(|line| line.to_string()).unwrap_or_default(),
                Shown(&row.name).to_string(),
                word(&BOUNDS, &row.bound).to_owned(),
                value_text(row),
                word(&METRICS, &row.scope.metric).to_owned(),
                word(&PERS, &row.scope.per).to_owned(),
                prefix::text(row.scope.source),
                prefix::text(row.scope.destination),
                prefix::text(row.scope.host),
                format_ns(row.effective).to_string(),
                self.state(row).to_owned(),
            ]);
        }
        section("rows that hold", self.held().count(), &grid.to_string())
    }

    fn duplicates(&self) -> String {
        let duplicates = self.table.verdicts.iter().filter_map(|verdict| match verdict.ruling {
            Ruling::Duplicate(of) => Some(format!("{} says the same as {of}\n", label(verdict))),
            _ => None,
        });
        let lines: Vec<String> = duplicates.collect();
        section("rows given more than once, which count once", lines.len(), &lines.concat())
    }

    fn refused(&self) -> String {
        let refused = self.table.refusals();
        let lines: Vec<String> =
            refused.map(|(verdict, reason)| format!("{}: {reason}\n", label(verdict))).collect();
        section("rows that are refused", lines.len(), &lines.concat())
    }

    fn unknown(&self) -> String {
        let lines: Vec<String> =
            self.unknown_columns.iter().map(|column| format!("{}\n", Shown(column))).collect();
        section("columns that say nothing of limits", lines.len(), &lines.concat())
    }

    fn in_force(&self) -> String {
        let mut grid = Grid::new(["limit_name", "now", "since", "next", "from"]);
        for (limit, standing) in &self.limits {
            let rule = |version: Option<&Version>| {
                version.map(|version| rule(self.catalog.row(version.id)))
            };
            let date = |version: Option<&Version>| {
                version.map(|version| format_ns(version.effective).to_string())
            };
            grid.push([
                Shown(self.catalog.name(*limit)).to_string(),
                rule(standing.now).unwrap_or_default(),
                date(standing.now).unwrap_or_default(),
                rule(standing.next).unwrap_or_default(),
                date(standing.next).unwrap_or_default(),
            ]);
        }
        let heading = format!("in force at {}", format_ns(self.at));
        section(&heading, self.limits.len(), &grid.to_string())
    }

    fn summary(&self) -> String {
        let (rows, held) = (self.table.verdicts.len(), self.held().count());
        let refused = self.table.refusals().count();
        let duplicates = rows - held - refused;
        let valid = |standing: &&Standing<'_>| standing.now.is_some_and(|now| now.value.is_some());
        let limits = self.limits.values().filter(valid).count();
        format!(
            "{}: {held} held, {duplicates} duplicate, {refused} refused; {} in force at {}\n",
            count(rows, "row"),
            count(limits, "limit"),
            format_ns(self.at)
        )
    }

    fn held(&self) -> impl Iterator<Item = (&Verdict, &Row)> {
        self.table.verdicts.iter().filter_map(|verdict| Some((verdict, verdict.row()?)))
    }

    /// Where a row stands among those of its name: past, now, next or later.
    fn state(&self, row: &Row) -> &'static str {
        let limit = self.catalog.limit(LimitSet::Live, &row.name);
        let standing = limit.and_then(|limit| self.limits.get(&limit)).copied().unwrap_or_default();
        let dated = |version: Option<&Version>| {
            version.is_some_and(|version| version.effective == row.effective)
        };
        match row.effective <= self.at {
            true if dated(standing.now) => "now",
            true => "past",
            false if dated(standing.next) => "next",
            false => "later",
        }
    }

    /// One JSON object a row.
    pub(super) fn json(&self) -> Result<String, serde_json::Error> {
        let lines = self.table.verdicts.iter().map(|verdict| self.json_line(verdict));
        lines.map(|line| Ok(line? + "\n")).collect()
    }

    fn json_line(&self, verdict: &Verdict) -> Result<String, serde_json::Error> {
        let mut line = JsonRow {
            row: verdict.position.row,
            line: verdict.position.line,
            status: "refused",
            limit_name: verdict.name.as_deref(),
            reason: None,
            same_as: None,
            content: None,
        };
        match &verdict.ruling {
            Ruling::Refused(reason) => line.reason = Some(reason.to_string()),
            Ruling::Duplicate(of) => (line.status, line.same_as) = ("duplicate", Some(of.row)),
            Ruling::Holds(row) => {
                (line.status, line.content) = ("holds", Some(self.json_content(row)));
            }
        }
        shown::json(&line)
    }

    fn json_content<'a>(&self, row: &'a Row) -> JsonContent<'a> {
        JsonContent { columns: Columns::of(row), at: format_ns(self.at), state: self.state(row) }
    }
}

/// A version in words, like `max 1000 bytes per pair, source 10.0.0.0/8`.
pub(super) fn rule(row: &Row) -> String {
    if row.value.is_none() {
        return "no limit".to_owned();
    }
    let (bound, value) = (word(&BOUNDS, &row.bound), value_text(row));
    let (metric, per) = (word(&METRICS, &row.scope.metric), word(&PERS, &row.scope.per));
    let scope = row.scope;
    let prefixes =
        [("source", scope.source), ("destination", scope.destination), ("host", scope.host)];
    let narrowed = prefixes.iter().filter(|(_, prefix)| *prefix != Prefix::ANY);
    let narrowed: String =
        narrowed.map(|(name, given)| format!(", {name} {}", prefix::text(*given))).collect();
    format!("{bound} {value} {metric} per {per}{narrowed}")
}

/// A row as one line of JSON.
#[derive(Serialize)]
struct JsonRow<'a> {
    row: usize,
    line: Option<usize>,
    status: &'static str,
    limit_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    same_as: Option<usize>,
    #[serde(flatten)]
    content: Option<JsonContent<'a>>,
}

/// What a row that holds says, and where it stands.
#[derive(Serialize)]
struct JsonContent<'a> {
    #[serde(flatten)]
    columns: Columns<'a>,
    /// The moment that `state` is about.
    at: Stamp,
    state: &'static str,
}

/// All columns of a row but the name.
#[derive(Serialize)]
pub(super) struct Columns<'a> {
    limit_value: Option<&'a Value>,
    effective_date: Stamp,
    bound: &'static str,
    metric: &'static str,
    per: &'static str,
    source: String,
    destination: String,
    host: String,
}

impl<'a> Columns<'a> {
    pub(super) fn of(row: &'a Row) -> Self {
        Columns {
            limit_value: row.value.as_ref(),
            effective_date: format_ns(row.effective),
            bound: word(&BOUNDS, &row.bound),
            metric: word(&METRICS, &row.scope.metric),
            per: word(&PERS, &row.scope.per),
            source: prefix::text(row.scope.source),
            destination: prefix::text(row.scope.destination),
            host: prefix::text(row.scope.host),
        }
    }
}

/// A heading over lines, unless there are none.
fn section(heading: &str, count: usize, lines: &str) -> String {
    if count == 0 { String::new() } else { format!("{heading}\n{lines}") }
}

/// Which row it is, by place and name.
pub(super) fn label(verdict: &Verdict) -> String {
    let name = verdict.name.as_deref().map(|name| format!(", {}", Quoted(name)));
    format!("{}{}", verdict.position, name.unwrap_or_default())
}

fn value_text(row: &Row) -> String {
    row.value.as_ref().map_or_else(|| "null".to_owned(), |value| Shown(value.text()).to_string())
}

pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
