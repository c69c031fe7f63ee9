//! Reads tables of limits from text to versions.

use std::net::IpAddr;

use floodmark_dataflows::types::{Bound, Metric, Per, Scope};
use proptest::prelude::*;

use super::catalog::{Catalog, LimitSet};
use super::file_error::FileError;
use super::json;
use super::rows::{Cell, Defaults, RawRow, Row, TEXT_MAX, mistyped_column, nearest_column};
use super::table::{Ruling, Table};
use crate::base::date;

const PAIRS: Defaults = Defaults { per: Per::Pair };

pub(super) fn table(text: &str) -> Table {
    json::read(text.as_bytes(), PAIRS).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A row with a name, value and date, and further members.
pub(super) fn row(further: &str) -> String {
    format!(r#"{{"limit_name":"a","limit_value":1,"effective_date":"2024-05-01"{further}}}"#)
}

fn only(text: &str) -> Row {
    let table = table(text);
    let rows: Vec<&Row> = table.rows().collect();
    assert_eq!(rows.len(), 1, "{text}: {table:?}");
    rows[0].clone()
}

/// Returns the ruling on each row: `holds`, `as N` or the message of its refusal.
fn rulings(table: &Table) -> Vec<String> {
    let ruling = |ruling: &Ruling| match ruling {
        Ruling::Holds(_) => "holds".to_owned(),
        Ruling::Duplicate { of, .. } => format!("as {}", of.row()),
        Ruling::Refused(refused) => refused.reason.to_string(),
    };
    table.verdicts.iter().map(|verdict| ruling(&verdict.ruling)).collect()
}

#[track_caller]
fn refused(text: &str, message: &str) {
    assert_eq!(rulings(&table(text)), [message], "{text}");
}

#[test]
fn row_of_three_columns_holds_with_defaults() {
    let row = only(&row(""));
    assert_eq!((row.name.as_str(), row.bound, row.scope), ("a", Bound::Max, Scope::default()));
    assert_eq!(row.effective, date::parse("2024-05-01").unwrap());
    assert_eq!(row.value.unwrap().text(), "1");
}

#[test]
fn name_that_begins_with_the_word_min_sets_a_lower_bound() {
    use Bound::{Max, Min};
    for (name, bound) in [
        ("min", Min),
        ("min-web", Min),
        ("min_web", Min),
        ("min.web", Min),
        ("min2", Min),
        ("minutes", Max),
        ("min web", Max),
        ("MIN", Max),
        ("Min-web", Max),
        ("web-min", Max),
        ("min٣", Max),
        ("max", Max),
    ] {
        let text = row("").replace("\"a\"", &format!("{name:?}"));
        assert_eq!(only(&text).bound, bound, "{name}");
        let explicit = only(&text.replace('}', r#","bound":"max"}"#));
        assert_eq!(explicit.bound, Max, "{name}");
    }
}

#[test]
fn row_of_all_columns_is_read() {
    let text = r#","bound":"min","metric":"packets","per":"host","source":"10.1.2.3/24",
        "destination":"any","host":"10.1.2.3""#;
    let row = only(&row(text));
    assert_eq!(
        (row.bound, row.scope.metric, row.scope.per),
        (Bound::Min, Metric::Packets, Per::Host)
    );
    let inside = |address: &str| address.parse::<IpAddr>().unwrap();
    assert!(row.scope.source.contains(inside("10.1.2.9")));
    assert!(!row.scope.source.contains(inside("10.1.3.9")));
    assert!(row.scope.destination.contains(inside("::1")));
    assert!(!row.scope.host.contains(inside("10.1.2.4")));
}

#[test]
fn null_in_an_optional_column_means_the_default() {
    let nulls =
        r#","bound":null,"metric":null,"per":null,"source":null,"destination":"","host":"any""#;
    assert_eq!(only(&row(nulls)), only(&row("")));
    let totals = Defaults { per: Per::Total };
    for (further, per) in
        [("", Per::Total), (r#","per":null"#, Per::Total), (r#","per":"pair""#, Per::Pair)]
    {
        let table = json::read(row(further).as_bytes(), totals).unwrap();
        assert_eq!(table.rows().next().unwrap().scope.per, per);
    }
}

#[test]
fn values_keep_their_text() {
    for (value, text) in
        [("1e30", "1e30"), ("1.50", "1.50"), ("\"1.50\"", "1.50"), ("\"+5\"", "5"), ("1E3", "1E3")]
    {
        let row = only(&row("").replace(":1,", &format!(":{value},")));
        assert_eq!(row.value.unwrap().text(), text);
    }
    assert_eq!(only(&row("").replace(":1,", ":null,")).value, None);
}

#[test]
fn refusal_of_a_row_names_key_value_and_remedy() {
    for (further, message) in [
        (r#","sorce":"10.0.0.1""#, r#"unknown key "sorce"; did you mean "source"?"#),
        (r#","Per":"pair""#, r#"unknown key "Per"; did you mean "per"?"#),
        (
            r#","comment":"x""#,
            "unknown key \"comment\"; the keys are limit_name, limit_value, effective_date, bound, \
             metric, per, source, destination, host",
        ),
        (r#","limit_value":1"#, r#"key "limit_value" is given more than once; keep one"#),
        (r#","per":null,"per":null"#, r#"key "per" is given more than once; keep one"#),
        (r#","bound":"upper""#, r#"bound "upper" is not known; give max or min"#),
        (r#","bound":"""#, r#"bound "" is not known; give max or min"#),
        (r#","metric":"bits""#, r#"metric "bits" is not known; give bytes or packets"#),
        (
            r#","per":"Pair""#,
            r#"per "Pair" is not known; give pair or source or destination or host or total"#,
        ),
        (
            r#","per":["pair"]"#,
            r#"per is an array: "[\"pair\"]"; give one of its words as a text, or null"#,
        ),
        (
            r#","source":"10/8""#,
            "source \"10/8\" is not an address or network; \
             write 10.1.2.3, 10.0.0.0/8, 2001:db8::/32 or any",
        ),
        (
            r#","destination":"10.0.0.0/33""#,
            "destination \"10.0.0.0/33\" has no length between 0 and 32 after the slash; write one",
        ),
        (r#","source":10"#, r#"source is a number: "10"; give a text like 10.0.0.0/8, or null"#),
        (
            r#","host":"10.0.0.1""#,
            "host \"10.0.0.1/32\" goes only with per \"host\", and per is \"pair\"; \
             set per to \"host\", or use source and destination",
        ),
        (
            r#","source":"10.0.0.0/8","destination":"::ffff:10.0.0.1""#,
            "source \"10.0.0.0/8\" and destination \"::ffff:10.0.0.1/128\" are of different \
             families, which no pair matches; give two IPv4 or two IPv6 networks",
        ),
    ] {
        refused(&row(further), message);
    }
}

#[test]
fn refusal_of_a_name_value_or_date_names_the_remedy() {
    let good = row("");
    let (name, value, date) =
        (r#""limit_name":"a""#, r#""limit_value":1"#, r#""effective_date":"2024-05-01""#);
    let no_name = "no limit_name; give a text that names the limit";
    let no_value = "no limit_value; give a number, a text holding one, or null";
    let no_date = "no effective_date; give a text like 2024-05-01 or 2024-05-01T12:00:00Z";
    for (member, other, message) in [
        (name, r#""limit_name":null"#, no_name),
        (name, r#""limit_name":"""#, no_name),
        (name, r#""per":"pair""#, no_name),
        (
            name,
            r#""limit_name":5"#,
            r#"limit_name is a number: "5"; give a text that names the limit"#,
        ),
        (
            name,
            r#""limit_name":"\ud800""#,
            r#"limit_name is a text with half a character: "\"\\ud800\""; give whole \u escapes"#,
        ),
        (value, r#""per":"pair""#, no_value),
        (value, r#""limit_value":-5"#, r#"limit_value "-5" is negative; give 0 or more"#),
        (
            value,
            r#""limit_value":"NaN""#,
            r#"limit_value "NaN" is not a finite number; to have no limit, give null"#,
        ),
        (
            value,
            r#""limit_value":"1GB""#,
            r#"limit_value "1GB" is not a decimal number; write it like 1000000, 0.5 or 1e9"#,
        ),
        (
            value,
            r#""limit_value":true"#,
            r#"limit_value is a boolean: "true"; give a number, a text holding one, or null"#,
        ),
        (date, r#""effective_date":null"#, no_date),
        (date, r#""per":"pair""#, no_date),
        (
            date,
            r#""effective_date":"infinity""#,
            r#"effective_date "infinity" is no point in time; give a date: 0001-01-01 is before all traffic, 9999-12-31 is after it"#,
        ),
        (
            date,
            r#""effective_date":"2023-02-29""#,
            r#"effective_date "2023-02-29" does not exist in the calendar or on the clock; correct it"#,
        ),
        (
            date,
            r#""effective_date":1714521600"#,
            "effective_date is a number: \"1714521600\"; \
             give a text like 2024-05-01 or 2024-05-01T12:00:00Z",
        ),
    ] {
        refused(&good.replace(member, other), message);
    }
}

#[test]
fn unknown_column_suggests_the_nearest_one() {
    for (unknown, nearest) in [
        ("sorce", Some("source")),
        ("SOURCE", Some("source")),
        ("limitname", Some("limit_name")),
        ("limit-value", Some("limit_value")),
        ("efective_dat", Some("effective_date")),
        ("note", None),
        ("", None),
    ] {
        assert_eq!(nearest_column(unknown), nearest, "{unknown}");
    }
    assert_eq!(nearest_column(&"x".repeat(1 << 20)), None);
    for (unknown, expected) in [
        ("sorce", Some("source")),
        ("limit_values", Some("limit_value")),
        ("Bond", Some("bound")),
        ("perr", Some("per")),
        ("hots", Some("host")),
        // Words of their own.
        ("user", None),
        ("key", None),
        ("cost", None),
        ("remark", None),
    ] {
        assert_eq!(mistyped_column(unknown), expected, "{unknown}");
    }
}

#[test]
fn row_of_each_file_format_has_its_number_and_line() {
    let one = row("");
    let two = one.replace("\"a\"", "\"b\"");
    let pretty = one.replace(',', ",\n  ");
    for (text, lines) in [
        (String::new(), vec![]),
        ("\u{feff}".into(), vec![]),
        (" \r\n\t".into(), vec![]),
        ("[]".into(), vec![]),
        ("\u{feff}\n[ ]\n".into(), vec![]),
        (format!("[{one},{two}]"), vec![1, 1]),
        (format!("[\n{pretty},\n\n{two}\n]"), vec![2, 6]),
        (one.clone(), vec![1]),
        (format!("\n\n{pretty}\n"), vec![3]),
        (format!("\u{feff}{one}\r\n\r\n{two}\r\n"), vec![1, 3]),
        (format!("{one}\n{two}"), vec![1, 2]),
    ] {
        let table = table(&text);
        let found: Vec<_> = table.verdicts.iter().map(|verdict| verdict.position.line()).collect();
        assert_eq!(found, lines.into_iter().map(Some).collect::<Vec<_>>(), "{text}");
        assert_eq!(table.rows().count(), found.len(), "{text}");
        let rows: Vec<_> = table.verdicts.iter().map(|verdict| verdict.position.row()).collect();
        assert_eq!(rows, (1..=found.len()).collect::<Vec<_>>());
    }
}

#[test]
fn value_that_is_no_object_is_refused_by_itself() {
    let one = row("");
    let message = |kind: &str, text: &str| {
        format!("the row is {kind}: {text:?}; write an object with the columns as keys")
    };
    let expected = [
        "holds".to_owned(),
        message("a number", "5"),
        message("null", "null"),
        message("an array", "[[]]"),
    ];
    assert_eq!(rulings(&table(&format!("[{one}, 5, null, [[]]]"))), expected);
    assert_eq!(rulings(&table(&format!("{one}\n5\nnull\n[[]]"))), expected);
}

#[test]
fn file_that_is_not_limits_is_one_error_with_its_position() {
    let one = row("");
    for (text, line, column) in [
        ("null".to_owned(), 1, 1),
        ("\n  limit_name,limit_value".into(), 2, 3),
        (format!("[{one}"), 1, one.len() + 1),
        (format!("[\n{one},\n]"), 3, 1),
        (format!("[{one}] x"), 1, one.len() + 4),
        (format!("{one}\n{{\"limit_name\":"), 2, 14),
        (format!("{one}\n{one} {one}"), 2, one.len() + 2),
        (format!("{one}\n  {one} {one}"), 2, one.len() + 4),
        (format!("{one},\n{one}"), 1, one.len() + 1),
        (format!("{one}\n[\n{one}\n]"), 2, 1),
        ("{\"limit_value\": NaN}".into(), 1, 17),
        ("{".into(), 1, 1),
    ] {
        match json::read(text.as_bytes(), PAIRS) {
            Err(FileError::NotJson { line: found_line, column: found_column, .. }) => {
                assert_eq!((found_line, found_column), (line, column), "{text}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    let error = json::read(b"[\n\"a\xff\"]", PAIRS).unwrap_err();
    assert_eq!(error.to_string(), "line 2, column 3: not UTF-8; save the file as UTF-8");
    let error = json::read(b"[\n", PAIRS).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2, column 1: EOF while parsing a list; \
         a file of limits is a JSON array of objects, or JSON objects one a line"
    );
}

#[test]
fn deep_and_large_values_are_rejected_without_stack() {
    let deep = "[".repeat(1 << 20);
    assert!(json::read(deep.as_bytes(), PAIRS).is_err());
    let deep = format!("{deep}{}", "]".repeat(1 << 20));
    assert!(rulings(&table(&deep))[0].starts_with("the row is an array"));
    assert!(rulings(&table(&row(&format!(",\"per\":{deep}"))))[0].starts_with("per is an array"));
    let objects = format!("{}1{}", "{\"a\":".repeat(1 << 18), "}".repeat(1 << 18));
    assert!(rulings(&table(&objects))[0].starts_with("unknown key \"a\""));
    let number = |digits: usize| row("").replace(":1,", &format!(":{},", "9".repeat(digits)));
    let value = only(&number(TEXT_MAX)).value.unwrap();
    assert_eq!(value.text(), "9".repeat(TEXT_MAX));
    assert_eq!(value.threshold(Bound::Max), i64::MAX);
    let refused = rulings(&table(&number(1 << 20)));
    assert_eq!(refused, ["limit_value has more than 4096 characters; shorten it"]);
}

#[test]
fn rows_of_one_name_and_date_are_duplicates_or_conflicts() {
    let with = |value: &str, date: &str, further: &str| {
        row(further).replace(":1,", &format!(":{value},")).replace("2024-05-01", date)
    };
    let one = with("1", "2024-05-01", "");
    let same = with("\"1.0\"", "2024-05-01T02:00:00+02:00", r#","per":"pair""#);
    let rival = with("2", "2024-05-01", "");
    let other_date = with("2", "2024-05-02", "");
    let broken = with("-1", "2024-05-01", "");
    let conflict = |row: usize| {
        format!(
            "row {row} (line {row}) has the same limit_name and effective_date \
             \"2024-05-01T00:00:00Z\" but other content, so none of them holds; keep one"
        )
    };
    let rulings = |rows: &[&String]| {
        let lines: Vec<&str> = rows.iter().map(|row| row.as_str()).collect();
        rulings(&table(&lines.join("\n")))
    };
    assert_eq!(rulings(&[&one, &same, &other_date]), ["holds", "as 1", "holds"]);
    assert_eq!(rulings(&[&same, &one, &one]), ["as 2", "holds", "as 2"]);
    assert_eq!(rulings(&[&one, &rival]), [conflict(2), conflict(1)]);
    assert_eq!(rulings(&[&one, &same, &rival]), [conflict(3), conflict(3), conflict(1)]);
    let found = rulings(&[&broken, &one]);
    assert_eq!(found[1], "holds", "a row that is refused by itself conflicts with no other");
    let null = with("null", "2024-05-01", "");
    assert_eq!(rulings(&[&one, &null]), [conflict(2), conflict(1)]);
}

#[test]
fn row_of_cells_equals_the_same_row_of_json() {
    let cells = [
        ("limit_name", Cell::Text("a".into())),
        ("limit_value", Cell::Number("1".into())),
        ("effective_date", Cell::Instant(date::parse("2024-05-01").unwrap())),
    ];
    let cells = cells.map(|(column, cell)| (column.into(), cell)).into();
    let raw = RawRow { position: Default::default(), cells: Ok(cells) };
    let table = Table::new([raw], PAIRS);
    assert_eq!(table.rows().collect::<Vec<_>>(), [&only(&row(""))]);
}

/// Rows that are valid, invalid, or in conflict with each other, about equally often.
fn some_row() -> impl Strategy<Value = String> {
    let value = prop::sample::select(vec!["1", "1.0", "2", "null", "-1", "\"x\""]);
    let date = prop::sample::select(vec!["2024-05-01", "2024-05-01T00:00:00Z", "2024-05-02", "x"]);
    let further =
        prop::sample::select(vec!["", r#","per":"pair""#, r#","per":"total""#, r#","x":1"#]);
    ("[a-c]", value, date, further).prop_map(|(name, value, date, further)| {
        let named = row(further).replace("\"a\"", &format!("{name:?}"));
        named.replace(":1,", &format!(":{value},")).replace("2024-05-01", date)
    })
}

proptest! {
    #[test]
    fn order_of_rows_changes_neither_versions_nor_texts(
        (rows, shuffled) in prop::collection::vec(some_row(), 0..12)
            .prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle())),
    ) {
        let (one, other) = (table(&rows.join("\n")), table(&format!("[{}]", shuffled.join(","))));
        prop_assert_eq!(one.refusals().count(), other.refusals().count());
        let (mut one_catalog, mut other_catalog) = (Catalog::new(), Catalog::new());
        let versions = one_catalog.versions(LimitSet::Live, one.held());
        prop_assert_eq!(&versions, &other_catalog.versions(LimitSet::Live, other.held()));
        for version in versions {
            let text = |catalog: &Catalog| {
                catalog.row(version.id).value.as_ref().map(|value| value.text().to_owned())
            };
            prop_assert_eq!(text(&one_catalog), text(&other_catalog));
        }
    }

    #[test]
    fn any_bytes_are_read_or_rejected(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = json::read(&bytes, PAIRS);
    }

    #[test]
    fn damaged_file_is_read_or_rejected(
        rows in prop::collection::vec(some_row(), 0..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = format!("[{}]", rows.join(",\n")).into_bytes();
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let _ = json::read(&bytes, PAIRS);
    }
}

#[test]
fn examples_of_the_manual_hold() {
    let manual = include_str!("../../docs/limits.md");
    let blocks: Vec<&str> = manual.split("```json\n").skip(1).collect();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        let (example, _) = block.split_once("```").unwrap();
        let table = table(example);
        assert_eq!(table.rows().count(), table.verdicts.len(), "{:?}", rulings(&table));
    }
}
