//! Edits rows in the text of a file of limits, and leaves all other rows byte for byte as they are.

use super::file_error::FileError;
use super::json::{Cut, Form};
use super::rows::RawRow;

/// The text of a file of limits, cut into rows for editing.
pub struct FileEditor<'a> {
    text: &'a str,
    cut: Cut<'a>,
    rows: Vec<RawRow<'a>>,
}

impl<'a> FileEditor<'a> {
    /// Cuts a text into its rows.
    pub fn of(text: &'a str) -> Result<Self, FileError> {
        let cut = Cut::of(text)?;
        let rows = cut.raw_rows();
        Ok(FileEditor { text, cut, rows })
    }

    /// Returns the rows of the text.
    pub fn rows(&self) -> &[RawRow<'a>] {
        &self.rows
    }

    /// Returns the text with a new row in the place of the first of `replaced`, or at the end if `replaced` is
    /// empty, and without the others of `replaced`.
    pub fn replace(&self, replaced: &[usize], row: &str) -> String {
        let Some((first, others)) = replaced.split_first() else {
            return self.append(row);
        };
        self.join(|index| match index {
            _ if index == *first => Some(row),
            _ if others.contains(&index) => None,
            _ => Some(self.cut.values[index].1),
        })
    }

    /// Returns the text without these rows.
    pub fn without(&self, removed: &[usize]) -> String {
        self.join(|index| (!removed.contains(&index)).then_some(self.cut.values[index].1))
    }

    /// Returns the start and the end of a row in the text, in bytes.
    fn span(&self, index: usize) -> (usize, usize) {
        let value = self.cut.values[index].1;
        let start = value.as_ptr() as usize - self.text.as_ptr() as usize;
        (start, start + value.len())
    }

    /// Returns the text between a row and the end of the row before it, or the start of the file.
    fn before(&self, index: usize) -> &'a str {
        let from = index.checked_sub(1).map_or(0, |index| self.span(index).1);
        &self.text[from..self.span(index).0]
    }

    /// Returns the text behind the last row.
    fn tail(&self) -> &'a str {
        let from = self.cut.values.len().checked_sub(1).map_or(0, |last| self.span(last).1);
        &self.text[from..]
    }

    /// Returns the text with each row replaced by the result of `row`, and the text between rows as it was. `None`
    /// removes a row and the text before it.
    fn join<'b>(&'b self, row: impl Fn(usize) -> Option<&'b str>) -> String {
        let mut joined = String::with_capacity(self.text.len());
        let mut first = true;
        for index in 0..self.cut.values.len() {
            if let Some(row) = row(index) {
                // The text before the first row stays, even if the first row is removed.
                joined += self.before(if first { 0 } else { index });
                joined += row;
                first = false;
            }
        }
        if first && !self.cut.values.is_empty() {
            joined += self.before(0);
        }
        joined + self.tail()
    }

    fn append(&self, row: &str) -> String {
        let all = || self.join(|index| Some(self.cut.values[index].1));
        match (self.cut.form, self.cut.values.len()) {
            (Form::Array, 0) => {
                let (head, tail) = self.text.split_once('[').expect("an array has a bracket");
                format!("{head}[\n  {row}\n{}", tail.trim_start())
            }
            (Form::Single, _) => {
                format!("[\n{},\n{row}\n]\n", self.cut.values[0].1)
            }
            (_, 0) => {
                let text = self.text.trim_end_matches([' ', '\t', '\r', '\n']);
                format!("{text}{row}\n")
            }
            (form, count) => {
                let tail = self.tail();
                let head = all();
                let head = head.strip_suffix(tail).expect("it ends with its tail");
                let gap = match (form, count) {
                    (Form::Array, 1) => {
                        let blank = self.before(0).rsplit('[').next().unwrap_or_default();
                        format!(",{}", if blank.is_empty() { " " } else { blank })
                    }
                    (_, 1) => "\n".to_owned(),
                    _ => self.before(1).to_owned(),
                };
                let end = if form == Form::Lines && tail.is_empty() { "\n" } else { tail };
                format!("{head}{gap}{row}{end}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replace(text: &str, replaced: &[usize], row: &str) -> String {
        FileEditor::of(text).unwrap().replace(replaced, row)
    }

    fn without(text: &str, removed: &[usize]) -> String {
        FileEditor::of(text).unwrap().without(removed)
    }

    const ARRAY: &str = "\u{feff}[\r\n  {\"a\":  1},\r\n  {\"b\":2} ,\r\n  7\r\n]\r\n";

    #[test]
    fn rows_that_are_not_edited_stay_as_they_are() {
        assert_eq!(replace(ARRAY, &[1], "{}"), ARRAY.replace("{\"b\":2}", "{}"));
        assert_eq!(replace(ARRAY, &[], "{}"), ARRAY.replace("  7\r\n", "  7,\r\n  {}\r\n"));
        assert_eq!(without(ARRAY, &[0]), ARRAY.replace("  {\"a\":  1},\r\n", ""));
        assert_eq!(without(ARRAY, &[2]), ARRAY.replace(" ,\r\n  7", ""));
        assert_eq!(replace(ARRAY, &[0, 2], "{}"), "\u{feff}[\r\n  {},\r\n  {\"b\":2}\r\n]\r\n");
        let lines = "\n{\"a\": 1}\n\n {\"b\":2}\r\n";
        assert_eq!(replace(lines, &[1], "{}"), "\n{\"a\": 1}\n\n {}\r\n");
        assert_eq!(without(lines, &[0]), "\n{\"b\":2}\r\n");
        assert_eq!(without(lines, &[1]), "\n{\"a\": 1}\r\n");
    }

    #[test]
    fn row_is_added_or_removed_in_the_format_of_the_file() {
        for (text, longer) in [
            ("", "{}\n"),
            (" \n", "{}\n"),
            ("[]", "[\n  {}\n]"),
            ("[\n]\n", "[\n  {}\n]\n"),
            ("[7]", "[7, {}]"),
            ("[\n 7\n]\n", "[\n 7,\n {}\n]\n"),
            ("{\"a\":1}", "{\"a\":1}\n{}\n"),
            ("{\"a\":1}\n", "{\"a\":1}\n{}\n"),
            ("{\"a\":1}\n7\n", "{\"a\":1}\n7\n{}\n"),
            ("{\n\"a\":1}\n", "[\n{\n\"a\":1},\n{}\n]\n"),
        ] {
            assert_eq!(replace(text, &[], "{}"), longer);
        }
        for (text, shorter) in [("[7]", "[]"), ("{\"a\":1}\n", "\n"), ("{\n\"a\":1}\n", "\n")] {
            assert_eq!(without(text, &[0]), shorter);
        }
    }

    proptest! {
        #[test]
        fn only_the_chosen_rows_are_removed_or_replaced(
            rows in prop::collection::vec("[{]\"[a-z]{1,3}\": ?[0-9][}]", 0..6),
            gap in "[ \n]{0,3}",
            array in any::<bool>(),
            chosen in prop::collection::vec(0usize..6, 0..4),
        ) {
            let text = match array {
                true => format!("[{gap}{}{gap}]{gap}", rows.join(&format!(",{gap}"))),
                false => rows.iter().map(|row| format!("{row}\n")).collect(),
            };
            let mut chosen: Vec<usize> =
                chosen.into_iter().filter(|index| *index < rows.len()).collect();
            chosen.sort_unstable();
            chosen.dedup();
            let texts = |text: &str| -> Vec<String> {
                let cut = Cut::of(text).unwrap();
                cut.values.iter().map(|(_, value)| (*value).to_owned()).collect()
            };
            let kept = |index: &usize| !chosen.contains(index);
            let left: Vec<String> =
                (0..rows.len()).filter(kept).map(|index| rows[index].clone()).collect();
            prop_assert_eq!(texts(&without(&text, &chosen)), left.clone());
            let mut with = left;
            let new = r#"{"new":0}"#.to_owned();
            let place = chosen.first().copied().unwrap_or(with.len());
            with.insert(place, new.clone());
            prop_assert_eq!(texts(&replace(&text, &chosen, &new)), with);
        }
    }
}
