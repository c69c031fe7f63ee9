//! A case made ready to play: its events by tick, and its rows of limits.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use floodmark_dataflows::time::Windows;
use floodmark_dataflows::types::{Pair, Version, VersionId, Volume};

use super::case::{Case, Edit, Traffic, When};
use super::changes::Expected;
use super::moment::Moment;
use super::settings::BEGIN_MS;
use super::words::Located;
use crate::base::date::{format_ms, format_ns};
use crate::base::quote::Quoted;
use crate::base::terminal::Messages;
use crate::capture::Reader;
use crate::capture::merge::Merge;
use crate::limits::catalog::{Catalog, LimitSet};
use crate::limits::reason::Position;
use crate::limits::rows::{self, Cell, RawRow, Row};
use crate::limits::text::Text;
use crate::limits::{Address, feed, json};

/// Maximum number of records that the lines of one case may make.
const RECORDS_MAX: u64 = 1_000_000;

/// A case made ready to play.
pub(super) struct Script {
    /// The time that moments of the case are counted from.
    pub(super) begin: u64,
    /// Names and numbers of all rows of the case. The rows of its start are in force.
    pub(super) catalog: Catalog,
    /// Events by tick.
    pub(super) ticks: BTreeMap<u64, TickEvents>,
    /// Expectations, in the order of time.
    pub(super) checkpoints: Vec<Checkpoint>,
    /// Captures whose packets are traffic, too.
    pub(super) readers: Vec<Reader>,
}

/// The events of a tick.
#[derive(Debug, Default, PartialEq)]
pub(super) struct TickEvents {
    pub(super) edits: Vec<(Version, isize)>,
    pub(super) records: Vec<TimedRecord>,
}

/// A record and its event time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TimedRecord {
    pub(super) time: u64,
    pub(super) pair: Pair,
    pub(super) volume: Volume,
}

/// The changes expected since the checkpoint before.
pub(super) struct Checkpoint {
    /// The line of the file.
    pub(super) line: usize,
    /// The last tick that counts; `None`: the end of the case.
    pub(super) until: Option<u64>,
    pub(super) expected: Vec<Expected>,
}

/// A problem, and the line of the file that has it.
pub(super) type Problem = Located<String>;

fn problem(line: usize, what: impl Into<String>) -> Problem {
    Located { line, what: what.into() }
}

/// Makes a case ready to play. Names of files are relative to `directory`, that of the case's file.
pub(super) fn build(case: &Case, directory: &Path) -> Result<Script, Problem> {
    let begin = begin(case, directory)?;
    let mut builder = ScriptBuilder {
        case,
        directory,
        begin,
        rows: Rows::default(),
        catalog: Catalog::new(),
        ticks: BTreeMap::new(),
        records: 0,
    };
    let first = builder.edit(case.common_rows.iter().chain(&case.rows), None)?;
    let checkpoints = builder.steps()?;
    let ScriptBuilder { mut catalog, ticks, .. } = builder;
    let first: HashSet<VersionId> = first.into_iter().map(|(version, _)| version.id).collect();
    let all: Vec<VersionId> = catalog.held().map(|version| version.id).collect();
    all.iter().for_each(|version| catalog.set_holds(*version, first.contains(version)));
    let readers = open(case, directory)?;
    Ok(Script { begin, catalog, ticks, checkpoints, readers })
}

/// Returns the beginning of a case: the tick of the first packet of its captures, unless the case states it.
fn begin(case: &Case, directory: &Path) -> Result<u64, Problem> {
    let given = case.settings.begin();
    let Some(capture) = case.settings.captures.first() else {
        return Ok(given.unwrap_or(BEGIN_MS));
    };
    // With readers of their own, since packets that a reader has returned do not come again.
    let mut merge = Merge::new(open(case, directory)?, Messages::new());
    let Some(packet) = merge.next() else {
        let what = match merge.damaged() {
            true => "it can't be read as a capture",
            false => "none of its packets counts",
        };
        return Err(problem(capture.line, what));
    };
    let first = packet.time.ms - packet.time.ms % case.settings.tick_ms();
    match given {
        Some(begin) if begin > first => Err(problem(
            capture.line,
            format!(
                "its first packet is in the tick of {}, but the case begins at {}: set an earlier \"begin\"",
                format_ms(first),
                format_ms(begin)
            ),
        )),
        given => Ok(given.unwrap_or(first)),
    }
}

fn open(case: &Case, directory: &Path) -> Result<Vec<Reader>, Problem> {
    let open = |Located { line, what }: &Located<PathBuf>| {
        let reader = Reader::open(&directory.join(what));
        let mut reader = reader.map_err(|error| problem(*line, error.to_string()))?;
        reader.drop_strays(case.settings.max_ahead_ms());
        Ok(reader)
    };
    case.settings.captures.iter().map(open).collect()
}

/// A case that is being made ready.
struct ScriptBuilder<'a> {
    case: &'a Case,
    directory: &'a Path,
    begin: u64,
    rows: Rows,
    catalog: Catalog,
    ticks: BTreeMap<u64, TickEvents>,
    records: u64,
}

impl ScriptBuilder<'_> {
    fn steps(&mut self) -> Result<Vec<Checkpoint>, Problem> {
        let mut checkpoints = Vec::<Checkpoint>::new();
        for step in &self.case.steps {
            let until = match step.when {
                When::End => None,
                When::At(moment) => {
                    let at = moment.ms(self.begin).map_err(|what| problem(step.line, what))?;
                    Some(at)
                }
            };
            let before = checkpoints.last().and_then(|checkpoint| checkpoint.until);
            if let Some(at) = until {
                if at < self.begin {
                    return Err(problem(
                        step.line,
                        "this step is before the beginning of the case",
                    ));
                }
                if before.is_some_and(|before| at <= before) {
                    return Err(problem(
                        step.line,
                        "this step is not later than the one before it",
                    ));
                }
                let edits = self.edit(&step.edits, Some(at))?;
                self.ticks.entry(at).or_default().edits = edits;
                for traffic in &step.traffic {
                    self.traffic(at, traffic)?;
                }
            } else if let Some(line) = step.edits.first().map(|edit| edit.line) {
                return Err(problem(
                    line,
                    "the input has ended: change limits at an \"at\" before \"end\"",
                ));
            } else if let Some(line) = step.traffic.first().map(|traffic| traffic.line) {
                return Err(problem(line, "the input has ended: no record may follow \"end\""));
            }
            checkpoints.push(Checkpoint {
                line: step.line,
                until,
                expected: step.expected.clone(),
            });
        }
        Ok(checkpoints)
    }

    /// Applies edits of a moment, or of the start (`at` is `None`), to the rows in force. Returns the difference.
    fn edit<'a>(
        &mut self,
        edits: impl IntoIterator<Item = &'a Located<Edit>>,
        at: Option<u64>,
    ) -> Result<Vec<(Version, isize)>, Problem> {
        let mut edits = edits.into_iter().peekable();
        // There may be many rows, and most steps leave them as they are.
        if edits.peek().is_none() {
            return Ok(Vec::new());
        }
        let before = self.rows.clone();
        for edit in edits {
            self.apply(&edit.what, at).map_err(|what| problem(edit.line, what))?;
        }
        let mut changes = Vec::new();
        for (row, diff) in before.difference(&self.rows) {
            changes.push((self.catalog.version(LimitSet::Live, row), diff));
        }
        Ok(changes)
    }

    fn apply(&mut self, edit: &Edit, at: Option<u64>) -> Result<(), String> {
        let defaults = self.case.settings.defaults();
        match edit {
            Edit::Json(text) => {
                let raws = json::raw_rows(text).map_err(|error| error.to_string())?;
                for raw in raws {
                    self.rows
                        .insert(rows::check(&raw, defaults).map_err(|error| error.to_string())?);
                }
            }
            Edit::Row { columns, effective } => {
                // A row of the start has always been in force.
                let since = effective.or(at.map(|at| Moment::At(i128::from(at) * 1_000_000)));
                let since = since.map_or(0, |moment| moment.ns(self.begin));
                let date = ("effective_date".to_owned(), Cell::Instant(since));
                let cells = columns.iter().cloned().chain([date]);
                let raw = RawRow {
                    position: Position::default(),
                    cells: Ok(cells.map(|(column, cell)| (Cow::Owned(column), cell)).collect()),
                };
                self.rows.insert(rows::check(&raw, defaults).map_err(|error| error.to_string())?);
            }
            Edit::Delete { name, effective } => {
                let date = effective.map(|moment| moment.ns(self.begin));
                if !self.rows.delete(name, date) {
                    let of = date.map(|date| format!(" of {}", format_ns(date)));
                    return Err(format!(
                        "limit {} has no row{} to delete",
                        Quoted(name),
                        of.unwrap_or_default()
                    ));
                }
            }
            Edit::Limits(place) => self.rows = self.read(place)?,
        }
        Ok(())
    }

    /// Reads all rows of a file or table. All must be valid: with a row missing, a case would test other limits than
    /// it seems to.
    fn read(&self, place: &str) -> Result<Rows, String> {
        let address = match place.parse::<Address>().map_err(|error| error.to_string())? {
            Address::File(path) => Address::File(self.directory.join(path)),
            database => database,
        };
        let options = feed::Options {
            address,
            defaults: self.case.settings.defaults(),
            ..feed::Options::file("")
        };
        let table = feed::read(&options).map_err(|failure| format!("{:#}", failure.error))?;
        if let Some((verdict, reason)) = table.refusals().next() {
            return Err(format!(
                "limits {}, {}: refused: {reason}",
                Quoted(place),
                verdict.position
            ));
        }
        let mut rows = Rows::default();
        table.into_held().into_iter().for_each(|row| rows.insert(row));
        Ok(rows)
    }

    fn traffic(&mut self, at: u64, traffic: &Located<Traffic>) -> Result<(), Problem> {
        let Located { line, what: Traffic { pair, volume, time, every } } = *traffic;
        let (every, during) = every.unwrap_or((1, 1));
        let time = time.map(|time| time.ms(self.begin)).transpose();
        let time = time.map_err(|what| problem(line, what))?;
        if time.is_some_and(|time| time > at) {
            return Err(problem(line, "its time is later than its step"));
        }
        self.records += during.div_ceil(every);
        if self.records > RECORDS_MAX {
            let what = format!("the lines up to here make more than {RECORDS_MAX} records");
            return Err(problem(line, format!("{what}: use a capture instead")));
        }
        for tick in (0..during.div_ceil(every)).map(|count| at + count * every) {
            let time = time.unwrap_or(tick);
            if self.windows().of(time).is_none() {
                return Err(problem(line, "its time is too far in the future for a window"));
            }
            let records = &mut self.ticks.entry(tick).or_default().records;
            records.push(TimedRecord { time, pair, volume });
        }
        Ok(())
    }

    fn windows(&self) -> Windows {
        self.case.settings.options().windows
    }
}

/// Rows of limits by name and effective date.
#[derive(Clone, Debug, Default)]
struct Rows(BTreeMap<(Text, i128), Arc<Row>>);

impl Rows {
    /// Adds a row, in place of the one with its name and date if there is one.
    fn insert(&mut self, row: impl Into<Arc<Row>>) {
        let row: Arc<Row> = row.into();
        self.0.insert((row.name.clone(), row.effective), row);
    }

    /// Removes the rows of a name, or that of one date. Returns false if there is none.
    fn delete(&mut self, name: &str, date: Option<i128>) -> bool {
        let before = self.0.len();
        self.0.retain(|(other, effective), _| {
            *other != *name || date.is_some_and(|date| date != *effective)
        });
        self.0.len() < before
    }

    /// Returns the rows to remove and to add so that these rows become `after`.
    fn difference<'a>(&'a self, after: &'a Rows) -> impl Iterator<Item = (&'a Arc<Row>, isize)> {
        let not_in = |rows: &'a Rows| {
            move |(key, row): &(&(Text, i128), &Arc<Row>)| rows.0.get(*key) != Some(*row)
        };
        let removed = self.0.iter().filter(not_in(after)).map(|(_, row)| (row, -1));
        let added = after.0.iter().filter(not_in(self)).map(|(_, row)| (row, 1));
        removed.chain(added)
    }
}
