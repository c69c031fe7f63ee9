//! Rows of CSV: cut, unquoted, and counted. A row that breaks the form is one that can't be read, and nothing else is
//! lost: of a quote that is never closed only the line with it.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use crate::capture::{BUFFER_MAX, Fault, Input};

/// Most columns of a table.
const COLUMNS_MAX: usize = 4096;

/// The characters between fields that are recognized.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// The form of CSV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsvForm {
    /// The character between fields; `None`: the header tells.
    pub delimiter: Option<u8>,
    /// The character around fields; `None`: there is none.
    pub quote: Option<u8>,
}

impl Default for CsvForm {
    fn default() -> Self {
        CsvForm { delimiter: None, quote: Some(b'"') }
    }
}

impl CsvForm {
    /// Returns the forms that a header may have.
    pub fn candidates(self) -> impl Iterator<Item = Self> {
        let delimiters = match self.delimiter {
            Some(delimiter) => vec![delimiter],
            None => DELIMITERS.to_vec(),
        };
        delimiters.into_iter().map(move |delimiter| CsvForm { delimiter: Some(delimiter), ..self })
    }

    fn delimiter(self) -> u8 {
        self.delimiter.unwrap_or(DELIMITERS[0])
    }

    fn reader(self) -> Reader {
        let mut builder = ReaderBuilder::new();
        builder.delimiter(self.delimiter());
        match self.quote {
            Some(quote) => builder.quote(quote),
            None => builder.quoting(false),
        };
        builder.build()
    }

    /// Returns the fields of a line that is all of a row; `None` if it is none, or not UTF-8.
    pub fn split(self, line: &[u8]) -> Option<Vec<String>> {
        if line.trim_ascii().is_empty() {
            return None;
        }
        let mut row = RowBuffer::new(self);
        row.parse(line).ok()?;
        let fields = row.fields();
        let name = |at| Some(str::from_utf8(fields.get(at)?).ok()?.to_owned());
        (0..fields.ends.len()).map(name).collect()
    }

    /// Finds the end of the row at the start of some bytes. `is_all`: no others follow.
    fn row_end(self, bytes: &[u8], is_all: bool) -> RowEnd {
        let line = bytes.iter().position(|byte| is_line_end(*byte));
        let end_of_line = match line {
            Some(end) => RowEnd::At(end + 1),
            None if is_all => RowEnd::At(bytes.len()),
            None => RowEnd::More,
        };
        let Some(quote) = self.quote else { return end_of_line };
        if !bytes[..line.unwrap_or(bytes.len())].contains(&quote) {
            return end_of_line;
        }
        let mut at = 0;
        loop {
            if bytes.get(at) == Some(&quote) {
                let Some(end) = quoted_end(bytes, at, quote) else {
                    return if is_all { end_of_line } else { RowEnd::More };
                };
                match bytes.get(end) {
                    Some(byte) if *byte == self.delimiter() => at = end + 1,
                    Some(byte) if is_line_end(*byte) => return RowEnd::At(end + 1),
                    None if is_all => return RowEnd::At(end),
                    None => return RowEnd::More,
                    // No quote is closed here: what is quoted does not go beyond the line.
                    Some(_) => return end_of_line,
                }
                continue;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            let ends = |byte: &u8| *byte == self.delimiter() || is_line_end(*byte);
            match rest.iter().position(ends) {
                Some(end) if is_line_end(rest[end]) => return RowEnd::At(at + end + 1),
                Some(end) => at += end + 1,
                None if is_all => return RowEnd::At(bytes.len()),
                None => return RowEnd::More,
            }
        }
    }

    /// Whether a quote in a row is not closed.
    fn is_open(self, row: &[u8]) -> bool {
        let Some(quote) = self.quote.filter(|quote| row.contains(quote)) else { return false };
        let mut at = 0;
        loop {
            if row.get(at) == Some(&quote) {
                match quoted_end(row, at, quote) {
                    Some(end) => at = end,
                    None => return true,
                }
            }
            let rest = row.get(at..).unwrap_or_default();
            match rest.iter().position(|byte| *byte == self.delimiter()) {
                Some(end) => at += end + 1,
                None => return false,
            }
        }
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Returns the place behind the quote that closes the one at `start`. Two quotes stand for one.
fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == quote)? + 1;
        if bytes.get(at) != Some(&quote) {
            return Some(at);
        }
        at += 1;
    }
}

/// The end of a row.
enum RowEnd {
    /// Behind so many bytes, those of the end of its line included.
    At(usize),
    /// Further bytes tell.
    More,
}

/// The reason why a row has no fields.
enum Broken {
    /// A quote is not closed.
    OpenQuote,
    /// It has more than [`COLUMNS_MAX`] fields.
    TooManyFields,
}

/// The fields of one row.
struct RowBuffer {
    form: CsvForm,
    reader: Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
}

impl RowBuffer {
    fn new(form: CsvForm) -> Self {
        RowBuffer { form, reader: form.reader(), text: Vec::new(), ends: vec![0; 16], count: 0 }
    }

    /// Splits and unquotes the bytes of a row.
    fn parse(&mut self, row: &[u8]) -> Result<(), Broken> {
        let row = row.strip_suffix(b"\n").unwrap_or(row);
        let row = row.strip_suffix(b"\r").unwrap_or(row);
        let RowBuffer { form, reader, text, ends, count } = self;
        *count = 0;
        if form.is_open(row) {
            return Err(Broken::OpenQuote);
        }
        // No field is longer than it is with its quotes.
        if text.len() < row.len() {
            text.resize(row.len(), 0);
        }
        reader.reset();
        let (mut read, mut written) = (0, 0);
        loop {
            // The last call has no bytes, which is the end for the reader.
            let (result, more_read, more_written, more_ends) =
                reader.read_record(&row[read..], &mut text[written..], &mut ends[*count..]);
            (read, written, *count) =
                (read + more_read, written + more_written, *count + more_ends);
            match result {
                ReadRecordResult::Record | ReadRecordResult::End => return Ok(()),
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputEndsFull if ends.len() < COLUMNS_MAX => {
                    ends.resize(2 * ends.len(), 0);
                }
                ReadRecordResult::OutputEndsFull => return Err(Broken::TooManyFields),
                ReadRecordResult::OutputFull => text.resize(2 * text.len() + 1, 0),
            }
        }
    }

    fn fields(&self) -> Fields<'_> {
        Fields { text: &self.text, ends: &self.ends[..self.count], quote: self.form.quote }
    }
}

/// The fields of a row.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    text: &'a [u8],
    ends: &'a [usize],
    quote: Option<u8>,
}

impl<'a> Fields<'a> {
    /// Returns a field by its number, without the blanks around it, and without quotes within these.
    #[inline]
    pub fn get(&self, number: usize) -> Option<&'a [u8]> {
        let end = *self.ends.get(number)?;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        let field = self.text.get(start..end)?.trim_ascii();
        match (field, self.quote) {
            ([first, inner @ .., last], Some(quote)) if *first == quote && *last == quote => {
                Some(inner.trim_ascii())
            }
            _ => Some(field),
        }
    }

    /// Whether all fields from a number on are empty.
    fn is_empty_from(&self, number: usize) -> bool {
        (number..self.ends.len()).all(|at| self.get(at).is_some_and(<[u8]>::is_empty))
    }
}

/// A row, or the error in its place.
pub enum Row<'a> {
    /// The fields of a row, as many as there are columns.
    Fields(Fields<'a>),
    /// The row has another number of fields.
    WrongCount(usize),
    /// A quote in the row is not closed.
    OpenQuote,
    /// The row is longer than [`BUFFER_MAX`], or has more than 4,096 fields.
    TooLong,
}

/// The rows of one text.
pub struct Rows {
    input: Input,
    row: RowBuffer,
    columns: usize,
    is_at_end: bool,
    /// Ends of lines before the buffered bytes.
    passed_lines: u64,
    /// The last byte that was passed.
    last: u8,
    /// The number of the line at which the last row begins.
    line: u64,
}

impl Rows {
    /// Reads the rows of a text, the header included.
    pub(crate) fn new(input: Input, form: CsvForm, columns: usize) -> Self {
        let row = RowBuffer::new(form);
        let (is_at_end, passed_lines, last, line) = (false, 0, 0, 0);
        Rows { input, row, columns, is_at_end, passed_lines, last, line }
    }

    /// Returns the number of the line at which the last row begins.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Returns the number of the line behind the rows that were read.
    pub fn current_line(&self) -> u64 {
        self.passed_lines + 1
    }

    /// Returns the offset of the first byte that is in no row yet.
    pub fn offset(&self) -> u64 {
        self.input.consumed()
    }

    /// Returns the number of bytes read so far from the file, before decompression, for a progress bar.
    pub fn raw_offset(&self) -> u64 {
        self.input.raw_bytes()
    }

    /// Returns the next row; `None` at the end.
    ///
    /// # Errors
    /// The file can't be read further.
    pub fn next_row(&mut self) -> Result<Option<Row<'_>>, Fault> {
        if !self.pass_blank_lines()? {
            return Ok(None);
        }
        self.line = self.current_line();
        let Some(end) = self.find_end()? else {
            self.pass_line()?;
            return Ok(Some(Row::TooLong));
        };
        let parsed = self.row.parse(&self.input.bytes()[..end]);
        self.pass(end);
        let fields = self.row.fields();
        let count = fields.ends.len();
        Ok(Some(match parsed {
            Err(Broken::OpenQuote) => Row::OpenQuote,
            Err(Broken::TooManyFields) => Row::TooLong,
            // Some programs end each row with a delimiter.
            Ok(())
                if count == self.columns
                    || count > self.columns && fields.is_empty_from(self.columns) =>
            {
                Row::Fields(fields)
            }
            Ok(()) => Row::WrongCount(count),
        }))
    }

    /// Passes lines of blanks. `false`: nothing else follows.
    fn pass_blank_lines(&mut self) -> Result<bool, Fault> {
        loop {
            let bytes = self.input.bytes();
            let blank = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            // Blanks may be the first fields of a row.
            let lines = bytes[..blank].iter().rposition(|byte| is_line_end(*byte));
            let is_blank = blank == bytes.len();
            self.pass(lines.map_or(0, |end| end + 1));
            let left = self.input.bytes().len();
            if !is_blank || left >= BUFFER_MAX {
                return Ok(true);
            }
            if self.is_at_end || !self.fill(left + 1)? {
                return Ok(false);
            }
        }
    }

    fn fill(&mut self, need: usize) -> Result<bool, Fault> {
        self.is_at_end = !self.input.fill(need)?;
        Ok(!self.is_at_end)
    }

    /// Reads to the end of the row; `None` if it is too long.
    fn find_end(&mut self) -> Result<Option<usize>, Fault> {
        let mut searched = 0;
        loop {
            let bytes = self.input.bytes();
            let length = bytes.len();
            let is_all = self.is_at_end || length >= BUFFER_MAX;
            // A row is searched again only when twice as much of it is there.
            if is_all
                || length >= 2 * searched
                || bytes[searched..].iter().any(|byte| is_line_end(*byte))
            {
                match self.row.form.row_end(bytes, is_all) {
                    RowEnd::At(end) if end == length && !self.is_at_end && length >= BUFFER_MAX => {
                        return Ok(None);
                    }
                    RowEnd::At(end) => return Ok(Some(end)),
                    RowEnd::More => searched = length,
                }
            }
            self.fill(length + 1)?;
        }
    }

    /// Passes a line, which may be longer than the buffer.
    fn pass_line(&mut self) -> Result<(), Fault> {
        loop {
            let bytes = self.input.bytes();
            let end = bytes.iter().position(|byte| is_line_end(*byte));
            let length = bytes.len();
            self.pass(end.map_or(length, |end| end + 1));
            if end.is_some() || self.is_at_end || !self.fill(1)? {
                return Ok(());
            }
        }
    }

    /// Consumes bytes, and counts their lines.
    fn pass(&mut self, count: usize) {
        let bytes = &self.input.bytes()[..count];
        // A line ends with a line feed, or a carriage return, or both.
        for byte in bytes {
            let is_second = *byte == b'\n' && self.last == b'\r';
            self.passed_lines += u64::from(is_line_end(*byte) && !is_second);
            self.last = *byte;
        }
        self.input.consume(count);
    }
}

#[cfg(test)]
#[path = "csv_tests.rs"]
mod tests;
