use floodmark::limits::feed::{Feed, Options};

use super::{Followed, PLAIN, options, tell_changes};
use crate::common::postgres::{Database, Postgres};

fn followed(database: &Database) -> Followed {
    database.sql(PLAIN);
    database.sql("insert into traffic_limits values ('max', 1, '2026-01-01')");
    Followed::of(&options(database))
}

#[test]
fn a_server_that_is_started_again_is_read_again() {
    let server = Postgres::own();
    let database = server.database();
    let mut followed = followed(&database);
    tell_changes(&database);
    for (value, crash) in [("2", false), ("3", true)] {
        database.sql(&format!("update traffic_limits set limit_value = {value}"));
        followed.until_values(&[value]);
        if crash {
            server.kill()
        } else {
            server.stop()
        }
        let why = followed.until_trouble("reaching the database");
        assert!(!why.contains("password"), "{why}");
        assert_eq!(followed.values(), [value], "the last limits hold");
        server.start();
        followed.until_sound();
    }
    // What was written while nobody could read is read all the same.
    server.stop();
    followed.until_trouble("reaching the database");
    server.start();
    database.sql("update traffic_limits set limit_value = 4");
    followed.until_values(&["4"]);
}

#[test]
fn a_connection_that_is_cut_is_made_anew() {
    let database = Postgres::shared().database();
    let mut followed = followed(&database);
    tell_changes(&database);
    for value in ["2", "3", "4"] {
        // By the server, and with the change that would have been notified over it.
        database.sql(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and usename = 'reader';
             update traffic_limits set limit_value = {value}"
        ));
        followed.until_values(&[value]);
    }
}

#[test]
fn a_server_that_does_not_answer_is_noticed() {
    let server = Postgres::own();
    let database = server.database();
    let mut followed = followed(&database);
    server.pause();
    followed.until_trouble("no answer within");
    assert_eq!(followed.values(), ["1"]);
    server.resume();
    database.sql("update traffic_limits set limit_value = 2");
    followed.until_values(&["2"]);
    followed.until_sound();
}

#[test]
fn a_locked_table_is_waited_for_and_told() {
    let database = Postgres::shared().database();
    let mut followed = followed(&database);
    let other = database.session("postgres");
    other.sql("begin; lock table traffic_limits in access exclusive mode");
    followed.until_trouble("lock timeout");
    other.sql("update traffic_limits set limit_value = 2; commit");
    followed.until_values(&["2"]);
    followed.until_sound();
}

#[test]
fn a_table_may_go_and_come_back_as_another() {
    let database = Postgres::shared().database();
    let mut followed = followed(&database);
    tell_changes(&database);
    database.sql("drop table traffic_limits");
    let why = followed.until_trouble("has no table traffic_limits");
    assert!(why.contains("floodmark limits init"), "{why}");
    assert_eq!(followed.values(), ["1"], "the last limits hold");
    // Of other types, without the trigger.
    database.sql(
        "create table traffic_limits (remark text, limit_name text, per text, limit_value int,
            effective_date date)",
    );
    followed.until_values(&[]);
    followed.until_sound();
    database.sql("insert into traffic_limits values ('', 'max', 'total', 2, '2026-01-01')");
    followed.until_values(&["2"]);
    // One that lacks a column, and one that has a mistyped one.
    database.sql("alter table traffic_limits rename limit_value to amount");
    followed.until_trouble("no column limit_value");
    database.sql("alter table traffic_limits rename amount to limit_value");
    followed.until_sound();
    database.sql("alter table traffic_limits add sorce text");
    let why = followed.until_trouble("\"sorce\"");
    assert!(why.contains("\"source\""), "{why}");
    database
        .sql("alter table traffic_limits drop sorce; update traffic_limits set limit_value = 3");
    followed.until_values(&["3"]);
    // Its place taken by another one, and its rights taken away.
    database.sql(
        "begin; alter table traffic_limits rename to old;
         create table traffic_limits as select * from old;
         update traffic_limits set limit_value = 4; commit",
    );
    followed.until_values(&["4"]);
}

#[test]
fn a_right_that_is_taken_away_is_told() {
    let database = Postgres::shared().database();
    database.sql(PLAIN);
    database.sql("insert into traffic_limits values ('max', 1, '2026-01-01')");
    let name = database.name().to_owned();
    database.sql(&format!(
        "drop role if exists {name}; create role {name} login; grant select on traffic_limits to {name}"
    ));
    let address = database.uri(&name).parse().expect("an address");
    let mut followed = Followed::of(&Options { address, ..options(&database) });
    database.sql(&format!("revoke select on traffic_limits from {name}"));
    followed.until_trouble("permission denied for table traffic_limits");
    database.sql(&format!(
        "update traffic_limits set limit_value = 2; grant select on traffic_limits to {name}"
    ));
    followed.until_values(&["2"]);
    database.sql(&format!("drop owned by {name}; drop role {name}"));
}

#[test]
fn passwords_and_certificates_are_checked() {
    let server = Postgres::own();
    let database = server.database();
    database.sql(PLAIN);
    let authority = server.authority().display().to_string();
    let at_name = |user: &str| database.uri(user).replace("127.0.0.1", "localhost");
    let open = |uri: String| {
        let address = uri.parse().expect("an address");
        Feed::open(&Options { address, ..options(&database) }).map(drop)
    };
    let place = tempfile::tempdir().expect("a directory");
    let passfile = |password: &str| {
        let path = place.path().join(password);
        std::fs::write(&path, format!("localhost:*:*:locked:{password}\n")).expect("a file");
        let only_mine = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, only_mine).expect("its mode");
        path.display().to_string()
    };
    let (right, wrong) = (passfile("floodmark"), passfile("wrong"));
    for (uri, told) in [
        (at_name("reader") + "?sslmode=disable", None),
        (at_name("reader") + "?sslmode=require", None),
        (at_name("reader") + &format!("?sslmode=verify-full&sslrootcert={authority}"), None),
        (database.uri("reader") + &format!("?sslmode=verify-ca&sslrootcert={authority}"), None),
        (
            database.uri("reader") + &format!("?sslmode=verify-full&sslrootcert={authority}"),
            Some("not valid for name \"127.0.0.1\""),
        ),
        (at_name("reader") + "?sslmode=verify-full&sslrootcert=system", Some("TLS with")),
        (
            at_name("reader") + "?sslmode=verify-full&sslrootcert=/no/such/file",
            Some("/no/such/file"),
        ),
        (at_name("locked") + &format!("?passfile={right}"), None),
        (at_name("locked") + &format!("?sslmode=require&passfile={right}"), None),
        (at_name("locked") + &format!("?passfile={wrong}"), Some("password authentication failed")),
        (at_name("locked") + "?passfile=/no/such/file", Some("PGPASSWORD")),
        (at_name("nobody"), Some("role \"nobody\" does not exist")),
    ] {
        match (open(uri.clone()), told) {
            (Ok(()), None) => {}
            (Err(failure), Some(told)) => {
                let said = format!("{:#}", failure.error);
                assert!(said.contains(told), "{uri}: {said}");
                assert_eq!(failure.exit as u8, 78, "{said}");
            }
            (Ok(()), Some(told)) => panic!("{uri}: should say {told}"),
            (Err(failure), None) => panic!("{uri}: {:#}", failure.error),
        }
    }
}
