//! `floodmark limits list`: the versions of each limit, with the one in force.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;

use super::console::{Format, now, print};
use super::reading::Read;
use super::report::{Columns, rule};
use crate::base::date::{self, format_ns};
use crate::base::error::{Exit, Outcome};
use crate::base::quote::Shown;
use crate::base::shown;
use crate::cli::grid::Grid;
use crate::cli::values::LimitRows;
use crate::limits::rows::Row;

/// The options of `floodmark limits list`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct List {
    /// Limits: a file of JSON, a database as postgres://USER@HOST/DATABASE, or `-` for standard input
    #[arg(value_name = "FILE|URI", env = "FLOODMARK_LIMITS", hide_env_values = true)]
    place: String,

    /// The time to show the limits in force at, such as 2024-05-01 or 2024-05-01T12:00:00Z
    ///
    /// A time without a zone is in UTC. Default: now.
    #[arg(long, value_name = "TIME", value_parser = date::parse, allow_hyphen_values = true)]
    at: Option<i128>,

    /// Also show past versions
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    rows: LimitRows,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl List {
    pub(super) fn run(&self) -> Outcome {
        let read = Read::of(&self.rows.of(&self.place)?)?;
        read.note_refused("");
        let versions = versions(read.table.rows(), self.at.unwrap_or_else(now));
        let versions = versions.iter().filter(|version| self.all || version.state != "past");
        let text = match self.format {
            Format::Table => text(versions),
            Format::Json => json(versions).context("writing versions as JSON")?,
        };
        print(&mut std::io::stdout().lock(), &text)?;
        Ok(Exit::Done)
    }
}

/// A version, and its state among those of its limit.
#[derive(Serialize)]
struct Version<'a> {
    limit_name: &'a str,
    /// `past`, `now`, `next` or `later`.
    state: &'static str,
    #[serde(flatten)]
    columns: Columns<'a>,
    #[serde(skip)]
    row: &'a Row,
}

/// All versions, by name and date.
fn versions<'a>(rows: impl Iterator<Item = &'a Row>, at: i128) -> Vec<Version<'a>> {
    let mut limits = BTreeMap::<&str, BTreeMap<i128, &Row>>::new();
    for row in rows {
        limits.entry(&row.name).or_default().insert(row.effective, row);
    }
    let of = |(limit_name, dated): (&'a str, BTreeMap<i128, &'a Row>)| {
        let come = dated.range(..=at).count();
        let state = move |index: usize| match index {
            _ if index + 1 < come => "past",
            _ if index + 1 == come => "now",
            _ if index == come => "next",
            _ => "later",
        };
        dated.into_values().enumerate().map(move |(index, row)| Version {
            limit_name,
            state: state(index),
            columns: Columns::of(row),
            row,
        })
    };
    limits.into_iter().flat_map(of).collect()
}

fn text<'a>(versions: impl Iterator<Item = &'a Version<'a>>) -> String {
    let mut grid = Grid::new(["limit_name", "state", "from", "limit"]);
    for version in versions {
        grid.push([
            Shown(version.limit_name).to_string(),
            version.state.to_owned(),
            format_ns(version.row.effective).to_string(),
            rule(version.row),
        ]);
    }
    grid.to_string()
}

fn json<'a>(versions: impl Iterator<Item = &'a Version<'a>>) -> serde_json::Result<String> {
    versions.map(|version| Ok(shown::json(version)? + "\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::rows::Defaults;

    #[test]
    fn version_state_follows_from_its_date() {
        let rows: String = ["2024-01-01", "2026-01-01", "2025-01-01", "2023-01-01", "2027-01-01"]
            .map(|date| {
                let row = r#"{"limit_name":"b","limit_value":5,"effective_date":"#;
                format!("{row}\"{date}\"}}\n")
            })
            .concat();
        let later = r#"{"limit_name":"a","limit_value":null,"effective_date":"2030-01-01"}"#;
        let text = format!("{rows}{later}");
        let read = Read::of_bytes(text.as_bytes(), "f".as_ref(), Defaults::default()).unwrap();
        let at = |text: &str| {
            let versions = versions(read.table.rows(), date::parse(text).unwrap());
            let state = |version: &Version<'_>| format!("{}{}", version.limit_name, version.state);
            versions.iter().map(state).collect::<Vec<_>>()
        };
        assert_eq!(at("2025-01-01"), ["anext", "bpast", "bpast", "bnow", "bnext", "blater"]);
        assert_eq!(at("2022-01-01"), ["anext", "bnext", "blater", "blater", "blater", "blater"]);
        assert_eq!(at("2031-01-01"), ["anow", "bpast", "bpast", "bpast", "bpast", "bnow"]);
        let all = versions(read.table.rows(), date::parse("2025-01-01").unwrap());
        let text = self::text(all.iter());
        assert!(text.contains("a           next   2030-01-01T00:00:00Z  no limit\n"), "{text}");
        assert!(
            json(all.iter()).unwrap().starts_with(
                r#"{"limit_name":"a","state":"next","limit_value":null,"effective_date":"2030-01-01T00:00:00Z","bound":"max","#
            )
        );
    }
}
