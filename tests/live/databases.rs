//! Limits from a table of a real PostgreSQL; edits are judged retroactively.

use super::kit::TopicFeed;
use super::sinks::{WAITS, reasons, sorted};
use crate::common::broker::Broker;
use crate::common::now_ms;
use crate::common::postgres::{Database, Postgres};
use crate::common::relay::{Listen, Relay};
use crate::feeds::{PLAIN, add_notify_trigger};
use crate::replay::fold::{Object, changes, events, text};
use crate::replay::pcap::packet;
use crate::replay::run::{Live, Place, SignalTarget};
use crate::replay::traffic::{BEGIN_MS, date};
use crate::serving::{get_until, server};

fn database() -> Database {
    let database = Postgres::shared().database();
    database.sql(PLAIN);
    database
}

fn ends(run: Live) {
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
}

fn assert_next_changes(run: &mut Live, reason: &str, expected: &[&str]) {
    let lines: String = expected.iter().map(|_| run.line()).collect();
    assert!(reasons(&lines).iter().all(|emitted| emitted == reason), "{reason}: {lines}");
    assert_eq!(sorted(&lines), expected);
}

#[test]
fn edits_of_a_table_are_judged_retroactively() {
    for (workers, notifies) in [("-w1", true), ("-w4", false), ("-n2 -w2", true)] {
        let place = Place::new();
        let database = database();
        if notifies {
            add_notify_trigger(&database);
        }
        database.sql("insert into traffic_limits values ('big', 1000, '1970-01-01')");
        let topic = Broker::shared().topic("flows", 3);
        let limits = database.uri("reader");
        let line = format!("run --from {topic} --limits {limits} {WAITS} {workers}");
        let (mut run, mut feed) = (place.floodmark(&line).start(), TopicFeed::to(&topic));
        feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
        assert_next_changes(&mut run, "data", &["raised big 1500"]);
        feed.send(1, packet(BEGIN_MS + 5, "10.0.0.2", "10.0.0.9", 2500));
        assert_next_changes(&mut run, "data", &["raised big 2500"]);
        database.sql("update traffic_limits set limit_value = 2000");
        assert_next_changes(&mut run, "limit_change", &["cleared big 1500"]);
        // One tick emits the changes of both edits of a transaction.
        database.sql(
            "begin; update traffic_limits set limit_value = 1e30;
             insert into traffic_limits values ('other', 1499, '1970-01-01'); commit",
        );
        assert_next_changes(
            &mut run,
            "limit_change",
            &["cleared big 2500", "raised other 1500", "raised other 2500"],
        );
        // A version dated back to the window's start replaces the earlier one.
        let end = date(BEGIN_MS - BEGIN_MS % 300_000);
        database.sql(&format!("insert into traffic_limits values ('big', 2400, '{end}')"));
        assert_next_changes(&mut run, "limit_change", &["raised big 2500"]);
        // A version dated after the window's end does not affect it; deleting a limit does.
        let after = date(BEGIN_MS + 600_000);
        database.sql(&format!("insert into traffic_limits values ('big', 1, '{after}')"));
        database.sql("delete from traffic_limits where limit_name = 'other'");
        assert_next_changes(
            &mut run,
            "limit_change",
            &["cleared other 1500", "cleared other 2500"],
        );
        feed.send(2, packet(BEGIN_MS + 9, "10.0.0.3", "10.0.0.9", 2450));
        assert_next_changes(&mut run, "data", &["raised big 2450"]);
        feed.close(3);
        // The replay reads the final rows of the table.
        let file = place.floodmark(&format!("limits export {limits}")).stdout(0);
        place.write("limits.jsonl", file);
        feed.replay(&place, "").check_run(run);
    }
}

/// Returns the `as_of` of a change, in milliseconds since 1970.
fn as_of_ms(line: &str) -> i64 {
    let as_of: jiff::Timestamp = text(&changes(line)[0], "as_of").parse().expect("a time");
    as_of.as_millisecond()
}

#[test]
fn future_version_in_a_table_takes_effect_at_its_date() {
    let place = Place::new();
    let database = database();
    database.sql("insert into traffic_limits values ('now', 1, '1970-01-01')");
    let topic = Broker::shared().topic("flows", 1);
    let limits = database.uri("reader");
    let line = format!(
        "run --from {topic} --limits {limits} --window 87600h --max-gap 87600h --tick 100ms"
    );
    let (mut run, mut feed) = (place.floodmark(&line).start(), TopicFeed::to(&topic));
    feed.send(0, packet(now_ms(), "10.0.0.1", "10.0.0.2", 1500));
    assert_next_changes(&mut run, "data", &["raised now 1500"]);
    let begins = now_ms() + 2000;
    database.sql(&format!("insert into traffic_limits values ('later', 100, '{}')", date(begins)));
    let line = run.line();
    assert_eq!(
        (events(&line), reasons(&line)),
        (vec!["raised later 1500".into()], vec!["schedule".into()])
    );
    assert!(as_of_ms(&line) >= begins as i64, "{line}");
    ends(run);
}

#[test]
fn refresh_interval_delays_edits_of_a_table() {
    let place = Place::new();
    let database = database();
    add_notify_trigger(&database);
    database.sql("insert into traffic_limits values ('now', 1, '1970-01-01')");
    let topic = Broker::shared().topic("flows", 1);
    let limits = database.uri("reader");
    let line = format!("run --from {topic} --limits {limits} {WAITS} --limits-refresh 3s");
    let (mut run, mut feed) = (place.floodmark(&line).start(), TopicFeed::to(&topic));
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
    assert_next_changes(&mut run, "data", &["raised now 1500"]);
    let mut emitted = Vec::new();
    for value in [9999, 1, 9999] {
        database.sql(&format!("update traffic_limits set limit_value = {value}"));
        let line = run.line();
        assert_eq!(reasons(&line), ["limit_change"]);
        emitted.push(as_of_ms(&line));
    }
    // Edits wait for the next read, and reads are at least this far apart.
    let apart: Vec<i64> = emitted.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(apart.iter().all(|apart| *apart > 2500), "{apart:?}");
    ends(run);
}

#[test]
fn second_table_is_judged_beside_the_first() {
    let place = Place::new();
    let database = database();
    add_notify_trigger(&database);
    database.sql(
        "create table \"Next limits\" as select * from traffic_limits;
         insert into traffic_limits values ('big', 1000, '1970-01-01');
         insert into \"Next limits\" values ('big', 2000, '1970-01-01')",
    );
    let topic = Broker::shared().topic("flows", 1);
    let limits = database.uri("reader");
    let line = format!("run --from {topic} --limits {limits} {WAITS} -w2");
    let what_if = format!("{limits}#\"Next limits\"");
    let run = place.floodmark(&line).arg("--what-if").arg(&what_if);
    let (mut run, mut feed) = (run.start(), TopicFeed::to(&topic));
    let next_changes = |run: &mut Live, count: usize| {
        let lines: String = (0..count).map(|_| run.line()).collect();
        let of = |change: &Object| {
            ["event", "limit_set", "limit_name"].map(|field| text(change, field)).join(" ")
        };
        let mut emitted: Vec<String> = changes(&lines).iter().map(of).collect();
        emitted.sort_unstable();
        emitted
    };
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
    assert_eq!(next_changes(&mut run, 1), ["raised live big"]);
    feed.send(0, packet(BEGIN_MS + 1, "10.0.0.1", "10.0.0.9", 1500));
    assert_eq!(next_changes(&mut run, 1), ["raised what_if big"]);
    database.sql("update \"Next limits\" set limit_value = 9999");
    assert_eq!(next_changes(&mut run, 1), ["cleared what_if big"]);
    database.sql(
        "begin; delete from traffic_limits; update \"Next limits\" set limit_value = 1; commit",
    );
    assert_eq!(next_changes(&mut run, 2), ["cleared live big", "raised what_if big"]);
    ends(run);
}

#[test]
fn database_outage_is_reported_and_the_last_limits_apply() {
    let postgres = Postgres::own();
    let database = postgres.database();
    database.sql(PLAIN);
    database.sql("insert into traffic_limits values ('big', 1000, '1970-01-01')");
    let place = Place::new();
    let topic = Broker::shared().topic("flows", 1);
    let limits = database.uri("reader");
    let line = format!("run --from {topic} --limits {limits} {WAITS} --http 127.0.0.1:0");
    let (mut run, mut feed) = (place.floodmark(&line).start(), TopicFeed::to(&topic));
    let http = server(&mut run);
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
    assert_next_changes(&mut run, "data", &["raised big 1500"]);
    get_until(http, "/readyz", |response| response.status == 200);
    postgres.kill();
    let not_ready =
        get_until(http, "/readyz", |response| response.body.contains("limits_unreadable"));
    assert_eq!(not_ready.status, 503);
    assert!(
        not_ready.body.contains("cannot reach the database")
            && not_ready.body.contains("\"seconds\":")
    );
    let metric = |value: &str| {
        let line = format!("floodmark_limits_readable{value}");
        get_until(http, "/metrics", |response| response.body.lines().any(|one| one == line))
    };
    metric(" 0");
    // The last limits still apply to traffic.
    feed.send(0, packet(BEGIN_MS + 1, "10.0.0.2", "10.0.0.9", 1600));
    assert_next_changes(&mut run, "data", &["raised big 1600"]);
    postgres.start();
    database.sql("update traffic_limits set limit_value = 1550");
    assert_next_changes(&mut run, "limit_change", &["cleared big 1500"]);
    get_until(http, "/readyz", |response| response.status == 200);
    metric(" 1");
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0).assert_stderr(&[
        "the limits stay as they are: cannot reach the database",
        "can be read again, after",
    ]);
}

#[test]
fn notifications_lost_in_a_pool_are_logged_and_leave_the_run_ready() {
    let place = Place::new();
    let database = database();
    add_notify_trigger(&database);
    database.sql("insert into traffic_limits values ('big', 1000, '1970-01-01')");
    let topic = Broker::shared().topic("flows", 1);
    let relay = Relay::to(&database, Listen::Passes, false);
    let notified = |limits: &str, value: &str| {
        let line = format!("run --from {topic} --limits {limits} {WAITS} --http 127.0.0.1:0");
        let mut run = place.floodmark(&line).start();
        let http = server(&mut run);
        let line = format!("floodmark_limits_notified {value}");
        get_until(http, "/metrics", |response| response.body.lines().any(|one| one == line));
        (run, http)
    };
    let (run, _) = notified(&database.uri("reader"), "1");
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0).assert_stderr(&["table traffic_limits notifies of its changes"]);
    let (mut run, http) = notified(&relay.uri(&database, "reader"), "0");
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
    assert_next_changes(&mut run, "data", &["raised big 1500"]);
    run.wait_for("is read once a second: its notifications do not arrive");
    for value in ["2000", "1000"] {
        database.sql(&format!("update traffic_limits set limit_value = {value}"));
        let event = if value == "2000" { "cleared big 1500" } else { "raised big 1500" };
        assert_next_changes(&mut run, "limit_change", &[event]);
    }
    get_until(http, "/readyz", |response| response.status == 200);
    run.signal("TERM", SignalTarget::Parent);
    let done = run.finish().expect(0);
    assert_eq!(done.stderr.matches("do not arrive").count(), 1, "{}", done.stderr);
    assert!(!done.stderr.contains("notifies of its changes"), "{}", done.stderr);
}

#[test]
fn rejected_rows_end_a_run_only_at_its_start_and_with_strict_limits() {
    let place = Place::new();
    let database = database();
    database.sql(
        "insert into traffic_limits values ('big', 1000, '1970-01-01'), ('bad', -1, '1970-01-01')",
    );
    let topic = Broker::shared().topic("flows", 1);
    let limits = database.uri("reader");
    let line = format!("run --from {topic} --limits {limits} {WAITS}");
    let strict = format!("{line} --strict-limits");
    for processes in ["-w1", "-n2", "-n2 --restart"] {
        let done = place.floodmark(&format!("{strict} {processes}")).run().expect(78);
        done.assert_stderr(&["--strict-limits: 1 of 2 rows of limits", "are refused"]);
    }
    // Rows rejected without the option, or after the start, are reported at the end.
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
    for line in [&line, &strict] {
        if line == &strict {
            database.sql("delete from traffic_limits where limit_name = 'bad'");
        }
        let mut run = place.floodmark(line).start();
        assert_next_changes(&mut run, "data", &["raised big 1500"]);
        database.sql(
            "begin; update traffic_limits set limit_value = 2000 where limit_name = 'big';
             insert into traffic_limits values ('worse', 'NaN', '1970-01-01'); commit",
        );
        assert_next_changes(&mut run, "limit_change", &["cleared big 1500"]);
        database.sql("update traffic_limits set limit_value = 1000 where limit_name = 'big'");
        assert_next_changes(&mut run, "limit_change", &["raised big 1500"]);
        run.signal("TERM", SignalTarget::Parent);
        let refused = if line == &strict { "1 of 2" } else { "2 of 3" };
        run.finish().expect(0).assert_stderr(&[&format!("at the end: {refused} rows of limits")]);
        database.sql("delete from traffic_limits where limit_name = 'worse'");
    }
}

#[test]
fn table_without_limits_ends_the_run_at_its_start() {
    let place = Place::new();
    let database = Postgres::shared().database();
    let topic = Broker::shared().topic("flows", 1);
    let limits = database.uri("reader");
    let run = |limits: &str, code| {
        place.floodmark(&format!("run --from {topic} --limits {limits}")).run().expect(code)
    };
    run(&limits, 66).assert_stderr(&["no table traffic_limits", "limits init"]);
    database.sql("create table traffic_limits (limit_name text, limit_value int)");
    run(&limits, 78).assert_stderr(&["no column effective_date"]);
    database.sql("alter table traffic_limits add effective_date date, add destinaton text");
    run(&limits, 78).assert_stderr(&["\"destinaton\"", "\"destination\""]);
    run("postgres://reader@127.0.0.1:1/x", 69).assert_stderr(&["Connection refused"]);
    let secret = run("postgres://reader:hunter2@127.0.0.1:1/x", 64);
    assert!(!secret.stderr.contains("hunter2"), "{}", secret.stderr);
    run("mysql://127.0.0.1/x", 64).assert_stderr(&["\"mysql://\""]);
}
