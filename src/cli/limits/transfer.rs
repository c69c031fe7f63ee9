//! `floodmark limits import` and `export`: copy limits between JSON and a table.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::console::print;
use super::file;
use super::init::database;
use super::reading::{Read, note_capped};
use super::report::count;
use crate::base::date;
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::quote::Quoted;
use crate::cli::values::LimitRows;
use crate::limits::draft::{Draft, Unfit};
use crate::limits::feed::runtime;
use crate::limits::postgres;
use crate::limits::postgres::Session;
use crate::limits::postgres::write::Plan;
use crate::limits::rows::{self, Defaults, RawRow};

/// The options of `floodmark limits import`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Import {
    /// A file of limits; `-` is standard input
    file: PathBuf,

    /// The database that has the table, as postgres://USER@HOST/DATABASE
    #[arg(value_name = "URI")]
    database: String,

    /// Delete all rows of the table that are not in the file
    #[arg(long)]
    replace: bool,

    #[command(flatten)]
    rows: LimitRows,
}

impl Import {
    pub(super) fn run(&self) -> Outcome {
        let database = database(&self.rows, &self.database, "import")?;
        let defaults = self.rows.of(&self.database)?.defaults;
        let (read, drafts) = Read::file_with_drafts(&self.file, defaults)?;
        let unfit = note_unfit(&drafts, Draft::fits_table);
        if read.note_refused("") || unfit {
            let error = anyhow::anyhow!("rows are refused, so nothing is written");
            return Err(Failure::new(Exit::BadData, error));
        }
        let summary = runtime()?.block_on(async {
            let session = Session::connect(&database).await?;
            let locked = session.lock(&self.rows.limits_table).await?;
            let plan = plan(locked.rows(), &drafts, defaults, self.replace);
            let summary = self.summary(&drafts, &plan);
            if !plan.is_empty() {
                locked.commit(&plan, defaults).await?;
            }
            Ok(summary)
        });
        print(&mut std::io::stdout().lock(), &summary.map_err(write_failure)?)?;
        Ok(Exit::Done)
    }

    fn summary(&self, drafts: &[Draft], plan: &Plan) -> String {
        let (added, changed) = (plan.added.len(), plan.changed.len());
        let kept = drafts.len() - added - changed;
        let deleted = match self.replace {
            true => format!("; {} deleted from the table", count(plan.removed.len(), "row")),
            false => String::new(),
        };
        let all = count(drafts.len(), "row");
        format!("{all}: {added} added, {changed} changed, {kept} unchanged{deleted}\n")
    }
}

/// Turns an error of writing a table into the failure of the command.
pub(super) fn write_failure(error: postgres::Error) -> Failure {
    match error.is_denied() {
        true => error.in_step(
            "writing limits needs the rights SELECT, INSERT, UPDATE and DELETE on the table",
        ),
        false => error.in_step("writing limits"),
    }
}

/// Reports on standard error the rows that can't be written. Returns whether there are any.
fn note_unfit(drafts: &[Draft], fits: impl Fn(&Draft) -> Result<(), Unfit>) -> bool {
    let unfit: Vec<String> = drafts
        .iter()
        .filter_map(|draft| {
            let (name, from) = (Quoted(&draft.name), date::format_ns(draft.effective));
            Some(format!("{name} of {from}: {}", fits(draft).err()?))
        })
        .collect();
    note_capped("", &unfit);
    !unfit.is_empty()
}

/// Returns the changes that give a table the content of these rows.
fn plan(table: &[RawRow<'_>], drafts: &[Draft], defaults: Defaults, replace: bool) -> Plan {
    let mut there = HashMap::<(&str, i128), Vec<usize>>::new();
    let mut plan = Plan::default();
    for (index, raw) in table.iter().enumerate() {
        match raw.key() {
            Some(key) => there.entry(key).or_default().push(index),
            None if replace => plan.removed.push(index),
            None => {}
        }
    }
    let draft_at = |index: usize| {
        let raw = &table[index];
        Some(Draft::of(raw, &rows::check(raw, defaults).ok()?))
    };
    for draft in drafts {
        match there.remove(&(draft.name.as_str(), draft.effective)).as_deref() {
            None | Some([]) => plan.added.push(draft.clone()),
            Some([only]) if draft_at(*only).as_ref() == Some(draft) => {}
            Some([first, others @ ..]) => {
                plan.changed.push((*first, draft.clone()));
                plan.removed.extend(others);
            }
        }
    }
    if replace {
        plan.removed.extend(there.into_values().flatten());
    }
    plan.removed.sort_unstable();
    plan
}

/// The options of `floodmark limits export`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Export {
    /// Limits: a database as postgres://USER@HOST/DATABASE, or a file of JSON
    #[arg(value_name = "URI|FILE")]
    place: String,

    /// The file to write; `-`, the default, is standard output
    #[arg(value_name = "OUTPUT")]
    output: Option<PathBuf>,

    #[command(flatten)]
    rows: LimitRows,
}

impl Export {
    pub(super) fn run(&self) -> Outcome {
        let (read, mut drafts) = Read::with_drafts(&self.rows.of(&self.place)?)?;
        let unfit = note_unfit(&drafts, Draft::fits_file);
        let refused = read.note_refused("");
        drafts.retain(|draft| draft.fits_file().is_ok());
        drafts
            .sort_by(|one, other| (&one.name, one.effective).cmp(&(&other.name, other.effective)));
        let rows: Vec<String> = drafts.iter().map(Draft::json).collect();
        let text = match rows.is_empty() {
            true => "[]\n".to_owned(),
            false => format!("[\n{}\n]\n", rows.join(",\n")),
        };
        match &self.output {
            Some(path) if path != Path::new("-") => file::write(path, text.as_bytes())?,
            _ => print(&mut std::io::stdout().lock(), &text)?,
        }
        Ok(if refused || unfit { Exit::BadData } else { Exit::Done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::json;

    #[test]
    fn only_rows_that_differ_are_written() {
        let row = |name: &str, more: &str| {
            format!(
                "{{\"limit_name\":\"{name}\",\"limit_value\":1,\"effective_date\":\"2024-05-01\"{more}}}\n"
            )
        };
        let table = [
            row("same", ",\"source\":\"10.1.1.1/8\",\"metric\":\"bytes\""),
            row("twice", ""),
            row("twice", ""),
            row("bad", ",\"per\":\"flow\""),
            row("other", ""),
            "{\"limit_name\":7}\n".to_owned(),
        ]
        .concat();
        let file = [
            row("new", ""),
            row("same", ",\"source\":\"10.0.0.0/8\""),
            row("twice", ""),
            row("bad", ",\"per\":\"host\""),
        ]
        .concat();
        let defaults = Defaults::default();
        let (_, drafts) = Read::of_rows(&json::raw_rows(&file).unwrap(), defaults);
        let table = json::raw_rows(&table).unwrap();
        let with = plan(&table, &drafts, defaults, false);
        let [new, _, twice, bad] = &drafts[..] else { panic!("four rows") };
        assert_eq!(with.added, std::slice::from_ref(new));
        assert_eq!(with.changed, [(1, twice.clone()), (3, bad.clone())]);
        assert_eq!(with.removed, [2]);
        assert_eq!(plan(&table, &drafts, defaults, true).removed, [2, 4, 5]);
        assert!(plan(&table, &[], defaults, false).is_empty());
    }
}
