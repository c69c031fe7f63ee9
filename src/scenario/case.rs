//! A file of cases, line by line.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use floodmark_dataflows::types::{Pair, Volume};

use super::changes::Expected;
use super::entity;
use super::moment::Moment;
use super::settings::{CaseClock, Settings};
use super::words::{Located, Word, Words};
use crate::base::duration;
use crate::base::quote::Quoted;
use crate::limits::rows::Cell;
use crate::record::AMOUNT_MAX;

/// Limits and traffic at times, and the changes expected of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Case {
    pub(super) title: String,
    /// The line on which the case begins, from 1.
    pub(super) line: usize,
    pub(super) settings: Settings,
    /// Rows in force from the start of all cases of the file.
    pub(super) common_rows: Arc<[Located<Edit>]>,
    /// Rows in force from the start of this case, applied after `common_rows`.
    pub(super) rows: Vec<Located<Edit>>,
    pub(super) steps: Vec<Step>,
}

/// The events of a moment, and the changes expected since the step before.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) line: usize,
    pub(super) when: When,
    pub(super) edits: Vec<Located<Edit>>,
    pub(super) traffic: Vec<Located<Traffic>>,
    pub(super) expected: Vec<Expected>,
    /// Whether a line of the step expects no changes.
    silent: bool,
}

/// The time of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum When {
    At(Moment),
    /// The input ends.
    End,
}

/// An edit of the rows of limits.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Edit {
    /// A row as in a file of limits.
    Json(String),
    /// A row by its columns. Without a date it is in force from the step on.
    Row { columns: Vec<(String, Cell<'static>)>, effective: Option<Moment> },
    /// Removes the rows of a name: that of one date, or all.
    Delete { name: String, effective: Option<Moment> },
    /// Replaces all rows by those of a file, or of a table of a database.
    Limits(String),
}

/// Records of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Traffic {
    pub(super) pair: Pair,
    pub(super) volume: Volume,
    /// The event time, if it is not that of the step.
    pub(super) time: Option<Moment>,
    /// Interval of repeated records, and the time for which they repeat, in milliseconds.
    pub(super) every: Option<(u64, u64)>,
}

/// The problem of a line that can't be read or played.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {problem}", file.display())]
pub struct CaseError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The problem with the line.
    pub problem: String,
}

/// Reads a file of cases.
pub(super) fn parse(file: &Path, text: &str) -> Result<Vec<Case>, CaseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut parser = Parser { common: Case::new(stem, 1), cases: Vec::new() };
    for (line, text) in (1..).zip(text.lines()) {
        let read = parser.line(line, text);
        read.map_err(|problem| CaseError { file: file.to_owned(), line, problem })?;
    }
    let Parser { common, mut cases } = parser;
    if cases.is_empty() {
        cases.push(common);
    } else {
        let rows = Arc::<[_]>::from(common.rows);
        for case in &mut cases {
            case.settings.inherit(&common.settings);
            case.common_rows = rows.clone();
        }
    }
    for case in &cases {
        case.check().map_err(|problem| CaseError {
            file: file.to_owned(),
            line: case.line,
            problem,
        })?;
    }
    Ok(cases)
}

impl Case {
    fn new(title: String, line: usize) -> Self {
        Case {
            title,
            line,
            settings: Settings::default(),
            common_rows: Arc::default(),
            rows: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn check(&self) -> Result<(), String> {
        self.settings.check()?;
        let ends = self.steps.iter().any(|step| step.when == When::End);
        if ends && self.settings.clock() == CaseClock::Live {
            return Err(
                "\"end\" needs \"clock replay\": at the end of a run its windows do not close; give an \
                        \"at\" when they close or settle"
                    .into(),
            );
        }
        let expects = |step: &Step| step.silent || !step.expected.is_empty();
        match self.steps.iter().any(expects) {
            true => Ok(()),
            false => Err("the case has no expectation; if no change is expected, end it with \
                          \"expect nothing\""
                .into()),
        }
    }
}

struct Parser {
    /// Everything before the first case line: it applies to all cases, or is the only case.
    common: Case,
    cases: Vec<Case>,
}

impl Parser {
    fn line(&mut self, line: usize, text: &str) -> Result<(), String> {
        if let Some(control) = text.chars().find(|c| c.is_control() && *c != '\t') {
            return Err(format!(
                "the line has the control character U+{:04X}; remove it, or write it in quotes, as \
                 \\u{:04x}",
                u32::from(control),
                u32::from(control),
            ));
        }
        let mut words = Words::of(text);
        let Some(first) = words.next_word()? else {
            return Ok(());
        };
        match first.text.as_ref() {
            "case" if !first.quoted => self.begin_case(line, &mut words),
            name if !first.quoted && Settings::has(name) => {
                let case = self.case_without_steps(name)?;
                case.settings.set(name, line, &mut words)
            }
            "at" | "end" if !first.quoted => self.step(line, &first, &mut words),
            "limit" | "delete" | "limits" if !first.quoted => {
                let what = edit(&first, &mut words)?;
                let case = self.current();
                let edits = case.steps.last_mut().map_or(&mut case.rows, |step| &mut step.edits);
                edits.push(Located { line, what });
                Ok(())
            }
            "expect" if !first.quoted => {
                let step = self.last_step("expect")?;
                expect(step, line, text, &mut words)
            }
            _ => {
                let what = traffic(&first, &mut words)?;
                let step = self.last_step("traffic")?;
                step.traffic.push(Located { line, what });
                Ok(())
            }
        }
    }

    fn current(&mut self) -> &mut Case {
        self.cases.last_mut().unwrap_or(&mut self.common)
    }

    /// Returns the current case, if it has no step yet.
    fn case_without_steps(&mut self, name: &str) -> Result<&mut Case, String> {
        let case = self.current();
        match case.steps.is_empty() {
            true => Ok(case),
            false => Err(format!("{name} is a setting: put it before the first \"at\"")),
        }
    }

    fn last_step(&mut self, what: &str) -> Result<&mut Step, String> {
        let step = self.current().steps.last_mut();
        step.ok_or_else(|| format!("{what} needs a time: put \"at 0s\", or another, before it"))
    }

    fn begin_case(&mut self, line: usize, words: &mut Words<'_>) -> Result<(), String> {
        if !self.common.steps.is_empty() {
            return Err("the steps before the first \"case\" belong to no case".into());
        }
        let title = words.rest_of_line("the title of the case")?;
        self.cases.push(Case::new(title.to_owned(), line));
        Ok(())
    }

    fn step(&mut self, line: usize, first: &Word<'_>, words: &mut Words<'_>) -> Result<(), String> {
        let when = match first.is("end") {
            true => When::End,
            false => When::At(Moment::parse(&words.require("the time")?.text)?),
        };
        words.end()?;
        let case = self.current();
        if case.steps.last().is_some_and(|step| step.when == When::End) {
            return Err("the input has ended: no step may follow \"end\"".into());
        }
        case.steps.push(Step {
            line,
            when,
            edits: Vec::new(),
            traffic: Vec::new(),
            expected: Vec::new(),
            silent: false,
        });
        Ok(())
    }
}

/// Reads an edit of limits whose first word was read.
fn edit(first: &Word<'_>, words: &mut Words<'_>) -> Result<Edit, String> {
    if first.is("limits") {
        let place = words.require("the file of limits")?.text.into_owned();
        words.end()?;
        return match place.as_str() {
            "-" => Err("a case may be read more than once, so it takes no limits from standard \
                        input: give a file"
                .into()),
            _ => Ok(Edit::Limits(place)),
        };
    }
    if first.is("delete") {
        let name = words.require("the limit's name")?.text.into_owned();
        let effective = words.next_word()?.map(|word| Moment::parse(&word.text)).transpose()?;
        words.end()?;
        return Ok(Edit::Delete { name, effective });
    }
    if words.begins_with('{') {
        let row = words.json().map_err(|error| format!("the row is not a JSON object: {error}"))?;
        words.end()?;
        return Ok(Edit::Json(row.to_owned()));
    }
    let name = words.require("the limit's name, or a row in braces,")?;
    let mut columns =
        vec![("limit_name".to_owned(), Cell::Text(Cow::Owned(name.text.into_owned())))];
    let value = words.require("the limit's value, or null,")?;
    columns.push(("limit_value".to_owned(), cell(&value.text)));
    let mut effective = None;
    while let Some(word) = words.next_word()? {
        let (column, content) = word.text.split_once('=').ok_or_else(|| {
            format!("{} is not a column; write columns like per=source", Quoted(&word.text))
        })?;
        match column {
            "effective_date" if effective.is_some() => {
                return Err("effective_date is given twice".into());
            }
            "effective_date" => effective = Some(Moment::parse(content)?),
            _ => columns.push((column.to_owned(), cell(content))),
        }
    }
    Ok(Edit::Row { columns, effective })
}

fn cell(text: &str) -> Cell<'static> {
    match text {
        "null" => Cell::Null,
        text => Cell::Text(Cow::Owned(text.to_owned())),
    }
}

/// Reads the rest of a line of traffic, whose source was read.
fn traffic(source: &Word<'_>, words: &mut Words<'_>) -> Result<Traffic, String> {
    if source.quoted || source.text.parse::<std::net::IpAddr>().is_err() {
        return Err(format!(
            "{} can't start a line; lines start with case, at, end, limit, delete, limits, expect, \
             traffic like 10.0.0.1 > 10.0.0.2 600 bytes, or a setting: {}",
            Quoted(&source.text),
            Settings::names().join(", ")
        ));
    }
    let pair = entity::pair(source, words)?;
    let bytes = amount(words, "bytes")?;
    let mut traffic = Traffic { pair, volume: Volume::new(bytes, 1), time: None, every: None };
    if words.peek()?.is_some_and(|word| word.text.bytes().all(|byte| byte.is_ascii_digit())) {
        traffic.volume.packets = amount(words, "packets")?;
        if traffic.volume.packets == 0 {
            return Err("a record has at least one packet".into());
        }
    }
    while let Some(word) = words.next_word()? {
        match word.text.split_once('=') {
            Some(("time", time)) if traffic.time.is_none() => {
                traffic.time = Some(Moment::parse(time)?);
            }
            _ if word.is("every") && traffic.every.is_none() => {
                let every = duration::positive_millis(&words.require("a duration")?.text)?;
                words.expect("for")?;
                let during = duration::positive_millis(&words.require("a duration")?.text)?;
                traffic.every = Some((every, during));
            }
            _ => {
                return Err(format!(
                    "expected time=…, or every … for …, or the end of the line, not {}",
                    Quoted(&word.text)
                ));
            }
        }
    }
    match (traffic.time, traffic.every) {
        (Some(_), Some(_)) => {
            Err("give time=… or every …: repeated records have no single time".into())
        }
        _ => Ok(traffic),
    }
}

/// Reads an amount and its unit.
fn amount(words: &mut Words<'_>, unit: &str) -> Result<i64, String> {
    let number = words.require(&format!("a number of {unit}"))?;
    let amount = number.text.parse::<u64>().ok().filter(|amount| *amount <= AMOUNT_MAX);
    let amount = amount.and_then(|amount| i64::try_from(amount).ok()).ok_or_else(|| {
        format!("{} is not a number of {unit} from 0 to {AMOUNT_MAX}", Quoted(&number.text))
    })?;
    words.expect(unit)?;
    Ok(amount)
}

/// Reads an expectation, whose first word was read.
fn expect(step: &mut Step, line: usize, text: &str, words: &mut Words<'_>) -> Result<(), String> {
    const BOTH: &str = "a step with \"expect nothing\" can't expect a change";
    if words.peek()?.is_some_and(|word| word.is("nothing")) {
        words.next_word()?;
        words.end()?;
        step.silent = true;
        return if step.expected.is_empty() { Ok(()) } else { Err(BOTH.into()) };
    }
    step.expected.push(Expected::parse(line, text, words)?);
    if step.silent { Err(BOTH.into()) } else { Ok(()) }
}

#[cfg(test)]
#[path = "case_tests.rs"]
mod tests;
