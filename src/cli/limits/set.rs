//! `floodmark limits set` and `delete`: one version of a limit, in a table or in a file.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, anyhow};

use super::console::{now, print};
use super::file;
use super::report::rule;
use super::transfer::write_failure;
use crate::base::date::{self, format_ns};
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::quote::Quoted;
use crate::cli::values::LimitRows;
use crate::limits::draft::{Draft, OPTIONAL, Unfit};
use crate::limits::edit::FileEditor;
use crate::limits::feed::{Options, runtime};
use crate::limits::postgres::Session;
use crate::limits::postgres::write::Plan;
use crate::limits::reason::{Position, RowError};
use crate::limits::rows::{self, Cell, Defaults, RawRow, Row};
use crate::limits::table::Table;
use crate::limits::{Address, json, postgres};

/// The limits to change.
#[derive(Clone, Debug, clap::Args)]
struct Target {
    /// Limits: a file of JSON, or a database as postgres://USER@HOST/DATABASE
    #[arg(long, value_name = "FILE|URI", env = "FLOODMARK_LIMITS", hide_env_values = true)]
    limits: String,

    #[command(flatten)]
    rows: LimitRows,
}

/// The options of `floodmark limits set`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Set {
    /// The name of the limit
    name: String,

    /// The value, a decimal number of at least 0; `null` ends the limit
    #[arg(allow_hyphen_values = true)]
    value: String,

    /// The effective date, such as 2024-05-01 or 2024-05-01T12:00:00Z; default: now
    #[arg(long, value_name = "TIME", value_parser = date::parse, allow_hyphen_values = true)]
    effective: Option<i128>,

    /// Upper or lower bound: `max` or `min`
    #[arg(long)]
    bound: Option<String>,

    /// The metric: `bytes` or `packets`
    #[arg(long)]
    metric: Option<String>,

    /// The kind of entity that the limit is for: `pair`, `source`, `destination`, `host` or `total`
    #[arg(long)]
    per: Option<String>,

    /// The network that the source must be in, or `any`
    #[arg(long, value_name = "NETWORK")]
    source: Option<String>,

    /// The network that the destination must be in, or `any`
    #[arg(long, value_name = "NETWORK")]
    destination: Option<String>,

    /// The network of the hosts that are judged, or `any`; only with `per` `host`
    #[arg(long, value_name = "NETWORK")]
    host: Option<String>,

    #[command(flatten)]
    target: Target,
}

/// The options of `floodmark limits delete`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Delete {
    /// The name of the limit
    name: String,

    /// The effective date of the version, such as 2024-05-01 or 2024-05-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = date::parse, allow_hyphen_values = true)]
    effective: i128,

    #[command(flatten)]
    target: Target,
}

/// The change to the rows of one name and date.
struct Change {
    /// These rows,
    rows: Vec<usize>,
    /// are replaced by this one, or deleted.
    new: Option<Draft>,
    /// Whether the limits have this content already.
    unchanged: bool,
    /// A sentence about it, for people.
    message: String,
}

impl Set {
    pub(super) fn run(&self) -> Outcome {
        let effective = self.effective.unwrap_or_else(now);
        self.target.change(|rows, defaults| self.decide(rows, defaults, effective))
    }

    fn decide(
        &self,
        rows: &[RawRow<'_>],
        defaults: Defaults,
        effective: i128,
    ) -> Result<Change, Failure> {
        let table = Table::of(rows, defaults);
        let versions = Versions::of(rows, &table, &self.name, effective);
        let base = versions.there.or(versions.before).map(|(at, row)| Draft::of(&rows[at], row));
        let raw = self.raw(base.as_ref(), effective);
        let usage = |error: anyhow::Error| {
            Failure::new(Exit::Usage, error.context(format!("limit {}", Quoted(&self.name))))
        };
        let row = rows::check(&raw, defaults).map_err(|reason| usage(self.hint(reason)))?;
        let draft = Draft::of(&raw, &row);
        let (name, from) = (Quoted(&self.name), format_ns(effective));
        let then = rule(&row);
        let unchanged =
            versions.there.is_some_and(|(at, there)| Draft::of(&rows[at], there) == draft);
        let mut message = match unchanged {
            true => format!("{name} from {from}: {then}, unchanged\n"),
            false => format!("{name} from {from}: {then}\n"),
        };
        if !unchanged {
            match (versions.there, versions.rows.len()) {
                (Some((_, there)), _) => message += &format!("  instead of: {}\n", rule(there)),
                (None, 0) => {}
                (None, _) => message += "  instead of: a row that was refused\n",
            }
        }
        message += &format!("  until then: {}\n", dated(versions.before));
        if let Some((_, next)) = versions.next {
            message += &format!("  from {}: {}\n", format_ns(next.effective), rule(next));
        }
        Ok(Change { rows: versions.rows, new: Some(draft), unchanged, message })
    }

    /// Returns the new row, unchecked.
    fn raw(&self, base: Option<&Draft>, effective: i128) -> RawRow<'static> {
        let value = match self.value.as_str() {
            "null" => Cell::Null,
            text => Cell::Text(text.to_owned().into()),
        };
        let mut cells = vec![
            (Cow::Borrowed("limit_name"), Cell::Text(self.name.clone().into())),
            ("limit_value".into(), value),
            ("effective_date".into(), Cell::Instant(effective)),
        ];
        let given =
            [&self.bound, &self.metric, &self.per, &self.source, &self.destination, &self.host];
        for (column, given) in OPTIONAL.into_iter().zip(given) {
            let text = given.as_deref().or_else(|| base?.optional(column));
            if let Some(text) = text {
                cells.push((column.into(), Cell::Text(text.to_owned().into())));
            }
        }
        RawRow { position: Position::default(), cells: Ok(cells) }
    }

    /// Adds a remedy to an error about a column that comes from the version in force.
    fn hint(&self, reason: RowError) -> anyhow::Error {
        let inherited =
            matches!(reason, RowError::HostWithoutPerHost { .. }) && self.host.is_none();
        let error = anyhow::Error::new(reason);
        match inherited {
            true => error.context(
                "the version in force until then has a host, which remains: give --host any to \
                 remove it",
            ),
            false => error,
        }
    }
}

impl Delete {
    pub(super) fn run(&self) -> Outcome {
        self.target.change(|rows, defaults| self.decide(rows, defaults))
    }

    fn decide(&self, rows: &[RawRow<'_>], defaults: Defaults) -> Result<Change, Failure> {
        let table = Table::of(rows, defaults);
        let versions = Versions::of(rows, &table, &self.name, self.effective);
        let (name, from) = (Quoted(&self.name), format_ns(self.effective));
        if versions.rows.is_empty() {
            let keys = rows.iter().filter_map(RawRow::key);
            let dates: BTreeSet<i128> =
                keys.filter(|(other, _)| *other == self.name).map(|(_, date)| date).collect();
            let all: Vec<String> =
                dates.into_iter().take(10).map(|date| format_ns(date).to_string()).collect();
            let error = match all.is_empty() {
                true => anyhow!("there is no limit {name}"),
                false => anyhow!("{name} has no version of {from}; it has {}", all.join(", ")),
            };
            return Err(Failure::new(Exit::NoInput, error));
        }
        let was = versions.there.map_or("a row that was refused".into(), |(_, row)| rule(row));
        let instead = dated(versions.before);
        let message = format!(
            "{name} from {from} is deleted, as if it had never existed: {was}\n  instead: {instead}\n"
        );
        Ok(Change { rows: versions.rows, new: None, unchanged: false, message })
    }
}

/// Formats a version with the date since which it is in force.
fn dated(version: Option<(usize, &Row)>) -> String {
    match version {
        Some((_, row)) => format!("{} (since {})", rule(row), format_ns(row.effective)),
        None => "no limit of this name".to_owned(),
    }
}

/// The versions of a limit around a date, those that hold with their index.
struct Versions<'a> {
    /// All rows of the name and date, whether they hold or not.
    rows: Vec<usize>,
    before: Option<(usize, &'a Row)>,
    there: Option<(usize, &'a Row)>,
    next: Option<(usize, &'a Row)>,
}

impl<'a> Versions<'a> {
    fn of(rows: &[RawRow<'_>], table: &'a Table, name: &str, effective: i128) -> Self {
        let holding = || {
            let rows = table.verdicts.iter().enumerate();
            rows.filter_map(|(index, verdict)| Some((index, verdict.row()?)))
                .filter(|(_, row)| row.name == name)
        };
        let date = |(_, row): &(usize, &Row)| row.effective;
        let of = (0..rows.len()).filter(|index| rows[*index].key() == Some((name, effective)));
        Versions {
            rows: of.collect(),
            before: holding().filter(|version| date(version) < effective).max_by_key(date),
            there: holding().find(|version| date(version) == effective),
            next: holding().filter(|version| date(version) > effective).min_by_key(date),
        }
    }
}

impl Target {
    /// Applies the change that `decide` derives from the present rows, under a lock against other writers.
    fn change(
        &self,
        decide: impl FnOnce(&[RawRow<'_>], Defaults) -> Result<Change, Failure>,
    ) -> Outcome {
        let options = self.rows.of(&self.limits)?;
        let message = match &options.address {
            Address::File(path) if path == Path::new("-") => {
                let error = anyhow!("standard input can't be changed: give a file or a database");
                return Err(Failure::new(Exit::Usage, error));
            }
            Address::File(path) => change_file(path, options.defaults, decide)?,
            Address::Postgres(database) => change_table(database, &options, decide)?,
        };
        print(&mut std::io::stdout().lock(), &message)?;
        Ok(Exit::Done)
    }
}

/// The failure of a row that the file or table can't store.
fn unfit(error: Unfit) -> Failure {
    Failure::new(Exit::Usage, error)
}

fn change_file(
    path: &Path,
    defaults: Defaults,
    decide: impl FnOnce(&[RawRow<'_>], Defaults) -> Result<Change, Failure>,
) -> Result<String, Failure> {
    file::rewrite(path, |bytes| {
        let text = json::text(bytes).and_then(|text| Ok((text, FileEditor::of(text)?)));
        let (_, edit) = text
            .with_context(|| format!("reading limits from \"{}\"", path.display()))
            .map_err(|error| Failure::new(Exit::BadConfig, error))?;
        let change = decide(edit.rows(), defaults)?;
        let text = match &change.new {
            _ if change.unchanged => None,
            Some(new) => {
                new.fits_file().map_err(unfit)?;
                Some(edit.replace(&change.rows, &new.json()))
            }
            None => Some(edit.without(&change.rows)),
        };
        Ok((text, change.message))
    })
}

fn change_table(
    database: &postgres::Address,
    options: &Options,
    decide: impl FnOnce(&[RawRow<'_>], Defaults) -> Result<Change, Failure>,
) -> Result<String, Failure> {
    runtime()?.block_on(async {
        let session = Session::connect(database).await.map_err(write_failure)?;
        let locked = session.lock(&options.table).await.map_err(write_failure)?;
        let change = decide(locked.rows(), options.defaults)?;
        if let Some(new) = &change.new {
            new.fits_table().map_err(unfit)?;
        }
        let mut rows = change.rows.into_iter();
        let plan = match (change.new, change.unchanged) {
            (_, true) => return Ok(change.message),
            (None, _) => Plan { removed: rows.collect(), ..Plan::default() },
            (Some(new), _) => match rows.next() {
                None => Plan { added: vec![new], ..Plan::default() },
                Some(first) => {
                    Plan { changed: vec![(first, new)], removed: rows.collect(), ..Plan::default() }
                }
            },
        };
        locked.commit(&plan, options.defaults).await.map_err(write_failure)?;
        Ok(change.message)
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        set: Set,
    }

    const FILE: &str = r#"{"limit_name":"a","limit_value":1,"effective_date":"2024-05-01","per":"host","host":"10.0.0.0/8"}
{"limit_name":"a","limit_value":2,"effective_date":"2025-05-01"}
{"limit_name":"a","limit_value":3,"effective_date":"2025-06-01","per":"flow"}
{"limit_name":"b","limit_value":3,"effective_date":"2025-06-01"}
"#;

    /// Returns the text of the file and the message after `limits set`, or the error.
    fn set(words: &str) -> Result<(String, String), String> {
        let line = ["set"].into_iter().chain(words.split(' ')).chain(["--limits", "f"]);
        let set = Cli::try_parse_from(line).map_err(|error| error.to_string())?.set;
        let rows = json::raw_rows(FILE).unwrap();
        let change = set.decide(&rows, Defaults::default(), set.effective.unwrap());
        let change = change.map_err(|failure| {
            assert_eq!(failure.exit, Exit::Usage);
            format!("{:#}", failure.error)
        })?;
        let new = change.new.unwrap().json();
        let rows: Vec<String> = change.rows.iter().map(usize::to_string).collect();
        let unchanged = if change.unchanged { "unchanged " } else { "" };
        Ok((format!("{unchanged}[{}] {new}", rows.join(" ")), change.message))
    }

    #[test]
    fn columns_come_from_the_version_in_force() {
        let (written, message) = set("a 5 --effective 2024-06-01").unwrap();
        assert_eq!(
            written,
            r#"[] {"limit_name":"a","limit_value":5,"effective_date":"2024-06-01T00:00:00Z","per":"host","host":"10.0.0.0/8"}"#
        );
        assert_eq!(
            message,
            "\"a\" from 2024-06-01T00:00:00Z: max 5 bytes per host, host 10.0.0.0/8\n  \
             until then: max 1 bytes per host, host 10.0.0.0/8 (since 2024-05-01T00:00:00Z)\n  \
             from 2025-05-01T00:00:00Z: max 2 bytes per pair\n"
        );
        let (written, _) = set("a null --effective 2025-05-01 --source 10.1.1.1/8").unwrap();
        assert_eq!(
            written,
            r#"[1] {"limit_name":"a","limit_value":null,"effective_date":"2025-05-01T00:00:00Z","source":"10.0.0.0/8"}"#
        );
        let (written, message) = set("a 1 --effective 2024-05-01T02:00:00+02:00").unwrap();
        assert!(
            written.starts_with("unchanged [0]") && message.contains(", unchanged\n"),
            "{message}"
        );
        let (written, message) = set("a 4 --effective 2025-06-01").unwrap();
        assert!(written.starts_with(r#"[2] {"limit_name":"a","limit_value":4,"#), "{written}");
        assert!(message.contains("instead of: a row that was refused"), "{message}");
        let (_, message) = set("b 4 --effective 2024-01-01 --bound min").unwrap();
        assert!(
            message.contains("min 4 bytes per pair\n  until then: no limit of this name"),
            "{message}"
        );
    }

    #[test]
    fn values_that_a_table_would_refuse_are_rejected() {
        for (words, expected) in [
            ("a -5 --effective 2024-01-01", "-5"),
            ("a 5GB --effective 2024-01-01", "\"5GB\" is not a decimal number"),
            ("a 5 --effective 2024-01-01 --per flow", "per \"flow\" is not known"),
            ("a 5 --effective 2024-01-01 --source 10.0.0.256", "source \"10.0.0.256\""),
            ("a 5 --effective 2024-06-01 --per pair", "--host any"),
            ("a 5 --effective soon", "\"soon\" is not a date"),
        ] {
            let error = set(words).unwrap_err();
            assert!(error.contains(expected), "{words}: {error}");
        }
        assert!(set("a 5 --effective 2024-06-01 --per pair --host any").is_ok());
    }
}
