use std::io::{Cursor, Read};

use proptest::prelude::*;

use super::*;

fn lines_of(source: impl Read + Send + 'static) -> Vec<(u64, Line)> {
    let mut texts = Texts::new(Input::from_read(Box::new(source)));
    let mut lines = Vec::new();
    while let Some(line) = texts.next(&mut || {}).expect("memory can be read") {
        lines.push((texts.line, line));
    }
    assert_eq!(texts.next(&mut || {}).expect("the text has ended"), None);
    lines
}

/// A source that returns a few bytes at a time.
struct SmallReads(Cursor<Vec<u8>>, usize);

impl Read for SmallReads {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(self.1);
        self.0.read(&mut buffer[..length])
    }
}

/// Returns the messages, and checks that they do not depend on how the bytes are split.
fn lines(bytes: Vec<u8>) -> Vec<(u64, Line)> {
    let whole = lines_of(Cursor::new(bytes.clone()));
    if bytes.len() < 10_000 {
        for size in [1, 3, 7] {
            assert_eq!(lines_of(SmallReads(Cursor::new(bytes.clone()), size)), whole);
        }
    }
    whole
}

fn text(text: &str) -> Line {
    Line::Text(text.into())
}

fn broken(text: &str) -> Line {
    Line::Broken(text.into())
}

fn texts(input: &str) -> Vec<(u64, Line)> {
    lines(input.as_bytes().to_vec())
}

#[test]
fn lines_are_numbered_and_empty_lines_are_skipped() {
    let found = lines(b"a\n\n  \r\nb c\nlast".to_vec());
    assert_eq!(found, [(1, text("a")), (4, text("b c")), (5, text("last"))]);
    assert_eq!(lines(Vec::new()), []);
    assert_eq!(lines(b"\n".to_vec()), []);
    assert_eq!(texts("\u{feff}a\nb"), [(1, text("a")), (2, text("b"))]);
    assert_eq!(texts("\u{feff}[\n{}]"), [(2, text("[{}]"))]);
    assert_eq!(lines(b"\xef\xbb".to_vec()), [(1, Line::Text(b"\xef\xbb".to_vec()))]);
}

#[test]
fn line_that_is_too_long_is_skipped_and_reported() {
    for too_long in [BUFFER_MAX, 3 * BUFFER_MAX + 7] {
        for sign in [b'x', b'{', b'"', b'['] {
            let mut long = vec![b'x'; too_long];
            long[0] = sign;
            let bytes = [b"a\n", &long[..], b"\nb\n", &long[..]].concat();
            let found = lines(bytes);
            let expected = [(1, text("a")), (2, Line::TooLong), (3, text("b")), (4, Line::TooLong)];
            assert_eq!(found, expected, "{too_long}");
        }
    }
    let fits = vec![b'x'; BUFFER_MAX - 1];
    let found = lines([&fits[..], b"\n"].concat());
    assert_eq!(found, [(1, Line::Text(fits))]);
}

#[test]
fn line_with_json_is_one_message() {
    let input = "{\"a\":1}\n{\"a\":{\"b\":[{}]}} {\"c\":2}\n[]\n[1,2]\n\"{\"\n{\"a\":1} rest\n";
    let expected: Vec<_> = (1..).zip(input.lines().map(text)).collect();
    assert_eq!(texts(input), expected);
}

#[test]
fn object_over_several_lines_is_one_message() {
    let pretty = "{\n  \"a\": 1,\n  \"b\": {\n    \"c\": \"}\"\n  }\n}";
    let input = format!("{pretty}\n\n{pretty}\nline\n{pretty} {{}}");
    let expected = [
        (1, text(pretty)),
        (8, text(pretty)),
        (14, text("line")),
        (15, text(&format!("{pretty} {{}}"))),
    ];
    assert_eq!(texts(&input), expected);
}

#[test]
fn array_is_read_element_by_element() {
    for (open, between, close) in [
        ("[\n", ",\n", "\n]\n"),
        ("[", ",", "]"),
        ("[ ", " , ", " ]\n"),
        ("\n  [\r\n  ", "\r\n  ,\r\n  ", "\r\n]"),
    ] {
        let elements =
            ["{\"a\":1}", "{\n  \"b\" : [\n    1\n  ]\n}", "7", "\"x, ]\"", "[{}]", "null"];
        let input = format!("{open}{}{close}", elements.join(between));
        let found: Vec<Line> = texts(&input).into_iter().map(|(_, line)| line).collect();
        let expected: Vec<Line> =
            elements.iter().map(|element| text(&format!("[{element}]"))).collect();
        assert_eq!(found, expected, "{input}");
    }
    // Lines after an array, and another array.
    let input = "[\n{\"a\":1},\n{\"b\":2}\n]\nline\n[{\"c\":3}]\n[\n]\n";
    let expected = [
        (2, text("[{\"a\":1}]")),
        (3, text("[{\"b\":2}]")),
        (5, text("line")),
        (6, text("[{\"c\":3}]")),
    ];
    assert_eq!(texts(input), expected);
}

#[test]
fn array_longer_than_the_buffer_is_read_element_by_element() {
    // 64 MiB, on one line and on many.
    for between in [&b","[..], b",\n"] {
        let element = format!("{{\"a\":\"{}\"}}", "x".repeat(1000));
        let count = 64 * 1024;
        let unit = [element.as_bytes(), between].concat();
        let repeated = Repeated { unit: unit.repeat(64), at: 0, left: count / 64 };
        let [open, close] = [&b"["[..], b"{}]"].map(|part| Cursor::new(part.to_vec()));
        let input = Input::from_read(Box::new(open.chain(repeated).chain(close)));
        let mut found = Texts::new(input);
        let mut elements = 0;
        while let Some(line) = found.next(&mut || {}).expect("memory can be read") {
            let Line::Text(bytes) = line else { panic!("{line:?}") };
            assert!(bytes.len() < 2000);
            elements += 1;
        }
        assert_eq!(elements, count + 1);
    }
}

/// Some bytes, repeated.
struct Repeated {
    unit: Vec<u8>,
    at: usize,
    left: usize,
}

impl Read for Repeated {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let length = buffer.len().min(self.unit.len() - self.at);
        buffer[..length].copy_from_slice(&self.unit[self.at..self.at + length]);
        self.at += length;
        if self.at == self.unit.len() {
            (self.at, self.left) = (0, self.left - 1);
        }
        Ok(length)
    }
}

#[test]
fn broken_element_loses_no_other_element() {
    let input = "[\n{\"a\":1},\n{\"b\":\n{\"c\n{\"d\":4},\n{\"e\":}5,\n{\"f\":6}\n]\nline\n";
    let found = texts(input);
    assert_eq!(found[0], (2, text("[{\"a\":1}]")));
    assert_eq!(found[1], (3, broken("{\"b\":")));
    assert_eq!(found[2], (4, broken("{\"c")));
    assert_eq!(found[3], (5, text("[{\"d\":4}]")));
    assert_eq!(found.last(), Some(&(9, text("line"))));
    assert!(found.contains(&(7, text("[{\"f\":6}]"))), "{found:?}");
    // Elements as tshark and nfdump write them; one of them is damaged.
    let pretty = "  {\n    \"a\": {\n      \"b\": [\n        1\n      ]\n    }\n  }";
    let damaged = pretty.replace("\"a\": {", "\"a\": \"x\" {");
    let found = texts(&format!("[\n{pretty},\n{damaged},\n{pretty}\n]\n"));
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(matches!(&found[1], (9, Line::Broken(_))), "{found:?}");
    assert_eq!(found[2].1, text(&format!("[{}]", pretty.trim_start())));
    assert_eq!(found[2].0, 16);
}

#[test]
fn file_cut_within_an_array_has_one_error() {
    let pretty = "{\n  \"a\": {\n    \"b\": \"c\"\n  }\n}";
    let whole = format!("[\n{pretty},\n{pretty}\n]\n");
    for cut in 2..whole.len() - 2 {
        let found = texts(&whole[..cut]);
        let errors = found.iter().filter(|(_, line)| matches!(line, Line::Broken(_))).count();
        let elements = usize::from(cut >= 2 + pretty.len()) + usize::from(cut >= whole.len() - 3);
        assert_eq!((found.len() - errors, errors), (elements, 1), "{:?}", &whole[..cut]);
    }
}

#[test]
fn element_that_is_too_long_loses_no_other_element() {
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(2 * BUFFER_MAX));
    let found = texts(&format!("[\n{{}},\n{long},\n{{}}\n]\nline\n"));
    assert_eq!(
        found,
        [(2, text("[{}]")), (3, Line::TooLong), (4, text("[{}]")), (6, text("line"))]
    );
    let word = "7".repeat(2 * BUFFER_MAX);
    let found = texts(&format!("[\n{word},\n{{}}\n]\nline\n"));
    assert_eq!(found.first(), Some(&(2, Line::TooLong)));
    assert_eq!(found.last(), Some(&(5, text("line"))));
}

#[test]
fn line_that_was_cut_loses_no_other_line() {
    let good = "{\"ip_src\":\"10.0.0.1\"}";
    for cut in 1..good.len() {
        let input = format!("{good}\n{}\n{good}\n{good}\n", &good[..cut]);
        let found = texts(&input);
        let expected = [(1, text(good)), (2, text(&good[..cut])), (3, text(good)), (4, text(good))];
        // An object may follow a colon, so that the next line could belong to this one.
        assert_eq!(found, expected, "{input}");
    }
    // An object over several lines that was cut, among lines.
    let input =
        format!("{{\n  \"a\": 1,\n  \"b\": {{\n{good}\n1 0.1 10.0.0.1 -> 10.0.0.2 TCP 66\n");
    assert_eq!(
        texts(&input),
        [(1, text("{")), (4, text(good)), (5, text("1 0.1 10.0.0.1 -> 10.0.0.2 TCP 66"))]
    );
    let input = "{\n  \"a\": 1,\n  \"b\": \"c";
    assert_eq!(texts(input)[0], (1, text("{")));
}

proptest! {
    #[test]
    fn any_text_is_split_without_adding_bytes(input in "[\\[\\]{}\":,a1 \n]{0,80}") {
        let found = texts(&input);
        // Messages have no bytes that the text does not have, except the brackets around elements.
        let bytes: usize = found
            .iter()
            .map(|(_, line)| match line {
                Line::Text(text) | Line::Broken(text) => text.len(),
                Line::TooLong => 0,
            })
            .sum();
        prop_assert!(bytes <= input.len() + 2 * found.len());
    }
}
