//! Files of limits: a JSON array of objects, JSON lines with one object each, or a single object.
//!
//! An array that does not end, or a line that is not JSON, is an error of the whole file: a half-written file
//! must not delete the limits that are not written yet. (A cut between two lines can't be detected.) A value that
//! is JSON but not a valid row is refused by itself.
//!
//! Rows are cut out of the text without parsing their content, so deep nesting needs no stack.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::file_error::{FileError, ROWS_MAX, ReadError};
use super::incoming::Incoming;
use super::reason::{Position, RowError};
use super::rows::{COLUMNS, Cell, Defaults, RawRow, Row};
use super::table::{Builder, Table};

/// The characters that JSON allows between values.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// The byte order mark, which some Windows editors write at the start of a file.
const MARK: &str = "\u{feff}";

/// Reads a text of limits. An empty text has no limits.
pub fn read(bytes: &[u8], defaults: Defaults) -> Result<Table, FileError> {
    match read_from(bytes, defaults, &[]) {
        Ok((table, _)) => Ok(table),
        Err(ReadError::NotLimits(error)) => Err(error),
        Err(ReadError::Io(_) | ReadError::TooLarge) => unreachable!("it is in memory"),
    }
}

/// Whether the text of a file shows that the file is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The file is complete: the text is an array, or one object without an end of line behind it.
    Certain,
    /// Another line may follow.
    Open,
}

/// Reads a file of limits row by row. Also returns whether the text may be the start of a longer file. Rows equal to
/// one of `known` are shared with it.
pub(super) fn read_from(
    from: impl Read,
    defaults: Defaults,
    known: &[Arc<Row>],
) -> Result<(Table, Ending), ReadError> {
    let mut incoming = Incoming::new(from);
    let mut builder = Builder::new(defaults, known);
    let mut rows = 0;
    let read = stream(&mut incoming, |line, value| {
        rows += 1;
        match rows {
            ..=ROWS_MAX => builder.push(&raw_row(rows, line, value)),
            _ => builder.clear(),
        }
    });
    let read = match read {
        Ok(_) if rows > ROWS_MAX => Err(FileError::TooMany { rows }),
        read => read,
    };
    let last_byte = incoming.last_byte();
    let form = incoming.finish(read)?;
    let ending = match form {
        Form::Array | Form::Single => Ending::Certain,
        // A writer of JSON lines ends the first line before it writes anything else.
        Form::Lines if rows == 1 && last_byte != Some(b'\n') => Ending::Certain,
        Form::Empty | Form::Lines => Ending::Open,
    };
    Ok((builder.finish(), ending))
}

/// Returns the bytes of a file as text.
pub fn text(bytes: &[u8]) -> Result<&str, FileError> {
    str::from_utf8(bytes).map_err(|error| {
        let (line, column) = line_and_column(&bytes[..error.valid_up_to()]);
        FileError::NotUtf8 { line, column }
    })
}

/// Cuts a text into its rows.
pub fn raw_rows(text: &str) -> Result<Vec<RawRow<'_>>, FileError> {
    Cut::of(text)?.bounded_rows()
}

/// The format in which a file writes its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// No rows, and nothing else.
    Empty,
    /// One array of rows.
    Array,
    /// One row a line.
    Lines,
    /// One row over several lines.
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

/// Passes each row of a text to `each`, with the line on which the row begins, from 1. An error may follow
/// some rows.
fn cut<'a>(text: &'a str, each: impl FnMut(usize, &'a str)) -> Result<Form, FileError> {
    let text = text.strip_prefix(MARK).unwrap_or(text);
    let content = text.trim_start_matches(BLANKS);
    match content.bytes().next() {
        None => Ok(Form::Empty),
        Some(b'[') => array(text, each),
        Some(b'{') => objects(text, each),
        Some(_) => Err(wrong_start(&text.as_bytes()[..text.len() - content.len()])),
    }
}

/// Returns the error of a text that is wrong_start an array nor objects, behind its leading blanks.
fn wrong_start(blanks: &[u8]) -> FileError {
    let (line, column) = line_and_column(blanks);
    FileError::NotJson { line, column, problem: "expected `[` or `{`".to_owned() }
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

/// Visits an array and passes on its elements one by one.
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

/// Reads objects one a line if the first line that is not blank is a whole object, else a single object over several
/// lines.
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

/// Passes each row of a text that is read piece by piece to `each`, as [`cut`] does. `from` keeps the error that
/// ends a text early, and the caller prefers that error to the one that is returned.
fn stream(
    from: &mut Incoming<impl Read>,
    each: impl FnMut(usize, &str),
) -> Result<Form, FileError> {
    from.read_more();
    if from.ready().starts_with(MARK.as_bytes()) {
        from.consume(MARK.len());
    }
    loop {
        let blanks = leading_blanks(from.ready());
        match from.ready().get(blanks).copied() {
            Some(b'[') => return stream_array(from, blanks, each),
            Some(b'{') => return stream_objects(from, blanks, each),
            Some(_) => return Err(wrong_start(&from.ready()[..blanks])),
            None if from.read_more() => {}
            None => return Ok(Form::Empty),
        }
    }
}

/// Returns the number of blanks at the start of a text.
fn leading_blanks(text: &[u8]) -> usize {
    let is_blank = |byte: &&u8| BLANKS.contains(&char::from(**byte));
    text.iter().take_while(is_blank).count()
}

/// The newest part of an array that was consumed.
#[derive(Clone, Copy)]
enum Part {
    Start,
    Element,
    Comma,
    End,
}

impl Part {
    /// The shortest text that ends with this part.
    fn shortest(self) -> &'static str {
        match self {
            Part::Start => "[",
            Part::Element => "[{}",
            Part::Comma => "[{},",
            Part::End => "[]",
        }
    }
}

fn stream_array(
    from: &mut Incoming<impl Read>,
    blanks: usize,
    mut each: impl FnMut(usize, &str),
) -> Result<Form, FileError> {
    let mut consumed = Consumed::default();
    consumed.consume(from, blanks + 1);
    let mut part = Part::Start;
    loop {
        consumed.consume(from, leading_blanks(from.ready()));
        let ready = from.ready();
        let step = match (part, ready.first()) {
            (Part::Start | Part::Element, Some(b']')) => Step::Consume(1, Part::End),
            (Part::Element, Some(b',')) => Step::Consume(1, Part::Comma),
            (Part::Start | Part::Comma, Some(_)) => match first_value(ready) {
                Ok(Some(value)) => {
                    each(consumed.lines + 1, value);
                    Step::Consume(value.len(), Part::Element)
                }
                Ok(None) => Step::Read,
                Err(_) => Step::Fail,
            },
            (Part::Element | Part::End, Some(_)) => Step::Fail,
            (_, None) => Step::Read,
        };
        match (step, part) {
            (Step::Consume(bytes, next), _) => {
                consumed.consume(from, bytes);
                part = next;
            }
            (Step::Read, _) if from.read_more() => {}
            (Step::Read, Part::End) => return Ok(Form::Array),
            (Step::Read | Step::Fail, _) => return Err(consumed.error(part, from)),
        }
    }
}

/// The next step through an array.
enum Step {
    /// Consume so many bytes, which are this part.
    Consume(usize, Part),
    /// Read on.
    Read,
    /// Fail: the array is broken.
    Fail,
}

/// Returns the JSON value at the start of a text; `None` if the end of the text may cut it.
fn first_value(text: &[u8]) -> serde_json::Result<Option<&str>> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
    match values.next() {
        // The parser reports a number that the end cuts as an invalid one.
        Some(Err(error))
            if !error.is_eof() && line_and_column(text) != (error.line(), error.column() + 1) =>
        {
            Err(error)
        }
        Some(Ok(value)) if value.get().len() < text.len() => Ok(Some(value.get())),
        _ => Ok(None),
    }
}

/// The bytes of an array that were consumed: their newlines, and the bytes behind the last one.
#[derive(Default)]
struct Consumed {
    lines: usize,
    column: usize,
}

impl Consumed {
    fn consume(&mut self, from: &mut Incoming<impl Read>, bytes: usize) {
        let text = &from.ready()[..bytes];
        match text.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => {
                self.lines += newlines(text);
                self.column = bytes - newline - 1;
            }
            None => self.column += bytes,
        }
        from.consume(bytes);
    }

    /// Returns the error of an array whose rest is broken, with its position in the whole text.
    fn error(&self, part: Part, from: &mut Incoming<impl Read>) -> FileError {
        let before = part.shortest();
        from.prepend(before.as_bytes());
        match array(checked(from.ready()), |_, _| ()) {
            Err(FileError::NotJson { line, column, problem }) => FileError::NotJson {
                line: self.lines + line,
                column: match line {
                    1 => (self.column + column).saturating_sub(before.len()).max(1),
                    _ => column,
                },
                problem,
            },
            other => unreachable!("the array is broken: {other:?}"),
        }
    }
}

fn stream_objects(
    from: &mut Incoming<impl Read>,
    blanks: usize,
    mut each: impl FnMut(usize, &str),
) -> Result<Form, FileError> {
    let blank_lines = from.ready()[..blanks].iter().rposition(|byte| *byte == b'\n');
    let blank_lines = blank_lines.map_or(0, |newline| newline + 1);
    let first = newlines(&from.ready()[..blank_lines]) + 1;
    from.consume(blank_lines);
    for number in first.. {
        let line = next_line(from);
        if line == 0 {
            break;
        }
        let text = trimmed(&from.ready()[..line]);
        if number == first && value(text, 1).is_err() {
            while from.read_more() {}
            each(number, value(checked(from.ready()), number)?);
            return Ok(Form::Single);
        }
        if !text.is_empty() {
            each(number, value(text, number)?);
        }
        from.consume(line);
    }
    Ok(Form::Lines)
}

/// Reads a line. Returns its length in bytes, with the newline.
fn next_line(from: &mut Incoming<impl Read>) -> usize {
    loop {
        match from.ready().iter().position(|byte| *byte == b'\n') {
            Some(newline) => return newline + 1,
            None if from.read_more() => {}
            None => return from.ready().len(),
        }
    }
}

/// Returns a line without trailing blanks.
fn trimmed(line: &[u8]) -> &str {
    checked(line).trim_end_matches(BLANKS)
}

/// Returns bytes of a text that [`Incoming`] has checked.
fn checked(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("lines of a checked text are UTF-8")
}

/// Returns the one JSON value of a text that begins on `line`.
fn value(text: &str, line: usize) -> Result<&str, FileError> {
    let value = serde_json::from_str::<&RawValue>(text).map_err(|error| not_json(&error, line))?;
    Ok(value.get())
}

fn raw_row(row: usize, line: usize, text: &str) -> RawRow<'_> {
    let cells = match kind(text) {
        "an object" => cells(text),
        kind => Err(RowError::NotAnObject { kind, text: text.to_owned() }),
    };
    RawRow { position: Position::new(row, Some(line)), cells }
}

/// Returns the keys and values of an object, repeated keys included.
fn cells(object: &str) -> Result<Vec<(Cow<'_, str>, Cell<'_>)>, RowError> {
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

fn cell<'a>(key: &str, text: &'a str) -> Result<Cell<'a>, RowError> {
    Ok(match kind(text) {
        "null" => Cell::Null,
        "a number" => Cell::Number(text.into()),
        "a text" => {
            // The parser accepted a JSON text, in which all characters but escapes stand for themselves.
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

/// Returns the kind of a JSON value, by its first character.
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

/// Returns the only error that a JSON text can still have: half of a surrogate pair.
fn broken_text(column: &str, text: &str) -> RowError {
    RowError::WrongType {
        column: column.to_owned(),
        kind: "a text with half a character",
        text: text.to_owned(),
        wanted: "whole \\u escapes",
    }
}

/// An object as the list of its members: a map would drop repeated keys in silence.
struct Members;

/// A key, borrowed from the text unless it has escapes.
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
    // The library ends its messages with a position, which is counted from the start of the text that it was given.
    let problem = message.rsplit_once(" at line ").map_or(message.as_str(), |(problem, _)| problem);
    FileError::NotJson {
        line: first_line + error.line().saturating_sub(1),
        column: error.column().max(1),
        problem: problem.to_owned(),
    }
}

/// Returns line and column of the text that follows, from 1.
fn line_and_column(before: &[u8]) -> (usize, usize) {
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
    (newlines(before) + 1, before.len() - line_start + 1)
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}
