//! Compares texts that are read piece by piece with texts in memory.

use std::io::Read;

use proptest::prelude::*;

use super::file_error::FileError;
use super::file_error::ReadError;
use super::json;
use super::rows::Defaults;
use super::table::Table;

/// A reader that returns at most `at_once` bytes at a time.
struct Pieces<'a> {
    bytes: &'a [u8],
    at_once: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.at_once.min(self.bytes.len()).min(into.len());
        self.bytes.read(&mut into[..count])
    }
}

fn in_pieces(bytes: &[u8], at_once: usize) -> Result<Table, FileError> {
    match json::read_from(Pieces { bytes, at_once }, Defaults::default(), &[]) {
        Ok((table, _)) => Ok(table),
        Err(ReadError::NotLimits(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

fn in_one_piece(bytes: &[u8]) -> Result<Table, FileError> {
    Ok(Table::new(json::raw_rows(json::text(bytes)?)?, Defaults::default()))
}

/// Parts of files of limits, and parts that break them.
fn parts() -> impl Strategy<Value = Vec<&'static [u8]>> {
    const ROW: &[u8] = br#"{"limit_name":"a","limit_value":1,"effective_date":"2024-05-01"}"#;
    const OTHER: &[u8] = b"{\"limit_name\":\"\xc3\xbc\\u00fc\",\r\n\"limit_value\":\"2\",\n\"effective_date\":\"2024-05-01\"}";
    let part = prop::sample::select(vec![
        ROW,
        ROW,
        ROW,
        OTHER,
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b",",
        b"\n",
        b"\n",
        b"\r\n",
        b" \t",
        b"5",
        b"-1.5e3\n",
        b"null",
        b"nul",
        b"\"\\ud800\"",
        b"\"",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xc3",
        b"[[],{}]",
    ]);
    prop::collection::vec(part, 0..12)
}

proptest! {
    #[test]
    fn text_in_pieces_is_read_like_a_whole_one(
        parts in parts(), begin in 0..4_usize, at_once in 1..9_usize,
    ) {
        let mut bytes = [&b""[..], b"[", b"[\n", b"{\"limit_name\":\"b\"}\n"][begin].to_vec();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        if begin == 1 || begin == 2 {
            // Arrays that are likely to be whole.
            let closed = [&bytes[..], b"\n]\n"].concat();
            prop_assert_eq!(in_pieces(&closed, at_once), in_one_piece(&closed));
            let rows = parts.join(&b",\n"[..]);
            let listed = [b"[", &rows[..], b"]"].concat();
            prop_assert_eq!(in_pieces(&listed, at_once), in_one_piece(&listed));
        }
        prop_assert_eq!(in_pieces(&bytes, at_once), in_one_piece(&bytes));
    }
}

#[test]
fn read_error_or_size_takes_precedence_over_errors_of_the_text() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("gone"))
        }
    }
    for begun in ["", "[", "5", "{\n", "\u{feff}", "{}\n{}\n"] {
        let read = json::read_from(begun.as_bytes().chain(Broken), Defaults::default(), &[]);
        assert!(matches!(read, Err(ReadError::Io(_))), "{begun:?}: {read:?}");
    }
    let endless = std::io::repeat(b' ');
    let read = json::read_from((&b"[1, \xff"[..]).chain(endless), Defaults::default(), &[]);
    assert!(matches!(read, Err(ReadError::TooLarge)), "{read:?}");
}
