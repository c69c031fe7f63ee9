//! Reads a text piece by piece, so that a file of limits is never in memory as a whole.

use std::io::Read;

use super::file_error::{BYTES_MAX, FileError, ReadError};

/// Bytes of a piece; few in tests, so that pieces end anywhere.
const PIECE: usize = if cfg!(test) { 7 } else { 64 << 10 };

/// Bytes of a piece of which only the length counts.
const UNUSED_PIECE: usize = 64 << 10;

/// A text that is read piece by piece, up to the first bytes that are not UTF-8. A fault ends the text early, and
/// [`Incoming::finish`] returns the fault.
pub(super) struct Incoming<R> {
    from: R,
    /// Bytes that were read; those from `start` to `checked` are UTF-8 and not consumed.
    buffer: Vec<u8>,
    start: usize,
    checked: usize,
    /// The number of bytes that were read.
    bytes: u64,
    last_byte: Option<u8>,
    /// The newlines before the bytes that are checked next, and the bytes of their line before them.
    lines: usize,
    column: usize,
    fault: Option<ReadError>,
}

impl<R: Read> Incoming<R> {
    pub(super) fn new(from: R) -> Self {
        Incoming {
            from,
            buffer: Vec::new(),
            start: 0,
            checked: 0,
            bytes: 0,
            last_byte: None,
            lines: 0,
            column: 0,
            fault: None,
        }
    }

    /// Returns the bytes that were read and not consumed. They end between two characters.
    pub(super) fn ready(&self) -> &[u8] {
        &self.buffer[self.start..self.checked]
    }

    /// Drops the first of the bytes that are ready.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// Inserts bytes before those that are ready.
    pub(super) fn prepend(&mut self, bytes: &[u8]) {
        self.buffer.splice(..self.start, bytes.iter().copied());
        self.checked = self.checked - self.start + bytes.len();
        self.start = 0;
    }

    /// Reads on. Returns whether more bytes are ready than before. Each call doubles the bytes that are ready, so that
    /// a caller that scans all of them each time does linear work.
    pub(super) fn read_more(&mut self) -> bool {
        let before = self.ready().len();
        while self.fault.is_none() && self.ready().len() == before {
            let is_end = self.read_piece(before.max(PIECE));
            self.check(is_end);
            if is_end {
                break;
            }
        }
        self.ready().len() > before
    }

    /// Returns the last byte that was read.
    pub(super) fn last_byte(&self) -> Option<u8> {
        self.last_byte
    }

    /// Reads the rest, since the whole file must be readable. Returns the first of these errors: one of the whole file,
    /// one of its encoding, the one of `read`.
    pub(super) fn finish<T>(mut self, read: Result<T, FileError>) -> Result<T, ReadError> {
        self.start = self.checked;
        while self.read_more() {
            self.start = self.checked;
        }
        if matches!(self.fault, Some(ReadError::NotLimits(_))) {
            self.buffer.clear();
            (self.start, self.checked) = (0, 0);
            while !self.read_piece(UNUSED_PIECE) {
                self.buffer.clear();
            }
        }
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(read?),
        }
    }

    /// Reads up to `bytes` bytes, and drops those that were consumed. Returns whether the text has ended.
    fn read_piece(&mut self, bytes: usize) -> bool {
        self.buffer.drain(..self.start);
        self.checked -= self.start;
        self.start = 0;
        let before = self.buffer.len();
        let at_most = (bytes as u64).min(BYTES_MAX + 1 - self.bytes);
        match (&mut self.from).take(at_most).read_to_end(&mut self.buffer) {
            Ok(read) => self.bytes += read as u64,
            Err(error) => self.fault = Some(error.into()),
        }
        if self.bytes > BYTES_MAX {
            self.fault = Some(ReadError::TooLarge);
        }
        self.last_byte = self.buffer.last().copied().or(self.last_byte);
        self.buffer.len() == before
            || matches!(self.fault, Some(ReadError::Io(_) | ReadError::TooLarge))
    }

    /// Checks the bytes that were read last.
    fn check(&mut self, is_end: bool) {
        let (valid, is_broken) = match str::from_utf8(&self.buffer[self.checked..]) {
            Ok(text) => (text.len(), false),
            Err(error) => (error.valid_up_to(), is_end || error.error_len().is_some()),
        };
        let text = &self.buffer[self.checked..self.checked + valid];
        match text.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => {
                self.lines += text.iter().filter(|byte| **byte == b'\n').count();
                self.column = valid - newline - 1;
            }
            None => self.column += valid,
        }
        self.checked += valid;
        if is_broken && self.fault.is_none() {
            let (line, column) = (self.lines + 1, self.column + 1);
            self.fault = Some(FileError::NotUtf8 { line, column }.into());
        }
    }
}
