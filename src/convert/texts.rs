//! Texts cut into lines, each a message. A line that is longer than the buffer is passed over.

use crate::capture::{BUFFER_MAX, Fault, Input};

/// A line, or what is in its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Its bytes, without its end.
    Text(Vec<u8>),
    /// It was longer than [`BUFFER_MAX`].
    TooLong,
}

/// The lines of one text.
pub(super) struct Texts {
    input: Input,
    /// Bytes at hand that have no end of a line in them.
    searched: usize,
    /// Whether the rest of a line that is too long is passed over.
    passing: bool,
    /// The number of the line that was handed over last.
    pub(super) line: u64,
}

impl Texts {
    pub(super) fn new(input: Input) -> Self {
        Texts { input, searched: 0, passing: false, line: 0 }
    }

    /// Bytes that precede what was not handed over yet.
    pub(super) fn offset(&self) -> u64 {
        self.input.passed()
    }

    /// The next line that is not empty; `None` at the end. `before_read` is called when it must wait for
    /// more.
    pub(super) fn next(&mut self, before_read: &mut impl FnMut()) -> Result<Option<Line>, Fault> {
        loop {
            let bytes = self.input.bytes();
            if let Some(at) = bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
                let end = self.searched + at;
                let line = bytes[..end].to_vec();
                self.input.pass(end + 1);
                self.searched = 0;
                if let Some(line) = self.whole(line) {
                    return Ok(Some(line));
                }
                continue;
            }
            self.searched = bytes.len();
            if self.searched >= BUFFER_MAX {
                self.input.pass(self.searched);
                self.searched = 0;
                self.passing = true;
            }
            before_read();
            if !self.input.fill(self.searched + 1)? {
                let rest = self.input.bytes().to_vec();
                self.input.pass(rest.len());
                self.searched = 0;
                let is_line = self.passing || !rest.is_empty();
                return Ok(if is_line { self.whole(rest) } else { None });
            }
        }
    }

    /// A line whose end was found. One that holds nothing is none.
    fn whole(&mut self, line: Vec<u8>) -> Option<Line> {
        self.line += 1;
        if std::mem::take(&mut self.passing) {
            return Some(Line::TooLong);
        }
        (!line.trim_ascii().is_empty()).then_some(Line::Text(line))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn lines(bytes: Vec<u8>) -> Vec<(u64, Line)> {
        let mut texts = Texts::new(Input::from_read(Box::new(Cursor::new(bytes))));
        let mut lines = Vec::new();
        while let Some(line) = texts.next(&mut || {}).expect("memory can be read") {
            lines.push((texts.line, line));
        }
        assert_eq!(texts.next(&mut || {}).expect("the end stays"), None);
        lines
    }

    fn text(text: &str) -> Line {
        Line::Text(text.into())
    }

    #[test]
    fn lines_have_numbers_and_empty_ones_are_none() {
        let found = lines(b"a\n\n  \r\nb c\nlast".to_vec());
        assert_eq!(found, [(1, text("a")), (4, text("b c")), (5, text("last"))]);
        assert_eq!(lines(Vec::new()), []);
        assert_eq!(lines(b"\n".to_vec()), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_said() {
        for too_long in [BUFFER_MAX, 3 * BUFFER_MAX + 7] {
            let long = vec![b'x'; too_long];
            let bytes = [b"a\n", &long[..], b"\nb\n", &long[..]].concat();
            let found = lines(bytes);
            let expected = [(1, text("a")), (2, Line::TooLong), (3, text("b")), (4, Line::TooLong)];
            assert_eq!(found, expected, "{too_long}");
        }
        let fits = vec![b'x'; BUFFER_MAX - 1];
        let found = lines([&fits[..], b"\n"].concat());
        assert_eq!(found, [(1, Line::Text(fits))]);
    }
}
