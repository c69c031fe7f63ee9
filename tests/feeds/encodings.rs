//! Texts of databases that are not in UTF-8.

use floodmark::limits::feed;

use super::{Followed, PLAIN, options};
use crate::common::postgres::{Database, Postgres};
use crate::replay::run::Place;

const TEXTS: &str =
    "create table traffic_limits (limit_name text, limit_value text, effective_date text,
    per text, \"R\u{e4}umlich\" text)";

/// Returns the names of the accepted rows, and the reasons of the rejected ones.
fn read(database: &Database) -> (Vec<String>, Vec<String>) {
    let table = feed::read(&options(database)).unwrap_or_else(|why| panic!("{:#}", why.error));
    let mut names: Vec<String> = table.rows().map(|row| row.name.to_string()).collect();
    names.sort_unstable();
    let mut refused: Vec<String> = table.refusals().map(|(_, reason)| reason.to_string()).collect();
    refused.sort_unstable();
    (names, refused)
}

#[test]
fn non_utf8_row_of_a_sql_ascii_database_is_rejected_alone() {
    let database = Postgres::shared().database_in("SQL_ASCII");
    database.sql(TEXTS);
    database.sql("insert into traffic_limits values ('gr\u{fc}n', '1', '2026-01-01')");
    let mut followed = Followed::of(&options(&database));
    assert_eq!(followed.values(), ["1"]);
    database.sql(
        "insert into traffic_limits values
            (E'gr\\xfcn', '1', '2026-01-01'), ('value', E'1\\xff', '2026-01-01'),
            ('date', '1', E'2026\\x80'),
            (repeat('\u{20ac}', 4096), '2', '2026-01-01'), (repeat('\u{20ac}', 4097), '3', '2026-01-01'),
            (repeat('x', 5000), '3', '2026-01-01');
         insert into traffic_limits values ('good', '5', '2026-01-01', 'total', E'\\xfe\\xff'),
            ('word', '1', '2026-01-01', E'p\\xe4r', null)",
    );
    followed.wait_for_values(&["5", "1", "2"]);
    let (names, refused) = read(&database);
    assert_eq!(names, ["good", "gr\u{fc}n", &"\u{20ac}".repeat(4096)]);
    assert_eq!(refused.len(), 6, "{refused:?}");
    let not_utf8 = refused.iter().filter(|why| why.contains("not UTF-8"));
    assert_eq!(not_utf8.count(), 4, "{refused:?}");
    assert!(refused[2].contains("limit_name has more than 4096"), "{refused:?}");
    // Such a database can be written.
    let place = Place::new();
    let limits = database.uri("postgres");
    let set = format!("limits set gr\u{fc}n 7 --effective 2026-01-01 --limits {limits}");
    place.floodmark(&set).stdout(0);
    followed.wait_for_values(&["5", "7", "2"]);
}

#[test]
fn texts_of_other_encodings_are_converted_and_unmapped_bytes_are_rejected_alone() {
    for (encoding, bad) in [("LATIN1", 0), ("WIN1252", 2), ("EUC_JP", 0)] {
        let database = Postgres::shared().database_in(encoding);
        let (name, table) = match encoding {
            // EUC_JP has no umlauts.
            "EUC_JP" => ("\u{4e0a}\u{9650}", PLAIN.replace("timestamptz", "text")),
            _ => ("gr\u{fc}n", TEXTS.to_owned()),
        };
        database.sql(&table);
        database.sql(&format!(
            "insert into traffic_limits values ('{name}', '1', '2026-01-01'), ('a', '1', '2026-01-01'),
                (repeat('x', 4097), '1', '2026-01-01')"
        ));
        for number in 0..bad {
            // This byte is unmapped in the encoding.
            database.sql(&format!(
                "insert into traffic_limits values (E'{number}\\x81', '1', '2026-01-01')"
            ));
        }
        let (names, refused) = read(&database);
        assert_eq!(names, ["a", name], "{encoding}");
        assert_eq!(refused.len(), bad + 1, "{encoding}: {refused:?}");
        let not_utf8 = refused.iter().filter(|why| why.contains("not UTF-8"));
        assert_eq!(not_utf8.count(), bad, "{encoding}: {refused:?}");
    }
}
