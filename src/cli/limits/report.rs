//! The output of `floodmark limits check`.

use std::io::{self, Write};
use std::sync::Arc;

use floodmark_dataflows::types::Prefix;
use serde::Serialize;

use crate::base::date::{Stamp, format_ns};
use crate::base::network;
use crate::base::quote::{Quoted, Shown};
use crate::base::shown;
use crate::cli::grid;
use crate::limits::rows::{BOUNDS, METRICS, PERS, Row, word};
use crate::limits::table::{Ruling, Table, Verdict};
use crate::limits::value::Value;

/// The report on a table of limits at a moment. It is written as it is made: there may be a
/// million rows.
pub(super) struct Report<'a> {
    pub(super) table: &'a Table,
    /// In nanoseconds since 1970.
    pub(super) at: i128,
    /// Columns of a table that are no columns of limits.
    pub(super) unknown_columns: &'a [String],
}

/// The versions of one limit around a moment.
#[derive(Clone, Copy)]
struct Current<'a> {
    /// The version in force; its value may be null, which ends the limit.
    now: Option<&'a Row>,
    /// The first one after the moment.
    next: Option<&'a Row>,
}

impl Report<'_> {
    /// Writes aligned columns under headings, and a summary.
    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut parts = Parts { out, any: false };
        parts.add(|out| self.write_holding(out))?;
        parts.add(|out| self.write_duplicates(out))?;
        parts.add(|out| self.write_refused(out))?;
        parts.add(|out| self.write_unknown(out))?;
        parts.add(|out| self.write_in_force(out))?;
        write!(out, "{}", self.summary())
    }

    fn write_holding(&self, out: &mut dyn Write) -> io::Result<()> {
        let heading = [
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
        ];
        grid::write_lines(out, "rows that hold", heading, || {
            self.held().map(|(verdict, row)| {
                [
                    verdict.position.row().to_string(),
                    verdict.position.line().map(|line| line.to_string()).unwrap_or_default(),
                    Shown(&row.name).to_string(),
                    word(&BOUNDS, &row.bound).to_owned(),
                    value_text(row),
                    word(&METRICS, &row.scope.metric).to_owned(),
                    word(&PERS, &row.scope.per).to_owned(),
                    network::text(row.scope.source),
                    network::text(row.scope.destination),
                    network::text(row.scope.host),
                    format_ns(row.effective).to_string(),
                    self.state(row).to_owned(),
                ]
            })
        })
    }

    fn write_duplicates(&self, out: &mut dyn Write) -> io::Result<()> {
        let duplicates = self.table.verdicts.iter().filter_map(|verdict| match &verdict.ruling {
            Ruling::Duplicate { of, .. } => Some(format!("{} is the same as {of}", label(verdict))),
            _ => None,
        });
        write_section(out, "rows given more than once, which count once", duplicates)
    }

    fn write_refused(&self, out: &mut dyn Write) -> io::Result<()> {
        let refused = self.table.refusals();
        let lines = refused.map(|(verdict, reason)| format!("{}: {reason}", label(verdict)));
        write_section(out, "rows that are refused", lines)
    }

    fn write_unknown(&self, out: &mut dyn Write) -> io::Result<()> {
        let lines = self.unknown_columns.iter().map(|column| Shown(column).to_string());
        write_section(out, "columns that limits don't have", lines)
    }

    fn write_in_force(&self, out: &mut dyn Write) -> io::Result<()> {
        let title = format!("in force at {}", format_ns(self.at));
        grid::write_lines(out, &title, ["limit_name", "now", "since", "next", "from"], || {
            self.limits().map(|(name, Current { now, next })| {
                let date = |row: Option<&Row>| row.map(|row| format_ns(row.effective).to_string());
                [
                    Shown(name).to_string(),
                    now.map(rule).unwrap_or_default(),
                    date(now).unwrap_or_default(),
                    next.map(rule).unwrap_or_default(),
                    date(next).unwrap_or_default(),
                ]
            })
        })
    }

    fn summary(&self) -> String {
        let (rows, held) = (self.table.verdicts.len(), self.table.held().len());
        let refused = self.table.refusals().count();
        let duplicates = rows - held - refused;
        let exists = |current: &Current<'_>| current.now.is_some_and(|now| now.value.is_some());
        let limits = self.limits().filter(|(_, current)| exists(current)).count();
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

    /// The limits, by name.
    fn limits(&self) -> impl Iterator<Item = (&str, Current<'_>)> {
        let limits = self.table.held().chunk_by(|one, other| one.name == other.name);
        limits.map(|versions| (versions[0].name.as_str(), self.current(versions)))
    }

    /// Selects the versions around the moment from all versions of one limit, sorted by date.
    fn current<'r>(&self, versions: &'r [Arc<Row>]) -> Current<'r> {
        let effective = versions.partition_point(|row| row.effective <= self.at);
        let version = |at: usize| versions.get(at).map(|row| &**row);
        Current { now: effective.checked_sub(1).and_then(version), next: version(effective) }
    }

    /// The position of a row among those of its name: past, now, next or later.
    fn state(&self, row: &Row) -> &'static str {
        let held = self.table.held();
        let begin = held.partition_point(|other| other.name < row.name);
        let versions = held[begin..].chunk_by(|one, other| one.name == other.name).next();
        let current = self.current(versions.unwrap_or_default());
        let dated = |version: Option<&Row>| {
            version.is_some_and(|version| version.effective == row.effective)
        };
        match row.effective <= self.at {
            true if dated(current.now) => "now",
            true => "past",
            false if dated(current.next) => "next",
            false => "later",
        }
    }

    /// Writes one JSON object a row.
    pub(super) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        for verdict in &self.table.verdicts {
            shown::write_json(out, &self.json_row(verdict))?;
            writeln!(out)?;
        }
        Ok(())
    }

    fn json_row<'v>(&self, verdict: &'v Verdict) -> JsonRow<'v> {
        let mut line = JsonRow {
            row: verdict.position.row(),
            line: verdict.position.line(),
            status: "refused",
            limit_name: verdict.name(),
            reason: None,
            same_as: None,
            content: None,
        };
        match &verdict.ruling {
            Ruling::Refused(refused) => line.reason = Some(refused.reason.to_string()),
            Ruling::Duplicate { of, .. } => {
                (line.status, line.same_as) = ("duplicate", Some(of.row()));
            }
            Ruling::Holds(row) => {
                (line.status, line.content) = ("holds", Some(self.json_content(row)));
            }
        }
        line
    }

    fn json_content<'a>(&self, row: &'a Row) -> JsonContent<'a> {
        JsonContent { columns: Columns::of(row), at: format_ns(self.at), state: self.state(row) }
    }
}

/// Parts of a report, with an empty line after each part that is not empty.
struct Parts<'a> {
    out: &'a mut dyn Write,
    any: bool,
}

impl Parts<'_> {
    fn add(&mut self, part: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        self.any = false;
        part(self)?;
        if self.any { self.out.write_all(b"\n") } else { Ok(()) }
    }
}

impl Write for Parts<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.any |= !bytes.is_empty();
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
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
        narrowed.map(|(name, given)| format!(", {name} {}", network::text(*given))).collect();
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

/// The content of a row that holds, and its position.
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
            source: network::text(row.scope.source),
            destination: network::text(row.scope.destination),
            host: network::text(row.scope.host),
        }
    }
}

/// Writes a heading over lines, unless there are none.
fn write_section(
    out: &mut dyn Write,
    heading: &str,
    lines: impl Iterator<Item = String>,
) -> io::Result<()> {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        writeln!(out, "{heading}")?;
    }
    lines.try_for_each(|line| writeln!(out, "{line}"))
}

/// Identifies a row, by position and name.
pub(super) fn label(verdict: &Verdict) -> String {
    let name = verdict.name().map(|name| format!(", {}", Quoted(name)));
    format!("{}{}", verdict.position, name.unwrap_or_default())
}

fn value_text(row: &Row) -> String {
    row.value.as_ref().map_or_else(|| "null".to_owned(), |value| Shown(value.text()).to_string())
}

pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
