use std::time::{Duration, Instant};

use floodmark::limits::feed::{self, Options};
use floodmark::limits::table::Ruling;

use super::{Followed, PLAIN, add_notify_trigger, date, options};
use crate::common::postgres::Postgres;

#[test]
fn table_is_followed_with_and_without_notifications() {
    for with_trigger in [false, true] {
        let database = Postgres::shared().database();
        database.sql(PLAIN);
        if with_trigger {
            add_notify_trigger(&database);
        }
        database.sql("insert into traffic_limits values ('max', 1, '2026-01-01')");
        let mut followed = Followed::of(&options(&database));
        assert_eq!(followed.values(), ["1"]);
        for value in ["2", "3", "4"] {
            database.sql(&format!("update traffic_limits set limit_value = {value}"));
            followed.wait_for_values(&[value]);
        }
        database.sql(
            "begin; delete from traffic_limits;
             insert into traffic_limits values ('a', 5, '2026-01-01'), ('b', null, '2026-01-01'); commit",
        );
        followed.wait_for_values(&["5", "null"]);
        // One transaction is one edit.
        assert_eq!(followed.edits, 5);
        database.sql("truncate traffic_limits");
        followed.wait_for_values(&[]);
    }
}

#[test]
fn uncommitted_rows_are_not_read() {
    let database = Postgres::shared().database();
    database.sql(PLAIN);
    add_notify_trigger(&database);
    let mut followed = Followed::of(&options(&database));
    let writer = database.session("postgres");
    writer.sql("begin");
    writer.sql("insert into traffic_limits values ('rolled back', 1, '2026-01-01')");
    writer.sql("rollback");
    writer.sql("begin");
    writer.sql("insert into traffic_limits values ('max', 1, '2026-01-01')");
    database.sql("insert into traffic_limits values ('other', 2, '2026-01-01')");
    followed.wait_until("the committed row", |rows| rows.keys().any(|(name, _)| name == "other"));
    assert_eq!(followed.values(), ["2"]);
    writer.sql("commit");
    followed.wait_for_values(&["1", "2"]);
}

#[test]
fn all_columns_and_types_are_read_as_in_a_file() {
    let database = Postgres::shared().database();
    database.sql(
        "create domain amount as numeric(60, 3); create domain whole as amount check (value >= 0);
         create domain day as date; create domain from_day as day not null;
         create type word as enum ('max', 'min');
         create table traffic_limits (
            id serial, limit_name varchar(20), limit_value whole, effective_date from_day, bound word,
            metric char(10), per text, source cidr, destination inet, host inet, remarks jsonb)",
    );
    database.sql(
        "insert into traffic_limits (limit_name, limit_value, effective_date, bound, metric, per, source,
            destination, host) values
         ('one', 9007199254740993.125, '2024-05-01', 'min', 'packets', 'source', '10.0.0.0/8',
            '192.0.2.1', null),
         ('two', 123456789012345678901234567890, '1969-12-31', null, null, 'host', null, null,
            '2001:db8::/32')",
    );
    let table = feed::read(&options(&database)).unwrap_or_else(|why| panic!("{:#}", why.error));
    let file = r#"
{"limit_name":"one","limit_value":9007199254740993.125,"effective_date":"2024-05-01","bound":"min","metric":"packets","per":"source","source":"10.0.0.0/8","destination":"192.0.2.1/32"}
{"limit_name":"two","limit_value":123456789012345678901234567890.000,"effective_date":"1969-12-31","per":"host","host":"2001:db8::/32"}"#;
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("limits.json");
    std::fs::write(&path, file).expect("a file");
    let expected =
        feed::read(&Options::file(&path)).unwrap_or_else(|why| panic!("{:#}", why.error));
    assert_eq!(expected.rows().count(), 2);
    let sorted = |table: &floodmark::limits::table::Table| {
        let mut rows: Vec<_> = table.rows().cloned().collect();
        rows.sort_unstable();
        rows
    };
    assert_eq!(sorted(&table), sorted(&expected));
    assert_eq!(table.refusals().count(), 0);
    // A view is read alike, whatever its types.
    database.sql(
        "create schema net; create view net.\"My limits\" as
         select limit_name, limit_value::float8 / 2 as limit_value,
            to_char(effective_date, 'YYYY-MM-DD\"T\"HH24:MI:SS') as effective_date from traffic_limits",
    );
    let view =
        Options { table: "net.\"My limits\"".parse().expect("a name"), ..options(&database) };
    let view = feed::read(&view).unwrap_or_else(|why| panic!("{:#}", why.error));
    assert_eq!(view.refusals().count(), 0);
    let mut values: Vec<_> =
        view.rows().filter_map(|row| Some(row.value.as_ref()?.text().to_owned())).collect();
    values.sort_unstable();
    assert_eq!(values, ["4.503599627370497e+15", "6.172839450617284e+28"]);
}

#[test]
fn dates_are_independent_of_the_time_zone_of_the_database() {
    let database = Postgres::shared().database();
    let name = database.name().to_owned();
    // This time zone repeats one hour of the year, and skips one.
    database.sql(&format!(
        "alter database {name} set timezone = 'Europe/Berlin';
         alter database {name} set datestyle = 'SQL, DMY'"
    ));
    database.sql(
        "create table with_zone (limit_name text, limit_value int, effective_date timestamptz);
         create table without (limit_name text, limit_value float4, effective_date timestamp);
         create table as_text (limit_name text, limit_value text, effective_date text)",
    );
    database.sql(
        "insert into with_zone values
            ('summer', 1, '2025-10-26 02:30:00 CEST'), ('winter', 2, '2025-10-26 02:30:00 CET'),
            ('skipped', 3, '2025-03-30 02:30:00'), ('old', 4, '0044-03-15 12:00:00+00 BC'),
            ('far', 5, '29999-01-01 00:00:00.000001+00'), ('never', 6, 'infinity'),
            ('ever', 7, '-infinity');
         insert into without values ('local', 0.1, '2025-10-26 02:30:00.123456');
         insert into as_text values
            ('utc', '1', '2025-10-26T02:30:00Z'), ('zone', '2', '2025-10-26 02:30:00+02:00'),
            ('german', '3', '26.10.2025')",
    );
    let rows = |table: &str| {
        let options = Options { table: table.parse().expect("a name"), ..options(&database) };
        feed::read(&options).unwrap_or_else(|why| panic!("{:#}", why.error))
    };
    let found = |table: &str, name: &str| {
        let rows = rows(table);
        let row = rows.rows().find(|row| row.name == name);
        row.unwrap_or_else(|| panic!("{name} holds")).effective
    };
    assert_eq!(found("with_zone", "summer"), date("2025-10-26T00:30:00Z"));
    assert_eq!(found("with_zone", "winter"), date("2025-10-26T01:30:00Z"));
    assert_eq!(found("with_zone", "skipped"), date("2025-03-30T01:30:00Z"));
    // These years have no notation with four digits.
    for name in ["old", "far"] {
        let micros = database.query(&format!(
            "select (extract(epoch from effective_date) * 1000000)::numeric(30) from with_zone
             where limit_name = '{name}'"
        ));
        let micros: i128 = micros.parse().expect("a number");
        assert_eq!(found("with_zone", name), micros * 1000);
    }
    assert_eq!(found("without", "local"), date("2025-10-26T02:30:00.123456Z"));
    assert_eq!(found("as_text", "utc"), date("2025-10-26T02:30:00Z"));
    assert_eq!(found("as_text", "zone"), date("2025-10-26T00:30:00Z"));
    let refused = |table: &str| {
        let rows = rows(table);
        let names =
            rows.refusals().map(|(verdict, _)| verdict.name().unwrap_or_default().to_owned());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names
    };
    assert_eq!(refused("with_zone"), ["ever", "never"]);
    assert_eq!(refused("as_text"), ["german"]);
}

#[test]
fn invalid_rows_are_rejected_alone() {
    let database = Postgres::shared().database();
    database.sql(
        "create table traffic_limits (limit_name text, limit_value text, effective_date text, per text,
            source text, host text)",
    );
    database.sql("insert into traffic_limits values ('good', '5', '2026-01-01')");
    let mut followed = Followed::of(&options(&database));
    assert_eq!(followed.values(), ["5"]);
    // Texts of up to 100 MB, which must not be read in full.
    database.sql(
        "insert into traffic_limits values
            (repeat('x', 100000000), '1', '2026-01-01'), ('long value', repeat('9', 50000000), '2026-01-01'),
            ('NaN', 'NaN', '2026-01-01'), ('inf', 'Infinity', '2026-01-01'), ('neg', '-1', '2026-01-01'),
            ('words', 'many', '2026-01-01'), (null, '1', '2026-01-01'), ('', '1', '2026-01-01'),
            ('no date', '1', null), ('date', '1', '2026-02-30'), (E'line\\nfeed \\u202e', '7', '2026-01-01'),
            ('twice', '1', '2026-01-01'), ('twice', '2', '2026-01-01'),
            ('same', '3', '2026-01-01'), ('same', '3.0', '2026-01-01T00:00:00Z');
         insert into traffic_limits values
            ('per', '1', '2026-01-01', 'flow', null, null),
            ('source', '1', '2026-01-01', null, '10.0.0.0/33', null),
            ('host', '1', '2026-01-01', 'pair', null, '10.0.0.1')",
    );
    followed.wait_for_values(&["5", "7", "3"]);
    let table = feed::read(&options(&database)).unwrap_or_else(|why| panic!("{:#}", why.error));
    assert_eq!(table.refusals().count(), 15);
    let duplicates =
        table.verdicts.iter().filter(|one| matches!(one.ruling, Ruling::Duplicate { .. })).count();
    assert_eq!(duplicates, 1);
    for (verdict, reason) in table.refusals() {
        let message = format!("{:?} {reason}", verdict.name().map(str::len));
        assert!(message.len() < 1000, "{message}");
    }
    database.sql("delete from traffic_limits where limit_name <> 'good' or limit_name is null");
    followed.wait_for_values(&["5"]);
}

#[test]
fn table_of_100_000_limits_is_read_and_edited() {
    let database = Postgres::shared().database();
    database.sql(PLAIN);
    add_notify_trigger(&database);
    database.sql(
        "insert into traffic_limits select 'limit ' || n, n, timestamptz '2026-01-01' + n * interval '1 min'
         from generate_series(1, 100000) n",
    );
    let mut followed = Followed::of(&options(&database));
    assert_eq!(followed.rows.len(), 100_000);
    database.sql("update traffic_limits set limit_value = 0 where limit_name = 'limit 777'");
    let at = ("limit 777".to_owned(), date("2026-01-01T12:57:00Z"));
    followed.wait_until("the edit", |rows| rows[&at] == "0");
    assert_eq!(followed.edits, 2);
}

#[test]
fn oversized_table_is_reported_and_the_last_limits_stay() {
    let database = Postgres::shared().database();
    database.sql(PLAIN);
    database.sql("insert into traffic_limits values ('max', 1, '2026-01-01')");
    let mut followed = Followed::of(&options(&database));
    database.sql(
        "insert into traffic_limits select repeat('x', 4000) || n, 1, '2026-01-01'
         from generate_series(1, 100000) n",
    );
    let why = followed.wait_for_error("more than");
    assert!(why.contains("268435456 bytes"), "{why}");
    assert_eq!(followed.values(), ["1"]);
    database.sql("delete from traffic_limits where limit_name <> 'max'; update traffic_limits set limit_value = 2");
    followed.wait_for_values(&["2"]);
    followed.wait_until_readable();
}

#[test]
fn rows_of_concurrent_writers_reach_their_last_values() {
    let database = Postgres::shared().database();
    database.sql(PLAIN);
    add_notify_trigger(&database);
    database.sql("insert into traffic_limits select 'limit ' || n, 0, '2026-01-01' from generate_series(1, 8) n");
    let mut followed = Followed::of(&options(&database));
    std::thread::scope(|scope| {
        for writer in 1..=8 {
            let database = &database;
            scope.spawn(move || {
                let session = database.session("postgres");
                for value in 1..=200 {
                    session.sql(&format!(
                        "update traffic_limits set limit_value = {value} where limit_name = 'limit {writer}'"
                    ));
                }
            });
        }
    });
    followed.wait_for_values(&["200"; 8]);
    assert!(followed.edits > 1);
}

#[test]
fn notifications_in_quick_succession_are_coalesced() {
    let database = Postgres::shared().database();
    database.sql(PLAIN);
    add_notify_trigger(&database);
    database.sql("insert into traffic_limits values ('max', 0, '2026-01-01')");
    let mut followed = Followed::of(&options(&database));
    let began = Instant::now();
    // Each update is a transaction of its own.
    database.sql(
        "create procedure storm() language plpgsql as $$ begin
            for n in 1..30000 loop update traffic_limits set limit_value = n; commit; end loop;
         end $$",
    );
    database.session("postgres").sql("call storm()");
    followed.wait_for_values(&["30000"]);
    // At most one batch of edits each 10 ms.
    let most = began.elapsed().as_millis() / 10 + 10;
    assert!((followed.edits as u128) < most, "{} edits, at most {most}", followed.edits);
}

#[test]
fn refresh_interval_delays_each_read() {
    let database = Postgres::shared().database();
    database.sql(PLAIN);
    add_notify_trigger(&database);
    database.sql("insert into traffic_limits values ('max', 1, '2026-01-01')");
    let refresh = Duration::from_secs(3);
    let began = Instant::now();
    let mut followed = Followed::of(&Options { refresh: Some(refresh), ..options(&database) });
    database.sql("update traffic_limits set limit_value = 2");
    followed.wait_for_values(&["2"]);
    assert!(began.elapsed() >= refresh, "{:?}", began.elapsed());
    // Further writes do not bring the next read forward.
    database.sql("update traffic_limits set limit_value = 3");
    followed.wait_for_values(&["3"]);
    assert!(began.elapsed() >= 2 * refresh, "{:?}", began.elapsed());
}
