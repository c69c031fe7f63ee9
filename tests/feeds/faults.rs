use floodmark::limits::feed::{Feed, Options};

use super::{Followed, PLAIN, add_notify_trigger, options};
use crate::common::postgres::{Database, Postgres};

fn followed(database: &Database) -> Followed {
    database.sql(PLAIN);
    database.sql("insert into traffic_limits values ('max', 1, '2026-01-01')");
    Followed::of(&options(database))
}

#[test]
fn restarted_server_is_read_again() {
    let server = Postgres::own();
    let database = server.database();
    let mut followed = followed(&database);
    add_notify_trigger(&database);
    for (value, crash) in [("2", false), ("3", true)] {
        database.sql(&format!("update traffic_limits set limit_value = {value}"));
        followed.wait_for_values(&[value]);
        if crash {
            server.kill()
        } else {
            server.stop()
        }
        let why = followed.wait_for_error("cannot reach the database");
        assert!(!why.contains("password"), "{why}");
        assert_eq!(followed.values(), [value], "the last limits hold");
        server.start();
        followed.wait_until_readable();
    }
    // An edit written while the feed could not read is read later.
    server.stop();
    followed.wait_for_error("cannot reach the database");
    server.start();
    database.sql("update traffic_limits set limit_value = 4");
    followed.wait_for_values(&["4"]);
}

#[test]
fn terminated_connection_is_reopened() {
    let database = Postgres::shared().database();
    let mut followed = followed(&database);
    add_notify_trigger(&database);
    for value in ["2", "3", "4"] {
        // The server terminates the connection in the same transaction as the change.
        database.sql(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and usename = 'reader';
             update traffic_limits set limit_value = {value}"
        ));
        followed.wait_for_values(&[value]);
    }
}

#[test]
fn unresponsive_server_is_reported_and_the_last_limits_stay() {
    let server = Postgres::own();
    let database = server.database();
    let mut followed = followed(&database);
    server.pause();
    followed.wait_for_error("no answer within");
    assert_eq!(followed.values(), ["1"]);
    server.resume();
    database.sql("update traffic_limits set limit_value = 2");
    followed.wait_for_values(&["2"]);
    followed.wait_until_readable();
}

#[test]
fn locked_table_is_reported_and_read_after_the_commit() {
    let database = Postgres::shared().database();
    let mut followed = followed(&database);
    let other = database.session("postgres");
    other.sql("begin; lock table traffic_limits in access exclusive mode");
    followed.wait_for_error("lock timeout");
    other.sql("update traffic_limits set limit_value = 2; commit");
    followed.wait_for_values(&["2"]);
    followed.wait_until_readable();
}

#[test]
fn dropped_table_is_reported_and_its_replacement_is_read() {
    let database = Postgres::shared().database();
    let mut followed = followed(&database);
    add_notify_trigger(&database);
    database.sql("drop table traffic_limits");
    let why = followed.wait_for_error("has no table traffic_limits");
    assert!(why.contains("floodmark limits init"), "{why}");
    assert_eq!(followed.values(), ["1"], "the last limits hold");
    // The new table has other types, and no trigger.
    database.sql(
        "create table traffic_limits (remark text, limit_name text, per text, limit_value int,
            effective_date date)",
    );
    followed.wait_for_values(&[]);
    followed.wait_until_readable();
    database.sql("insert into traffic_limits values ('', 'max', 'total', 2, '2026-01-01')");
    followed.wait_for_values(&["2"]);
    // First a column is missing, then one is misspelt.
    database.sql("alter table traffic_limits rename limit_value to amount");
    followed.wait_for_error("no column limit_value");
    database.sql("alter table traffic_limits rename amount to limit_value");
    followed.wait_until_readable();
    database.sql("alter table traffic_limits add sorce text");
    let why = followed.wait_for_error("\"sorce\"");
    assert!(why.contains("\"source\""), "{why}");
    database
        .sql("alter table traffic_limits drop sorce; update traffic_limits set limit_value = 3");
    followed.wait_for_values(&["3"]);
    // Another table takes its name.
    database.sql(
        "begin; alter table traffic_limits rename to old;
         create table traffic_limits as select * from old;
         update traffic_limits set limit_value = 4; commit",
    );
    followed.wait_for_values(&["4"]);
}

#[test]
fn revoked_right_is_reported_and_limits_are_read_after_the_grant() {
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
    followed.wait_for_error("permission denied for table traffic_limits");
    database.sql(&format!(
        "update traffic_limits set limit_value = 2; grant select on traffic_limits to {name}"
    ));
    followed.wait_for_values(&["2"]);
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
    for (uri, expected) in [
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
        match (open(uri.clone()), expected) {
            (Ok(()), None) => {}
            (Err(failure), Some(expected)) => {
                let message = format!("{:#}", failure.error);
                assert!(message.contains(expected), "{uri}: {message}");
                assert_eq!(failure.exit as u8, 78, "{message}");
            }
            (Ok(()), Some(expected)) => panic!("{uri}: expected error: {expected}"),
            (Err(failure), None) => panic!("{uri}: {:#}", failure.error),
        }
    }
}
