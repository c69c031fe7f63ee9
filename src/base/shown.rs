//! Makes texts from outside safe to show: escapes characters that could act on a terminal or hide text, and
//! hides passwords.
//!
//! Every text for standard error or for the log passes through here, at the place where it is written: names
//! of files, addresses and messages of other programs may hold anything.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::ser::Formatter;

/// The replacement of a hidden password.
const HIDDEN: &str = "***";

/// Whether a terminal could execute a character, or reorder text because of it: the control characters of
/// ASCII and of Unicode (C0, DEL, C1), line separators, and the marks that change the direction of writing.
fn acts_on_terminal(character: char) -> bool {
    matches!(
        character,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// Returns a text with every character that acts on a terminal escaped as in JSON (`\u001b`, `\n`).
pub fn escaped(text: &str) -> Cow<'_, str> {
    escaped_but(text, &[])
}

/// Returns a text with every character that acts on a terminal, except newlines and tabs, escaped as in JSON.
pub fn escaped_lines(text: &str) -> Cow<'_, str> {
    escaped_but(text, &['\n', '\t'])
}

fn escaped_but<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    // A fast path for most texts.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.into();
    }
    let escapes = |character: char| acts_on_terminal(character) && !kept.contains(&character);
    if !text.chars().any(escapes) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            character if !escapes(character) => out.push(character),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // All of them have four digits.
            character => out.push_str(&format!("\\u{:04x}", u32::from(character))),
        }
    }
    out.into()
}

/// Returns a text for people, in one line: escaped, and without passwords.
pub fn line(text: impl Display) -> String {
    escaped(&without_passwords(&text.to_string())).into_owned()
}

/// Hides the passwords in a text: in addresses (`kafka://user:***@host`), and of settings whose
/// names say that they are secret (`sasl.password=***`).
pub fn without_passwords(text: &str) -> Cow<'_, str> {
    if !text.contains(['@', '=']) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    // Valid addresses and settings do not contain these separators.
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_end_of_word).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        out.push_str(&without_password(word));
        let ends = after.find(|sign: char| !is_end_of_word(sign)).unwrap_or(after.len());
        out.push_str(&after[..ends]);
        rest = &after[ends..];
    }
    if out == text { text.into() } else { out.into() }
}

fn is_end_of_word(sign: char) -> bool {
    sign.is_whitespace() || matches!(sign, '"' | '\'' | '`' | '<' | '>' | '(' | ')')
}

/// Hides the password in a single value, whatever characters the password has.
pub fn without_password(value: &str) -> Cow<'_, str> {
    let value = hide_user_info(value);
    match hide_settings(&value) {
        Cow::Borrowed(_) => value,
        Cow::Owned(hidden) => hidden.into(),
    }
}

/// Hides the text between the colon behind a user and the last `@`.
fn hide_user_info(value: &str) -> Cow<'_, str> {
    let Some(at) = value.rfind('@') else {
        return value.into();
    };
    // The user follows the scheme, also one with mistyped slashes.
    let start = value[..at].find(":/").map_or(0, |colon| {
        let rest = &value[colon + 1..];
        colon + 1 + (rest.len() - rest.trim_start_matches('/').len())
    });
    match value.get(start..at).and_then(|user_info| user_info.find(':')) {
        Some(colon) if start + colon + 1 < at => {
            format!("{}{HIDDEN}{}", &value[..start + colon + 1], &value[at..]).into()
        }
        _ => value.into(),
    }
}

/// Hides the values of secret settings, `NAME=VALUE` or within the query of an address. The name of a file to
/// read the value from (`@FILE`) is not secret.
fn hide_settings(value: &str) -> Cow<'_, str> {
    const SECRET: [&str; 7] =
        ["password", "passwd", "passphrase", "secret", "token", "key.pem", "oauthbearer.config"];
    if !value.contains('=') {
        return value.into();
    }
    let hide = |setting: &str| -> Option<String> {
        let (name, secret) = setting.split_once('=')?;
        let lower = name.to_ascii_lowercase().replace('_', ".");
        let is_secret = SECRET.iter().any(|part| lower.contains(part));
        let is_file = secret.is_empty() || secret.starts_with('@');
        (is_secret && !is_file).then(|| format!("{name}={HIDDEN}"))
    };
    let parts = value.split_inclusive(['?', '&', ';']);
    let mut hidden = false;
    let out: String = parts
        .map(|part| {
            let setting = part.trim_end_matches(['?', '&', ';']);
            match hide(setting) {
                Some(without) => {
                    hidden = true;
                    without + &part[setting.len()..]
                }
                None => part.to_owned(),
            }
        })
        .collect();
    if hidden { out.into() } else { value.into() }
}

/// Compact JSON in which no character acts on a terminal. Programs read the same values from it.
struct Safe;

impl Formatter for Safe {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        writer.write_all(escaped(fragment).as_bytes())
    }
}

/// Writes JSON in which no character acts on a terminal.
pub fn write_json<W: ?Sized + Write, T: ?Sized + Serialize>(
    out: &mut W,
    value: &T,
) -> serde_json::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(out, Safe))
}

/// Returns JSON in which no character acts on a terminal, as a text.
pub fn json<T: ?Sized + Serialize>(value: &T) -> serde_json::Result<String> {
    let mut out = Vec::with_capacity(256);
    write_json(&mut out, value)?;
    Ok(String::from_utf8(out).expect("JSON is text"))
}

/// Returns standard output; if that is a terminal, characters that act on it are escaped.
pub fn stdout() -> Box<dyn Write + Send> {
    match io::stdout().is_terminal() {
        true => Box::new(Escaping::new(io::stdout())),
        false => Box::new(io::stdout()),
    }
}

/// Escapes texts on their way to a writer, except newlines and tabs. A write may end within a character.
pub struct Escaping<W> {
    to: W,
    /// The first bytes of a character whose rest is in the next write.
    partial: Vec<u8>,
}

impl<W: Write> Escaping<W> {
    /// An adapter in front of a writer.
    pub fn new(to: W) -> Self {
        Escaping { to, partial: Vec::new() }
    }
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.partial.extend_from_slice(bytes);
        let whole = match str::from_utf8(&self.partial) {
            Ok(_) => self.partial.len(),
            // The rest of a cut character may follow; bytes that are no character at all are replaced.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.partial.len(),
        };
        let text = String::from_utf8_lossy(&self.partial[..whole]);
        let written = self.to.write_all(escaped_lines(&text).as_bytes());
        self.partial.drain(..whole);
        written.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Makes lines of a log safe to show on their way to a writer. Each write must be a whole line.
pub struct LogLine<W>(pub W);

impl<W: Write> Write for LogLine<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let (text, end) = text.strip_suffix('\n').map_or((&*text, ""), |text| (text, "\n"));
        self.0.write_all((line(text) + end).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn controls_and_marks_of_direction_are_escaped() {
        for (text, shown) in [
            ("plain, grün → 文", "plain, grün → 文"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{1b}]0;title\u{7}\u{1b}[2J", "\\u001b]0;title\\u0007\\u001b[2J"),
            ("\u{9b}31m\u{85}\u{80}\u{9f}\u{7f}", "\\u009b31m\\u0085\\u0080\\u009f\\u007f"),
            ("\u{202e}gnp.exe\u{202c}", "\\u202egnp.exe\\u202c"),
            ("\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}", "\\u2066\\u2069\\u200e\\u200f\\u061c"),
            ("\u{2028}\u{2029}\0", "\\u2028\\u2029\\u0000"),
            ("\u{a0}\u{feff}", "\u{a0}\u{feff}"),
        ] {
            assert_eq!(escaped(text), shown);
            assert!(matches!(escaped(shown), Cow::Borrowed(_)), "{shown}");
        }
        assert_eq!(escaped_lines("a\n\tb\u{1b}\n"), "a\n\tb\\u001b\n");
        assert_eq!(line("a\nkafka://u:p@h"), "a\\nkafka://u:***@h");
    }

    #[test]
    fn passwords_are_hidden_wherever_they_stand() {
        for (text, shown) in [
            ("kafka://user:hunter2@host:9092/t", "kafka://user:***@host:9092/t"),
            ("kafka://u:hunter2@a,v:hunter2@b/t", "kafka://u:***@b/t"),
            ("postgres://me:hun:ter2@db/net?x=1", "postgres://me:***@db/net?x=1"),
            ("postgres://me:hun@ter2@db/net", "postgres://me:***@db/net"),
            ("postgres://me:hun/ter2@db/net", "postgres://me:***@db/net"),
            ("postgres://:hunter2@db", "postgres://:***@db"),
            (
                "postgres://db/net?user=me&password=hunter2&x=1",
                "postgres://db/net?user=me&password=***&x=1",
            ),
            ("kafka:/user:hunter2@host/t", "kafka:/user:***@host/t"),
            ("user:hunter2@host:9092", "user:***@host:9092"),
            ("sasl.password=hunter2", "sasl.password=***"),
            ("FLOODMARK_KAFKA_SASL_PASSWORD=hunter2", "FLOODMARK_KAFKA_SASL_PASSWORD=***"),
            ("PGPASSWORD=hunter2", "PGPASSWORD=***"),
            ("-Xssl.key.pem=hunter2", "-Xssl.key.pem=***"),
            (
                "cannot open \"http://u:hunter2@h/x\": and (https://v:hunter2@i) too",
                "cannot open \"http://u:***@h/x\": and (https://v:***@i) too",
            ),
            // Nothing of these is secret.
            ("postgres://me@db:5432/net", "postgres://me@db:5432/net"),
            ("kafka://host:9092/topic", "kafka://host:9092/topic"),
            ("give -X sasl.password=@FILE", "give -X sasl.password=@FILE"),
            ("a=1 b=2 me@example.org", "a=1 b=2 me@example.org"),
            ("[::1]:9092 passfile=/x", "[::1]:9092 passfile=/x"),
        ] {
            let found = without_passwords(text);
            assert_eq!(found, shown);
            assert!(!found.contains("hun") && !found.contains("ter2"), "{found}");
            assert_eq!(without_passwords(&found), shown, "a second time");
        }
        // As a whole value, also with signs that no address has.
        assert_eq!(without_password("kafka://u:hun ter\"2@h/t"), "kafka://u:***@h/t");
    }

    #[test]
    fn json_escapes_unsafe_characters_and_keeps_values() {
        let name = "a\u{9b}b\u{202e}c\u{7f}d\u{1b}e\"\\\n→";
        let text = json(&[name]).expect("a text");
        assert_eq!(text, r#"["a\u009bb\u202ec\u007fd\u001be\"\\\n→"]"#);
        let read: Vec<String> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read, [name]);
    }

    #[test]
    fn writer_escapes_characters_that_come_in_parts() {
        let text = "a\u{9b}b\u{202e}c\n→\u{1b}";
        for size in 1..8 {
            let mut out = Vec::new();
            let mut escaping = Escaping::new(&mut out);
            for part in text.as_bytes().chunks(size) {
                escaping.write_all(part).expect("a vector takes all");
            }
            assert_eq!(String::from_utf8_lossy(&out), "a\\u009bb\\u202ec\n→\\u001b", "{size}");
        }
        let mut out = Vec::new();
        Escaping::new(&mut out).write_all(b"a\xff\x9bb").expect("a vector takes all");
        assert_eq!(String::from_utf8_lossy(&out), "a\u{fffd}\u{fffd}b");
    }

    proptest! {
        #[test]
        fn any_text_is_shown_in_one_line_of_harmless_characters(text in "\\PC*|(\\PC|[@:/= \u{9b}\u{202e}\n])*") {
            let shown = line(&text);
            prop_assert!(!shown.chars().any(acts_on_terminal));
            let read: String = serde_json::from_str(&json(&text).unwrap()).unwrap();
            prop_assert_eq!(read, text);
        }
    }
}
