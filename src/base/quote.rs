//! Values from outside, in quotes, for messages and tables.

use std::fmt::{self, Display, Write};

/// The most characters of a value that a message shows; a value may be as long as its file.
const SHOWN_CHARS: usize = 60;

/// A text in quotes, escaped and shortened: it came from a file and may hold anything.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", Shown(self.0))
    }
}

/// A text escaped and shortened, without quotes: for the cells of a table.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars().take(SHOWN_CHARS) {
            match character {
                // `escape_debug` would escape it, which double quotes do not need.
                '\'' => f.write_char(character)?,
                _ => write!(f, "{}", character.escape_debug())?,
            }
        }
        if self.0.chars().nth(SHOWN_CHARS).is_some() {
            f.write_char('…')?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_escaped_and_shortened() {
        let long = "x".repeat(SHOWN_CHARS + 1);
        let shortened = format!("\"{}…\"", "x".repeat(SHOWN_CHARS));
        for (text, shown) in [
            ("", "\"\""),
            ("it's", "\"it's\""),
            ("a\"b", "\"a\\\"b\""),
            ("\u{1b}[31m\n", "\"\\u{1b}[31m\\n\""),
            ("grün", "\"grün\""),
            (&long, &shortened),
        ] {
            assert_eq!(Quoted(text).to_string(), shown);
        }
    }
}
