//! A file as a part of a recorded input: a capture, a table or a text. Only its first bytes tell, and these are read by
//! the thread that reads everything: a pipe may be silent.

use std::fmt;
use std::sync::Arc;

use anyhow::anyhow;

use super::capture::CapturePart;
use super::events::End;
use super::gather::Gather;
use super::intake::{Intake, Notices, PartName, RecordRules};
use super::part::{Part, Progress, RecordPart};
use super::table::{Header, ParquetTable, Table, TableError, TableRows};
use super::text::TextMessages;
use crate::base::error::{Exit, Failure};
use crate::base::quote::Quoted;
use crate::base::terminal::Messages;
use crate::files::{Contents, InputFile, Texts};

/// Bytes that tell a text from other files.
const BEGINNING: usize = 4;

/// A file.
pub(super) struct FilePart {
    file: InputFile,
    state: State,
    /// Whether the file is closed once the time of its first record is known, and opened again when it is due: there may
    /// be more files than a process may have open, and each takes memory.
    is_parked: bool,
    rules: RecordRules,
    notices: Notices,
    progress: Progress,
}

enum State {
    Unread,
    Parked,
    Known(Box<dyn Part>),
    Unreadable,
}

impl FilePart {
    pub(super) fn new(
        file: InputFile,
        is_parked: bool,
        rules: &RecordRules,
        notices: &Notices,
        progress: Progress,
    ) -> Self {
        let (rules, notices) = (rules.clone(), notices.clone());
        let is_parked = is_parked && file.size_hint().is_some();
        FilePart { file, state: State::Unread, is_parked, rules, notices, progress }
    }

    /// Looks at a file, if it is none that may be silent: a column that the user names has to be there.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        match self.file.size_hint() {
            Some(_) => self.look().map(drop),
            None => Ok(()),
        }
    }

    /// Begins to read without a word.
    fn look(&mut self) -> Result<State, Failure> {
        let nobody = Messages::to_nobody();
        self.recognize(&Notices::new(&nobody), &Progress::new(&nobody))
    }

    fn recognize(&mut self, notices: &Notices, progress: &Progress) -> Result<State, Failure> {
        let name = self.file.name().to_owned();
        let contents = self.file.contents()?;
        let opening = Opening { name, rules: &self.rules, notices, progress };
        match contents {
            Ok(Contents::Capture(mut reader)) => {
                reader.drop_strays(self.rules.max_ahead_ms);
                Ok(State::Known(Box::new(CapturePart::new(*reader, progress.of_part()))))
            }
            Ok(Contents::Parquet(path)) => match path.open() {
                Ok(file) => {
                    opening.table(ParquetTable::open(file, &self.rules.tables), PartName::Table)
                }
                Err(error) => Ok(opening.refuse(format_args!("can't be read: {error:#}"))),
            },
            Ok(Contents::Text(texts)) => opening.text(*texts, is_csv(self.file.name())),
            Err(fault) => Ok(opening.refuse(format_args!("can't be read: {fault}"))),
        }
    }
}

/// A file that is recognized.
struct Opening<'a> {
    name: String,
    rules: &'a RecordRules,
    notices: &'a Notices,
    progress: &'a Progress,
}

impl Opening<'_> {
    /// Begins to read a text: as a table, if its first line is a header.
    fn text(self, mut texts: Texts, is_csv: bool) -> Result<State, Failure> {
        let bytes = texts.buffered();
        if !begins_as_text(bytes) {
            let bytes: String =
                bytes.iter().take(BEGINNING).map(|byte| format!(" {byte:02x}")).collect();
            let what = format_args!("is neither a capture nor a text (it begins with{bytes})");
            return Ok(self.refuse(what));
        }
        let header = match texts.first_line() {
            Ok(line) => line.and_then(|line| Header::of(line, self.rules, is_csv)),
            Err(fault) => return Ok(self.refuse(format_args!("can't be read: {fault}"))),
        };
        if let Some(header) = header {
            let table = header.map(|header| header.open(texts, &self.rules.tables));
            return self.table(table, PartName::Text);
        }
        let intake = self.intake(PartName::Text);
        let messages = TextMessages::new(self.name, texts, self.progress.of_part());
        Ok(State::Known(Box::new(RecordPart::new(messages, intake))))
    }

    /// Begins to read a table, or reports why it can't be read. A column that the user names and that is not there is
    /// a failure.
    fn table<T: Table + 'static>(
        self,
        table: Result<T, TableError>,
        part_name: impl Fn(Arc<str>) -> PartName,
    ) -> Result<State, Failure> {
        let table = match table {
            Ok(table) => table,
            Err(TableError::Layout(error)) if error.is_by_name() => {
                return Err(Failure::new(Exit::Usage, anyhow!("{} {error}", Quoted(&self.name))));
            }
            Err(error) => return Ok(self.refuse(format_args!("{error}"))),
        };
        let intake = self.intake(part_name);
        let rows = TableRows::new(self.name, table, self.progress.of_part());
        Ok(State::Known(Box::new(RecordPart::new(rows, intake))))
    }

    fn intake(&self, part_name: impl Fn(Arc<str>) -> PartName) -> Intake {
        Intake::new(part_name((*self.name).into()), self.rules, self.notices)
    }

    fn refuse(&self, why: fmt::Arguments<'_>) -> State {
        self.progress.messages().info(format!("{} {why}", Quoted(&self.name)));
        State::Unreadable
    }
}

/// Whether the name of a file, without that of its compression, is one of CSV.
fn is_csv(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let name =
        [".gz", ".zst", ".zstd"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    name.ends_with(".csv") || name.ends_with(".tsv")
}

/// Whether the first bytes of a file may be those of a text: lines that can't be read are reported one by one.
fn begins_as_text(bytes: &[u8]) -> bool {
    let is_control = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\n' | b'\r');
    !bytes.iter().take(BEGINNING).any(is_control)
}

impl Part for FilePart {
    fn read(&mut self, gather: &mut Gather) -> Result<bool, Failure> {
        if self.is_parked && matches!(self.state, State::Unread) {
            let mut first = self.look()?;
            if let State::Known(part) = &mut first
                && part.read(gather)?
            {
                self.state = State::Parked;
                return Ok(true);
            }
        }
        if matches!(self.state, State::Unread | State::Parked) {
            let (notices, progress) = (self.notices.clone(), self.progress.of_part());
            self.state = self.recognize(&notices, &progress)?;
        }
        match &mut self.state {
            State::Known(part) => part.read(gather),
            State::Unread | State::Parked | State::Unreadable => Ok(false),
        }
    }

    fn summarize(&self, end: &mut End) {
        match &self.state {
            State::Known(part) => part.summarize(end),
            State::Unread | State::Parked => {}
            State::Unreadable => end.damaged = true,
        }
    }
}
