//! A line of a scenario as words.
//!
//! Blanks separate words. A text in double quotes is one word, or a part of one, with the escapes of JSON, since names
//! of limits may contain any character. A word that begins with `#` begins a comment.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::base::quote::Quoted;

/// An element of a file, and the number of its line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Located<T> {
    pub(super) line: usize,
    pub(super) what: T,
}

/// A word of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    /// The text of the word, without quotes and escapes.
    pub(super) text: Cow<'a, str>,
    /// Whether the word begins with a quote, so that it is no keyword.
    pub(super) quoted: bool,
    /// The line from here on, as it was written.
    pub(super) rest: &'a str,
}

impl Word<'_> {
    /// Whether the word is this keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

/// The unread words of a line.
#[derive(Clone, Debug)]
pub(super) struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    pub(super) fn of(line: &'a str) -> Self {
        Words { rest: line }
    }

    /// Returns the next word without consuming it.
    pub(super) fn peek(&self) -> Result<Option<Word<'a>>, String> {
        self.clone().next_word()
    }

    /// Whether the next word begins with this character.
    pub(super) fn begins_with(&self, character: char) -> bool {
        self.rest.trim_start().starts_with(character)
    }

    /// Reads the next word; `None` at the end of the line.
    pub(super) fn next_word(&mut self) -> Result<Option<Word<'a>>, String> {
        let from = self.rest.trim_start();
        if from.is_empty() || from.starts_with('#') {
            self.rest = "";
            return Ok(None);
        }
        let (mut text, mut rest) = (Cow::Borrowed(""), from);
        while let Some(character) =
            rest.chars().next().filter(|character| !character.is_whitespace())
        {
            let (part, length) = match character {
                '"' => quoted(rest)?,
                _ => {
                    let end = rest.find(|c: char| c == '"' || c.is_whitespace());
                    let end = end.unwrap_or(rest.len());
                    (Cow::Borrowed(&rest[..end]), end)
                }
            };
            text = if text.is_empty() { part } else { text + part };
            rest = &rest[length..];
        }
        self.rest = rest;
        Ok(Some(Word { text, quoted: from.starts_with('"'), rest: from.trim_end() }))
    }

    /// Reads the next word. Fails at the end of the line; `what` describes the word in the error.
    pub(super) fn require(&mut self, what: &str) -> Result<Word<'a>, String> {
        self.next_word()?.ok_or_else(|| format!("{what} is missing at the end of the line"))
    }

    /// Reads all words up to the end of the line, as they were written.
    pub(super) fn rest_of_line(&mut self, what: &str) -> Result<&'a str, String> {
        let from = self.require(what)?.rest;
        let mut end = self.rest;
        while self.next_word()?.is_some() {
            end = self.rest;
        }
        Ok(from[..from.len().saturating_sub(end.trim_end().len())].trim_end())
    }

    /// Reads a JSON value, as it was written.
    pub(super) fn json(&mut self) -> Result<&'a str, String> {
        let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<&RawValue>();
        let value = values.next().transpose().map_err(|error| error.to_string())?;
        self.rest = &self.rest[values.byte_offset()..];
        value.map(RawValue::get).ok_or_else(|| "a value is missing".into())
    }

    /// Reads the next word, which must be this keyword.
    pub(super) fn expect(&mut self, keyword: &str) -> Result<(), String> {
        let word = self.require(&format!("\"{keyword}\""))?;
        match word.is(keyword) {
            true => Ok(()),
            false => Err(format!("expected \"{keyword}\", not {}", Quoted(&word.text))),
        }
    }

    /// Fails if a word follows.
    pub(super) fn end(&mut self) -> Result<(), String> {
        match self.next_word()? {
            None => Ok(()),
            Some(word) => Err(format!("expected the end of the line, not {}", Quoted(&word.text))),
        }
    }
}

/// Reads a text in quotes at the beginning of `from`. Returns it and its length there, in bytes.
fn quoted(from: &str) -> Result<(Cow<'_, str>, usize), String> {
    let mut escaped = false;
    let end = from.bytes().enumerate().skip(1).find_map(|(at, byte)| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends.then_some(at + 1)
    });
    let end = end.ok_or_else(|| format!("{} has no closing quote", Quoted(from)))?;
    let text = serde_json::from_str::<String>(&from[..end]).map_err(|_| {
        format!("{} is not a valid text in quotes; escape it as in JSON", Quoted(&from[..end]))
    })?;
    Ok((text.into(), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<String>, String> {
        let mut words = Words::of(line);
        let mut all = Vec::new();
        while let Some(word) = words.next_word()? {
            all.push(word.text.into_owned());
        }
        Ok(all)
    }

    #[test]
    fn line_is_split_into_words() {
        for (line, expected) in [
            ("", vec![]),
            ("   # a comment", vec![]),
            ("a  b\tc # d", vec!["a", "b", "c"]),
            ("a#b c", vec!["a#b", "c"]),
            (r#""two words" x="y z"1"#, vec!["two words", "x=y z1"]),
            (r##""#no comment" "a\"b\\""##, vec!["#no comment", "a\"b\\"]),
            (r#""""#, vec![""]),
        ] {
            assert_eq!(words(line).expect(line), expected, "{line}");
        }
    }

    #[test]
    fn rest_of_line_ends_before_a_comment() {
        for (line, text) in
            [("a  b", "a  b"), (" a b # c", "a b"), ("a#b \"# c\"  # d", "a#b \"# c\""), ("a", "a")]
        {
            assert_eq!(Words::of(line).rest_of_line("a text"), Ok(text), "{line}");
        }
        let mut words = Words::of(r##" {"a": "} # b"} # c"##);
        assert_eq!(words.json(), Ok(r##"{"a": "} # b"}"##));
        assert_eq!(words.end(), Ok(()));
        assert!(Words::of("{").json().is_err());
    }

    #[test]
    fn broken_quotes_are_rejected() {
        for line in [r#"""#, r#"a "b"#, r#""a\"#, r#""\x""#] {
            assert!(words(line).is_err(), "{line}");
        }
    }

    #[test]
    fn quoted_words_are_no_keywords() {
        let word = |line| Words::of(line).require("a word").expect("there is one");
        assert!(word("total").is("total"));
        assert!(!word("\"total\"").is("total"));
    }
}
