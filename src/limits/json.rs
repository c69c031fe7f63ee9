//! Files of limits: a JSON array of objects, JSON lines with one object each, or a single object.
//!
//! Whether a file is one at all is decided as a whole, for a half-written file must not delete the
//! limits that are not written yet: an array that does not end, or a line that is no JSON, is an error
//! of the file. (A cut between two lines can't be seen.) What is JSON but no good row is refused by
//! itself.
//!
//! Rows are cut out of the text without looking inside, which needs no stack however deep they nest.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::reason::{Position, Reason};
use super::rows::{COLUMNS, Cell, Defaults, RawRow, Row};
use super::table::{Builder, Table};

/// What JSON takes between values.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// The most rows of limits, in a file or in a table.
pub const ROWS_MAX: usize = 1_000_000;

/// Why a file is no file of limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is not text.
    #[error("line {line}, column {column}: not UTF-8; save the file as UTF-8")]
    NotUtf8 {
        /// The line of the first byte that can't be read, from 1.
        line: usize,
        /// Its column in bytes, from 1.
        column: usize,
    },
    /// It is not JSON, or ends in the midst of it.
    #[error(
        "line {line}, column {column}: {problem}; \
         a file of limits is a JSON array of objects, or JSON objects one a line"
    )]
    NotJson {
        /// The line on which reading failed, from 1.
        line: usize,
        /// The column in bytes, from 1.
        column: usize,
        /// What was found or missed.
        problem: String,
    },
    /// It has more rows than there are ever limits: it is something else.
    #[error("it has {rows} rows, and more than {ROWS_MAX} can't be limits")]
    TooMany {
        /// How many.
        rows: usize,
    },
}

/// Reads a file of limits. An empty one has none.
pub fn read(bytes: &[u8], defaults: Defaults) -> Result<Table, FileError> {
    Ok(table(text(bytes)?, Builder::new(defaults, &[]))?.0)
}

/// Whether a file that can be read is whole, as far as its text tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing can follow: it is an array, or one object without an end of line behind it.
    Certain,
    /// Another line may follow.
    Open,
}

/// Reads a file of limits, and tells whether it may be the beginning of a longer one. Rows that are among
/// `known` are shared with them.
pub(super) fn read_with_ending(
    bytes: &[u8],
    defaults: Defaults,
    known: &[Arc<Row>],
) -> Result<(Table, Ending), FileError> {
    table(text(bytes)?, Builder::new(defaults, known))
}

fn table(text: &str, mut builder: Builder<'_>) -> Result<(Table, Ending), FileError> {
    let mut rows = 0;
    let form = cut(text, |line, value| {
        rows += 1;
        match rows {
            ..=ROWS_MAX => builder.push(&raw_row(rows, line, value)),
            _ => builder.clear(),
        }
    })?;
    if rows > ROWS_MAX {
        return Err(FileError::TooMany { rows });
    }
    let ending = match form {
        Form::Array | Form::Single => Ending::Certain,
        // A writer of JSON lines ends the first line before it writes anything else.
        Form::Lines if rows == 1 && !text.ends_with('\n') => Ending::Certain,
        Form::Empty | Form::Lines => Ending::Open,
    };
    Ok((builder.finish(), ending))
}

/// A file as text.
pub fn text(bytes: &[u8]) -> Result<&str, FileError> {
    str::from_utf8(bytes).map_err(|error| {
        let (line, column) = place(&bytes[..error.valid_up_to()]);
        FileError::NotUtf8 { line, column }
    })
}

/// Cuts a text into its rows.
pub fn raw_rows(text: &str) -> Result<Vec<RawRow<'_>>, FileError> {
    Cut::of(text)?.bounded_rows()
}

/// How the rows of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// There are none, and nothing else.
    Empty,
    /// As an array.
    Array,
    /// One a line.
    Lines,
    /// As one object over several lines.
    Single,
}

/// A text that is cut into its rows.
pub(super) struct Cut<'a> {
    pub(super) form: Form,
    /// For each row the line it begins on, from 1, and its text.
    pub(super) values: Vec<(usize, &'a str)>,
}

impl<'a> Cut<'a> {
    pub(super) fn of(text: &'a str) -> Result<Self, FileError> {
        let mut values = Vec::new();
        let form = cut(text, |line, value| values.push((line, value)))?;
        Ok(Cut { form, values })
    }

    fn bounded_rows(&self) -> Result<Vec<RawRow<'a>>, FileError> {
        match self.values.len() {
            0..=ROWS_MAX => Ok(self.raw_rows()),
            rows => Err(FileError::TooMany { rows }),
        }
    }

    pub(super) fn raw_rows(&self) -> Vec<RawRow<'a>> {
        let rows = self.values.iter().enumerate();
        rows.map(|(index, (line, text))| raw_row(index + 1, *line, text)).collect()
    }
}

/// Hands over each row of a text, with the line it begins on, from 1. An error may come after some rows.
fn cut<'a>(text: &'a str, each: impl FnMut(usize, &'a str)) -> Result<Form, FileError> {
    // Windows editors put a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let content = text.trim_start_matches(BLANKS);
    match content.bytes().next() {
        None => Ok(Form::Empty),
        Some(b'[') => array(text, each),
        Some(b'{') => objects(text, each),
        Some(_) => {
            let (line, column) = place(&text.as_bytes()[..text.len() - content.len()]);
            let problem = "expected `[` or `{`".to_owned();
            Err(FileError::NotJson { line, column, problem })
        }
    }
}

fn array<'a>(text: &'a str, mut each: impl FnMut(usize, &'a str)) -> Result<Form, FileError> {
    let (mut line, mut counted) = (1, 0);
    let elements = Elements(|value: &'a str| {
        let start = value.as_ptr() as usize - text.as_ptr() as usize;
        line += newlines(&text.as_bytes()[counted..start]);
        counted = start;
        each(line, value);
    });
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = reader.deserialize_seq(elements).and_then(|()| reader.end());
    read.map_err(|error| not_json(&error, 1))?;
    Ok(Form::Array)
}

/// The elements of an array, handed over one by one.
struct Elements<F>(F);

impl<'de, F: FnMut(&'de str)> Visitor<'de> for Elements<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&RawValue>()? {
            (self.0)(element.get());
        }
        Ok(())
    }
}

/// Objects one a line if the first line with something on it is a whole one, else a single object
/// over several lines.
fn objects<'a>(text: &'a str, mut each: impl FnMut(usize, &'a str)) -> Result<Form, FileError> {
    let lines = text.split('\n').map(|line| line.trim_end_matches(BLANKS)).enumerate();
    let mut lines = lines.filter(|(_, line)| !line.is_empty()).peekable();
    let single = lines.peek().is_none_or(|(_, line)| value(line, 1).is_err());
    if single {
        let first = lines.peek().map_or(0, |(before, _)| *before);
        each(first + 1, value(text, 1)?);
        return Ok(Form::Single);
    }
    for (before, line) in lines {
        each(before + 1, value(line, before + 1)?);
    }
    Ok(Form::Lines)
}

/// The one JSON value of a text that begins on `line`.
fn value(text: &str, line: usize) -> Result<&str, FileError> {
    let value = serde_json::from_str::<&RawValue>(text).map_err(|error| not_json(&error, line))?;
    Ok(value.get())
}

fn raw_row(row: usize, line: usize, text: &str) -> RawRow<'_> {
    let cells = match kind(text) {
        "an object" => cells(text),
        kind => Err(Reason::NotAnObject { kind, text: text.to_owned() }),
    };
    RawRow { position: Position::new(row, Some(line)), cells }
}

/// The keys and values of an object, repeated keys included.
fn cells(object: &str) -> Result<Vec<(Cow<'_, str>, Cell<'_>)>, Reason> {
    let mut reader = serde_json::Deserializer::from_str(object);
    let members = reader.deserialize_map(Members).map_err(|_| broken_text("a key", object))?;
    members
        .into_iter()
        .map(|(Key(key), value)| {
            let cell = cell(&key, value.get())?;
            Ok((key, cell))
        })
        .collect()
}

fn cell<'a>(key: &str, text: &'a str) -> Result<Cell<'a>, Reason> {
    Ok(match kind(text) {
        "null" => Cell::Null,
        "a number" => Cell::Number(text.into()),
        "a text" => {
            // It was found to be a JSON text, in which all but escapes stands for itself.
            let plain = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
            match plain.filter(|plain| !plain.contains('\\')) {
                Some(plain) => Cell::Text(plain.into()),
                None => {
                    let content: String =
                        serde_json::from_str(text).map_err(|_| broken_text(key, text))?;
                    Cell::Text(content.into())
                }
            }
        }
        kind => Cell::Other { kind, text: text.into() },
    })
}

/// What a JSON value is, by the sign it begins with.
fn kind(value: &str) -> &'static str {
    match value.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a text",
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        _ => "a number",
    }
}

/// The only fault left in a text that was found to be JSON: half of a surrogate pair.
fn broken_text(column: &str, text: &str) -> Reason {
    Reason::WrongType {
        column: column.to_owned(),
        kind: "a text with half a character",
        text: text.to_owned(),
        wanted: "whole \\u escapes",
    }
}

/// An object as the list of its members: a map would drop repeated keys in silence.
struct Members;

/// A key, which stays where it is unless it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Key<'de>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(COLUMNS.len());
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

fn not_json(error: &serde_json::Error, first_line: usize) -> FileError {
    let message = error.to_string();
    // The library ends its messages with the place, which is counted from the text it was given.
    let problem = message.rsplit_once(" at line ").map_or(message.as_str(), |(problem, _)| problem);
    FileError::NotJson {
        line: first_line + error.line().saturating_sub(1),
        column: error.column().max(1),
        problem: problem.to_owned(),
    }
}

/// Line and column of what follows, from 1.
fn place(before: &[u8]) -> (usize, usize) {
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
    (newlines(before) + 1, before.len() - line_start + 1)
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}
