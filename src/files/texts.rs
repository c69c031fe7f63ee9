//! Cuts texts into messages. A message is a line, a JSON object over several lines, or an element of an array.
//! Neither a line nor an element may be longer than the buffer.
//!
//! A line starts an array if it begins with `[`, followed by an object or the end of the line: nfdump and
//! `tshark -T json` write such files. Each element becomes an array of one element, so that it is decoded like the
//! whole array.

use super::csv::{CsvForm, Rows};
use super::json_cut::{Scanner, Step};
use crate::capture::{BUFFER_MAX, Fault, Input};

/// The byte order mark, which Windows editors write at the start of a file.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A message, or the error in its place.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// The bytes of the message, without the end of its line.
    Text(Vec<u8>),
    /// Part of an array that is not JSON, or an array that does not end.
    Broken(Vec<u8>),
    /// The message was longer than [`BUFFER_MAX`].
    TooLong,
}

/// The part of a text that the buffered bytes belong to.
#[derive(Debug)]
enum Part {
    /// The start of a line; only blanks so far.
    LineStart,
    /// A line.
    Line,
    /// The rest of a line that is too long.
    RestOfLine,
    /// One or more JSON objects, which end together with a line.
    Objects(Scanner),
    /// A line that begins with `[`, which is at this position.
    Bracket(usize),
    /// Between two elements of an array.
    Gap,
    /// An element of an array.
    Element(Scanner),
    /// An element of an array that is too long.
    RestOfElement(Scanner),
    /// A number or a word in an array.
    Word,
    /// The rest of a line in an array, after an error.
    Lost,
    /// The start of a line in an array, after an error.
    LostLine,
}

/// The messages of one text.
pub struct Texts {
    input: Input,
    part: Part,
    /// Buffered bytes that were scanned.
    searched: usize,
    /// Ends of lines before the buffered bytes.
    passed_lines: u64,
    /// Lines that begin before this offset are messages by themselves: the JSON value that spans them is broken.
    plain_until: u64,
    /// The number of the line at which the last message begins.
    line: u64,
}

/// The decision about the buffered bytes.
enum Found {
    /// A message.
    Message(Line),
    /// Scan again, at other bytes or as another part.
    Again,
    /// More bytes are needed.
    More,
}

impl Texts {
    pub(crate) fn new(input: Input) -> Self {
        Texts {
            input,
            part: Part::LineStart,
            searched: 0,
            passed_lines: 0,
            plain_until: 0,
            line: 0,
        }
    }

    /// Returns the bytes of the text that are read and in no message yet.
    pub fn buffered(&self) -> &[u8] {
        self.input.bytes()
    }

    /// Reads until the first line is there that is not blank, and returns it without its end and the byte order mark;
    /// `None` if it begins as JSON, or is longer than the buffer, or there is none. No byte is in a message yet.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn first_line(&mut self) -> Result<Option<&[u8]>, Fault> {
        let (start, end) = loop {
            let bytes = self.input.bytes();
            let length = bytes.len();
            let mark = if bytes.starts_with(MARK) { MARK.len() } else { 0 };
            let start = bytes[mark..].iter().position(|byte| !byte.is_ascii_whitespace());
            if let Some(start) = start.map(|start| mark + start) {
                if matches!(bytes[start], b'{' | b'[') {
                    return Ok(None);
                }
                // A table may have empty fields at the start of a line.
                let before =
                    bytes[mark..start].iter().rposition(|byte| matches!(byte, b'\n' | b'\r'));
                let start_of_line = before.map_or(mark, |before| mark + before + 1);
                let end = bytes[start..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
                if let Some(end) = end {
                    break (start_of_line, start + end);
                }
                if length >= BUFFER_MAX {
                    return Ok(None);
                }
                if !self.input.fill(length + 1)? {
                    break (start_of_line, length);
                }
            } else if length >= BUFFER_MAX || !self.input.fill(length + 1)? {
                return Ok(None);
            }
        };
        Ok(Some(&self.input.bytes()[start..end]))
    }

    /// Reads the text as rows of CSV, the header included.
    pub fn into_rows(self, form: CsvForm, columns: usize) -> Rows {
        Rows::new(self.input, form, columns)
    }

    /// Returns the number of the line at which the last message begins.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Returns the number of bytes read so far from the file, before decompression, for a progress bar.
    pub fn raw_offset(&self) -> u64 {
        self.input.raw_bytes()
    }

    /// Returns the offset of the first byte that is in no message yet.
    pub fn offset(&self) -> u64 {
        self.input.consumed()
    }

    /// Returns the number of the line at that offset.
    pub fn current_line(&self) -> u64 {
        self.passed_lines + 1
    }

    /// Returns the next message; `None` at the end. Calls `before_read` before it waits for more bytes.
    ///
    /// # Errors
    /// The file can't be read further.
    pub fn next(&mut self, before_read: &mut impl FnMut()) -> Result<Option<Line>, Fault> {
        loop {
            match self.find() {
                Found::Message(line) => return Ok(Some(line)),
                Found::Again => {}
                Found::More => {
                    before_read();
                    if !self.input.fill(self.searched + 1)? {
                        match self.end() {
                            Found::Message(line) => return Ok(Some(line)),
                            Found::Again => {}
                            Found::More => return Ok(None),
                        }
                    }
                }
            }
        }
    }

    fn find(&mut self) -> Found {
        match self.part {
            Part::LineStart => self.line_start(),
            Part::Line => self.whole_line(),
            Part::RestOfLine => self.rest_of_line(),
            Part::Objects(_) => self.objects(),
            Part::Bracket(at) => self.bracket(at),
            Part::Gap => self.gap(),
            Part::Element(_) => self.element(),
            Part::RestOfElement(_) => self.rest_of_element(),
            Part::Word => self.word(),
            Part::Lost => self.lost(),
            Part::LostLine => self.lost_line(),
        }
    }

    /// Consumes bytes, and counts their lines.
    fn pass(&mut self, count: usize) {
        let bytes = &self.input.bytes()[..count];
        self.passed_lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.input.consume(count);
        self.searched = 0;
    }

    /// Returns a message of `length` bytes, and skips `more` bytes after them.
    fn message(&mut self, length: usize, more: usize, next: Part) -> Found {
        let text = self.input.bytes()[..length].to_vec();
        self.emit(Line::Text(text), length + more, next)
    }

    /// Returns a message, and consumes its bytes.
    fn emit(&mut self, line: Line, passed: usize, next: Part) -> Found {
        self.line = self.current_line();
        self.pass(passed);
        self.part = next;
        Found::Message(line)
    }

    /// Returns the position of the first wanted byte that was not scanned yet.
    fn position(&self, wanted: impl Fn(u8) -> bool) -> Option<usize> {
        let bytes = &self.input.bytes()[self.searched..];
        bytes.iter().position(|byte| wanted(*byte)).map(|at| self.searched + at)
    }

    /// Requests more bytes; calls `full` if the buffer is full.
    fn more(&mut self, full: impl FnOnce(&mut Self) -> Found) -> Found {
        self.searched = self.input.bytes().len();
        if self.searched >= BUFFER_MAX { full(self) } else { Found::More }
    }

    fn line_start(&mut self) -> Found {
        let bytes = self.input.bytes();
        if self.input.consumed() == 0 && MARK.starts_with(&bytes[..bytes.len().min(MARK.len())]) {
            if bytes.len() < MARK.len() {
                return Found::More;
            }
            self.pass(MARK.len());
        }
        let Some(at) = self.position(|byte| !matches!(byte, b' ' | b'\t' | b'\r')) else {
            return self.more(|texts| {
                texts.pass(texts.searched);
                Found::More
            });
        };
        self.searched = at;
        let plain = self.input.consumed() < self.plain_until;
        self.part = match self.input.bytes()[at] {
            b'\n' => {
                self.pass(at + 1);
                Part::LineStart
            }
            b'{' if !plain => Part::Objects(Scanner::new()),
            b'[' if !plain => Part::Bracket(at),
            _ => Part::Line,
        };
        Found::Again
    }

    fn whole_line(&mut self) -> Found {
        match self.position(|byte| byte == b'\n') {
            Some(end) => {
                let of_broken = self.input.consumed() < self.plain_until;
                if of_broken && continues_json(&self.input.bytes()[..end]) {
                    self.pass(end + 1);
                    self.part = Part::LineStart;
                    return Found::Again;
                }
                self.message(end, 1, Part::LineStart)
            }
            None => self.more(|texts| {
                texts.line = texts.current_line();
                texts.pass(texts.searched);
                texts.part = Part::RestOfLine;
                Found::Again
            }),
        }
    }

    fn rest_of_line(&mut self) -> Found {
        match self.position(|byte| byte == b'\n') {
            Some(end) => {
                self.pass(end + 1);
                self.part = Part::LineStart;
                Found::Message(Line::TooLong)
            }
            None => {
                self.pass(self.input.bytes().len());
                Found::More
            }
        }
    }

    fn objects(&mut self) -> Found {
        let Part::Objects(scanner) = &mut self.part else { return Found::Again };
        let bytes = self.input.bytes();
        for (at, byte) in bytes.iter().enumerate().skip(self.searched) {
            if *byte == b'\n' && scanner.is_outside() {
                return self.message(at, 1, Part::LineStart);
            }
            if scanner.step(*byte) == Step::Broken {
                return self.line_by_line(at);
            }
        }
        self.more(|texts| texts.line_by_line(BUFFER_MAX - 1))
    }

    /// Makes all lines before position `broken` messages by themselves: the JSON value is broken there, and no line
    /// must make another one unreadable.
    fn line_by_line(&mut self, broken: usize) -> Found {
        let bytes = self.input.bytes();
        self.part = Part::Line;
        match bytes[..broken].iter().rposition(|byte| *byte == b'\n') {
            Some(end) => {
                self.plain_until = self.input.consumed() + end as u64 + 1;
                self.searched = 0;
            }
            None => self.searched = broken,
        }
        Found::Again
    }

    /// Decides whether a line that begins with `[` starts an array that is read element by element.
    fn bracket(&mut self, at: usize) -> Found {
        self.searched = self.searched.max(at + 1);
        match self.position(|byte| !matches!(byte, b' ' | b'\t' | b'\r')) {
            Some(next) if matches!(self.input.bytes()[next], b'{' | b'\n') => {
                self.pass(at + 1);
                self.part = Part::Gap;
                Found::Again
            }
            Some(_) => {
                self.part = Part::Line;
                Found::Again
            }
            None => self.more(|texts| {
                texts.part = Part::Line;
                Found::Again
            }),
        }
    }

    fn gap(&mut self) -> Found {
        let Some(at) = self.position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b','))
        else {
            self.pass(self.input.bytes().len());
            return Found::More;
        };
        self.pass(at);
        self.part = match self.input.bytes()[0] {
            b']' => {
                self.pass(1);
                Part::LineStart
            }
            b'{' | b'[' | b'"' => Part::Element(Scanner::new()),
            _ => Part::Word,
        };
        Found::Again
    }

    fn element(&mut self) -> Found {
        let Part::Element(scanner) = &mut self.part else { return Found::Again };
        let bytes = self.input.bytes();
        for (at, byte) in bytes.iter().enumerate().skip(self.searched) {
            match scanner.step(*byte) {
                Step::Inside => {}
                Step::Closed => return self.wrap_element(at + 1),
                Step::Broken => {
                    // The line in which it breaks may be the start of the next element.
                    let line = bytes[..at].iter().rposition(|byte| *byte == b'\n');
                    let length = line.unwrap_or(at);
                    let broken = Line::Broken(bytes[..length].to_vec());
                    return self.emit(broken, length, Part::Lost);
                }
            }
        }
        self.more(|texts| {
            texts.line = texts.current_line();
            texts.pass(texts.searched);
            let Part::Element(scanner) = std::mem::replace(&mut texts.part, Part::Lost) else {
                return Found::Again;
            };
            texts.part = Part::RestOfElement(scanner);
            Found::Again
        })
    }

    fn rest_of_element(&mut self) -> Found {
        let Part::RestOfElement(scanner) = &mut self.part else { return Found::Again };
        let found = self.input.bytes().iter().enumerate().find_map(|(at, byte)| {
            let step = scanner.step(*byte);
            (step != Step::Inside).then_some((at, step))
        });
        match found {
            Some((at, step)) => {
                self.pass(at + usize::from(step == Step::Closed));
                self.part = if step == Step::Closed { Part::Gap } else { Part::Lost };
                Found::Message(Line::TooLong)
            }
            None => {
                self.pass(self.input.bytes().len());
                Found::More
            }
        }
    }

    fn word(&mut self) -> Found {
        match self.position(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b']')) {
            Some(end) => self.wrap_element(end),
            None => self.more(|texts| texts.emit(Line::TooLong, texts.searched, Part::Lost)),
        }
    }

    /// Returns an element of an array, as an array of its own.
    fn wrap_element(&mut self, length: usize) -> Found {
        let text = [b"[", &self.input.bytes()[..length], b"]"].concat();
        self.emit(Line::Text(text), length, Part::Gap)
    }

    /// Skips the rest of a line.
    fn lost(&mut self) -> Found {
        let Some(end) = self.position(|byte| byte == b'\n') else {
            self.pass(self.input.bytes().len());
            return Found::More;
        };
        self.pass(end + 1);
        self.part = Part::LostLine;
        Found::Again
    }

    /// Decides whether an element begins with this line, or the array ends. Closing brackets of arrays within elements
    /// are indented.
    fn lost_line(&mut self) -> Found {
        let Some(at) = self.position(|byte| !matches!(byte, b' ' | b'\t' | b'\r')) else {
            return self.more(|texts| {
                texts.part = Part::Lost;
                Found::Again
            });
        };
        let next = self.input.bytes()[at];
        self.part = if next == b'{' || next == b']' && at == 0 { Part::Gap } else { Part::Lost };
        self.searched = 0;
        Found::Again
    }

    /// Decides about the buffered bytes at the end of the text.
    fn end(&mut self) -> Found {
        let length = self.input.bytes().len();
        match std::mem::replace(&mut self.part, Part::LineStart) {
            Part::RestOfLine | Part::RestOfElement(_) => {
                self.pass(length);
                Found::Message(Line::TooLong)
            }
            // The closing bracket of the array is missing.
            Part::Gap => {
                self.pass(length);
                self.line = self.current_line();
                Found::Message(Line::Broken(Vec::new()))
            }
            Part::Lost | Part::LostLine => {
                self.pass(length);
                Found::More
            }
            Part::Element(_) | Part::Word => {
                let broken = Line::Broken(self.input.bytes().to_vec());
                self.emit(broken, length, Part::LineStart)
            }
            Part::Objects(scanner) if !scanner.is_outside() => {
                match self.input.bytes().contains(&b'\n') {
                    true => {
                        let found = self.line_by_line(length);
                        self.plain_until = self.input.consumed() + length as u64;
                        found
                    }
                    false => self.message(length, 0, Part::LineStart),
                }
            }
            Part::Line if length == 0 => Found::More,
            Part::Line | Part::Objects(_) | Part::Bracket(_) => {
                let of_broken = self.input.consumed() < self.plain_until;
                if of_broken && continues_json(self.input.bytes()) {
                    self.pass(length);
                    return Found::More;
                }
                self.message(length, 0, Part::LineStart)
            }
            Part::LineStart if self.input.bytes().trim_ascii().is_empty() => {
                self.pass(length);
                Found::More
            }
            Part::LineStart => self.message(length, 0, Part::LineStart),
        }
    }
}

/// Whether a line only continues a JSON value that began on an earlier line.
fn continues_json(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    match line.first() {
        Some(b'}' | b']' | b',') => true,
        Some(b'"') => {
            let end = line[1..].iter().position(|byte| *byte == b'"');
            end.is_some_and(|end| line[end + 2..].trim_ascii_start().starts_with(b":"))
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "texts_tests.rs"]
mod tests;
