use std::io::Read;

use proptest::prelude::*;

use super::*;

/// Bytes that arrive a few at a time.
struct Slowly {
    bytes: Vec<u8>,
    at: usize,
    step: usize,
}

impl Read for Slowly {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let rest = &self.bytes[self.at..];
        let count = rest.len().min(self.step).min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

fn input(text: &[u8], step: usize) -> Input {
    Input::from_read(Box::new(Slowly { bytes: text.to_vec(), at: 0, step }))
}

/// Returns the rows with the numbers of their lines, as texts.
fn rows_of(text: &[u8], columns: usize, step: usize) -> Vec<(u64, String)> {
    let form = CsvForm { delimiter: Some(b','), ..CsvForm::default() };
    let mut rows = Rows::new(input(text, step), form, columns);
    let mut found = Vec::new();
    loop {
        let row = match rows.next_row().expect("memory can be read") {
            None => return found,
            Some(Row::Fields(fields)) => {
                let field = |at| String::from_utf8_lossy(fields.get(at).expect("a field"));
                (0..columns).map(field).collect::<Vec<_>>().join("|")
            }
            Some(Row::WrongCount(count)) => format!("{count} fields"),
            Some(Row::OpenQuote) => "open".to_owned(),
            Some(Row::TooLong) => "too long".to_owned(),
        };
        found.push((rows.line(), row));
    }
}

fn check(text: &str, columns: usize, expected: &[(u64, &str)]) {
    for step in [1, 2, 3, usize::MAX] {
        let found = rows_of(text.as_bytes(), columns, step);
        let found: Vec<_> = found.iter().map(|(line, row)| (*line, &**row)).collect();
        assert_eq!(found, expected, "{text:?} by {step}");
    }
}

#[test]
fn rows_are_cut_and_unquoted() {
    check("a,b\nc,d\n", 2, &[(1, "a|b"), (2, "c|d")]);
    check("a,b\r\nc,d", 2, &[(1, "a|b"), (2, "c|d")]);
    check("a,b\rc,d\r\r\ne,f\n", 2, &[(1, "a|b"), (2, "c|d"), (4, "e|f")]);
    check("\n  \na,b\n\r\n\t\nc,d\n\n", 2, &[(3, "a|b"), (6, "c|d")]);
    check(" a , b \n,\n", 2, &[(1, "a|b"), (2, "|")]);
    check("\"a,b\",\"c\"\"d\"\n\"x\ny\",z\ne,f", 2, &[(1, "a,b|c\"d"), (2, "x\ny|z"), (4, "e|f")]);
    // Some programs end each row with a delimiter.
    check("a,b,\nc,d,,\n", 2, &[(1, "a|b"), (2, "c|d")]);
    check("", 2, &[]);
}

#[test]
fn row_with_a_fault_takes_no_other_one_with_it() {
    check("a,b\nc\nd,e,f\ng,h\n", 2, &[(1, "a|b"), (2, "1 fields"), (3, "3 fields"), (4, "g|h")]);
    // A quote that is never closed takes in all that follows, in any column.
    check("a,b\n\"c,d\ne,f\ng,h\n", 2, &[(1, "a|b"), (2, "open"), (3, "e|f"), (4, "g|h")]);
    check("a,b\nc,\"d\ne,f\ng,h\n", 2, &[(1, "a|b"), (2, "open"), (3, "e|f"), (4, "g|h")]);
    check("a,\"b", 2, &[(1, "open")]);
    // One that another row seems to close.
    check("a,\"b\nc,d\n\"e\"x,f\ng,h\n", 2, &[(1, "open"), (2, "c|d"), (3, "ex|f"), (4, "g|h")]);
    check("\"a,b\nc,d\n\"e,f\ng,h\n", 2, &[(1, "open"), (2, "c|d"), (3, "open"), (4, "g|h")]);
    // Within its line a quote may be followed by more.
    check("\"a\"b,c\nd\"e,f\n", 2, &[(1, "ab|c"), (2, "d\"e|f")]);
}

#[test]
fn quotes_behind_blanks_are_quotes() {
    check("\"a\", \"b\"\n \"c\" ,d\n", 2, &[(1, "a|b"), (2, "c|d")]);
}

#[test]
fn row_longer_than_the_buffer_is_passed() {
    let long = "x".repeat(BUFFER_MAX + 5);
    let text = format!("a,b\n{long},c\nd,e\n");
    let found = rows_of(text.as_bytes(), 2, usize::MAX);
    let found: Vec<_> = found.iter().map(|(line, row)| (*line, &**row)).collect();
    assert_eq!(found, [(1, "a|b"), (2, "too long"), (3, "d|e")]);
    // Blank lines are no row.
    let blank = format!("a,b\n{}c,d", "\n".repeat(2 * BUFFER_MAX));
    let found = rows_of(blank.as_bytes(), 2, usize::MAX);
    assert_eq!(found.len(), 2);
    let many = ",".repeat(COLUMNS_MAX + 10);
    let found = rows_of(format!("a,b\n{many}\nd,e\n").as_bytes(), 2, usize::MAX);
    let found: Vec<_> = found.iter().map(|(line, row)| (*line, &**row)).collect();
    assert_eq!(found, [(1, "a|b"), (2, "too long"), (3, "d|e")]);
}

#[test]
fn header_is_split_by_each_form() {
    let split = |text: &str, delimiter: u8| {
        let form = CsvForm { delimiter: Some(delimiter), ..CsvForm::default() };
        form.split(text.as_bytes()).map(|fields| fields.join("|"))
    };
    assert_eq!(split("a, b,\"c,d\"", b',').as_deref(), Some("a|b|c,d"));
    assert_eq!(split("a;b", b';').as_deref(), Some("a|b"));
    assert_eq!(split("a\tb\r", b'\t').as_deref(), Some("a|b"));
    assert_eq!(split("", b','), None);
    assert_eq!(split(&",".repeat(5000), b','), None);
    let bytes = CsvForm { delimiter: Some(b','), quote: None }.split(b"\xff,a");
    assert_eq!(bytes, None);
}

proptest! {
    #[test]
    fn any_bytes_are_cut_alike_however_they_arrive(
        text in prop::collection::vec(prop::sample::select(&b"ab ,\"\n\r\xef\xbb\xbf"[..]), 0..80),
        columns in 1..4usize,
        step in 1..5usize,
    ) {
        let at_once = rows_of(&text, columns, usize::MAX);
        prop_assert_eq!(rows_of(&text, columns, step), at_once);
    }
}
