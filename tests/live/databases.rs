//! Limits from a table of a real PostgreSQL: what changes there is said as if it had always been so.

use super::kit::Feed;
use super::sinks::{WAITS, reasons, sorted};
use crate::common::broker::Broker;
use crate::common::now_ms;
use crate::common::postgres::{Database, Postgres};
use crate::common::relay::{Listen, Relay};
use crate::feeds::{PLAIN, tell_changes};
use crate::replay::fold::{Object, changes, events, text};
use crate::replay::pcap::packet;
use crate::replay::run::{Live, Place, Whom};
use crate::replay::traffic::{BEGIN_MS, date};
use crate::serving::{ask_until, server};

fn database() -> Database {
    let database = Postgres::shared().database();
    database.sql(PLAIN);
    database
}

fn ends(run: Live) {
    run.signal("TERM", Whom::Parent);
    run.finish().expect(0);
}

fn says(run: &mut Live, reason: &str, expected: &[&str]) {
    let lines: String = expected.iter().map(|_| run.line()).collect();
    assert!(reasons(&lines).iter().all(|said| said == reason), "{reason}: {lines}");
    assert_eq!(sorted(&lines), expected);
}

#[test]
fn a_table_that_changes_is_judged_as_if_it_had_been_so() {
    for (workers, notifies) in [("-w1", true), ("-w4", false), ("-n2 -w2", true)] {
        let place = Place::new();
        let database = database();
        if notifies {
            tell_changes(&database);
        }
        database.sql("insert into traffic_limits values ('big', 1000, '1970-01-01')");
        let topic = Broker::shared().topic("flows", 3);
        let limits = database.uri("reader");
        let line = format!("run --from {topic} --limits {limits} {WAITS} {workers}");
        let (mut run, mut feed) = (place.floodmark(&line).start(), Feed::to(&topic));
        feed.give(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
        says(&mut run, "data", &["raised big 1500"]);
        feed.give(1, packet(BEGIN_MS + 5, "10.0.0.2", "10.0.0.9", 2500));
        says(&mut run, "data", &["raised big 2500"]);
        database.sql("update traffic_limits set limit_value = 2000");
        says(&mut run, "limit_change", &["cleared big 1500"]);
        // Two edits at once: one tick says both, and nothing in between.
        database.sql(
            "begin; update traffic_limits set limit_value = 1e30;
             insert into traffic_limits values ('other', 1499, '1970-01-01'); commit",
        );
        says(
            &mut run,
            "limit_change",
            &["cleared big 2500", "raised other 1500", "raised other 2500"],
        );
        // Dated back to before the window: the version that came later holds no longer.
        let end = date(BEGIN_MS - BEGIN_MS % 300_000);
        database.sql(&format!("insert into traffic_limits values ('big', 2400, '{end}')"));
        says(&mut run, "limit_change", &["raised big 2500"]);
        // One from after its end on changes nothing for it, and one that ends the limit all.
        let after = date(BEGIN_MS + 600_000);
        database.sql(&format!("insert into traffic_limits values ('big', 1, '{after}')"));
        database.sql("delete from traffic_limits where limit_name = 'other'");
        says(&mut run, "limit_change", &["cleared other 1500", "cleared other 2500"]);
        feed.give(2, packet(BEGIN_MS + 9, "10.0.0.3", "10.0.0.9", 2450));
        says(&mut run, "data", &["raised big 2450"]);
        feed.close(3);
        // The replay reads what the table says at the end.
        let file = place.floodmark(&format!("limits export {limits}")).stdout(0);
        place.write("limits.jsonl", file);
        feed.answer(&place, "").hold(run);
    }
}

/// When a change was said.
fn as_of_ms(line: &str) -> i64 {
    let as_of: jiff::Timestamp = text(&changes(line)[0], "as_of").parse().expect("a time");
    as_of.as_millisecond()
}

#[test]
fn a_version_of_the_future_in_a_table_begins_by_itself() {
    let place = Place::new();
    let database = database();
    database.sql("insert into traffic_limits values ('now', 1, '1970-01-01')");
    let topic = Broker::shared().topic("flows", 1);
    let limits = database.uri("reader");
    let line = format!(
        "run --from {topic} --limits {limits} --window 87600h --max-gap 87600h --tick 100ms"
    );
    let (mut run, mut feed) = (place.floodmark(&line).start(), Feed::to(&topic));
    feed.give(0, packet(now_ms(), "10.0.0.1", "10.0.0.2", 1500));
    says(&mut run, "data", &["raised now 1500"]);
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
fn an_interval_of_reading_is_kept() {
    let place = Place::new();
    let database = database();
    tell_changes(&database);
    database.sql("insert into traffic_limits values ('now', 1, '1970-01-01')");
    let topic = Broker::shared().topic("flows", 1);
    let limits = database.uri("reader");
    let line = format!("run --from {topic} --limits {limits} {WAITS} --limits-refresh 3s");
    let (mut run, mut feed) = (place.floodmark(&line).start(), Feed::to(&topic));
    feed.give(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
    says(&mut run, "data", &["raised now 1500"]);
    let mut said = Vec::new();
    for value in [9999, 1, 9999] {
        database.sql(&format!("update traffic_limits set limit_value = {value}"));
        let line = run.line();
        assert_eq!(reasons(&line), ["limit_change"]);
        said.push(as_of_ms(&line));
    }
    // Two readings are so far apart, and what was written in between waited.
    let apart: Vec<i64> = said.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(apart.iter().all(|apart| *apart > 2500), "{apart:?}");
    ends(run);
}

#[test]
fn a_second_table_is_judged_beside_the_first() {
    let place = Place::new();
    let database = database();
    tell_changes(&database);
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
    let (mut run, mut feed) = (run.start(), Feed::to(&topic));
    let says = |run: &mut Live, count: usize| {
        let lines: String = (0..count).map(|_| run.line()).collect();
        let of = |change: &Object| {
            ["event", "limit_set", "limit_name"].map(|field| text(change, field)).join(" ")
        };
        let mut said: Vec<String> = changes(&lines).iter().map(of).collect();
        said.sort_unstable();
        said
    };
    feed.give(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
    assert_eq!(says(&mut run, 1), ["raised live big"]);
    feed.give(0, packet(BEGIN_MS + 1, "10.0.0.1", "10.0.0.9", 1500));
    assert_eq!(says(&mut run, 1), ["raised what_if big"]);
    database.sql("update \"Next limits\" set limit_value = 9999");
    assert_eq!(says(&mut run, 1), ["cleared what_if big"]);
    database.sql(
        "begin; delete from traffic_limits; update \"Next limits\" set limit_value = 1; commit",
    );
    assert_eq!(says(&mut run, 2), ["cleared live big", "raised what_if big"]);
    ends(run);
}

#[test]
fn an_outage_is_told_and_touches_nothing_else() {
    let postgres = Postgres::own();
    let database = postgres.database();
    database.sql(PLAIN);
    database.sql("insert into traffic_limits values ('big', 1000, '1970-01-01')");
    let place = Place::new();
    let topic = Broker::shared().topic("flows", 1);
    let limits = database.uri("reader");
    let line = format!("run --from {topic} --limits {limits} {WAITS} --http 127.0.0.1:0");
    let (mut run, mut feed) = (place.floodmark(&line).start(), Feed::to(&topic));
    let http = server(&mut run);
    feed.give(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
    says(&mut run, "data", &["raised big 1500"]);
    ask_until(http, "/readyz", |answer| answer.status == 200);
    postgres.kill();
    let told = ask_until(http, "/readyz", |answer| answer.body.contains("limits_unreadable"));
    assert_eq!(told.status, 503);
    assert!(told.body.contains("reaching the database") && told.body.contains("\"seconds\":"));
    let metric = |value: &str| {
        let line = format!("floodmark_limits_readable{value}");
        ask_until(http, "/metrics", |answer| answer.body.lines().any(|one| one == line))
    };
    metric(" 0");
    // Traffic is judged by the last limits.
    feed.give(0, packet(BEGIN_MS + 1, "10.0.0.2", "10.0.0.9", 1600));
    says(&mut run, "data", &["raised big 1600"]);
    postgres.start();
    database.sql("update traffic_limits set limit_value = 1550");
    says(&mut run, "limit_change", &["cleared big 1500"]);
    ask_until(http, "/readyz", |answer| answer.status == 200);
    metric(" 1");
    run.signal("TERM", Whom::Parent);
    run.finish()
        .expect(0)
        .says(&["the limits stay as they are: reaching the database", "can be read again, after"]);
}

#[test]
fn notifications_lost_in_a_pool_are_told_and_leave_the_run_ready() {
    let place = Place::new();
    let database = database();
    tell_changes(&database);
    database.sql("insert into traffic_limits values ('big', 1000, '1970-01-01')");
    let topic = Broker::shared().topic("flows", 1);
    let relay = Relay::to(&database, Listen::Passes, false);
    let notified = |limits: &str, value: &str| {
        let line = format!("run --from {topic} --limits {limits} {WAITS} --http 127.0.0.1:0");
        let mut run = place.floodmark(&line).start();
        let http = server(&mut run);
        let line = format!("floodmark_limits_notified {value}");
        ask_until(http, "/metrics", |answer| answer.body.lines().any(|one| one == line));
        (run, http)
    };
    let (run, _) = notified(&database.uri("reader"), "1");
    run.signal("TERM", Whom::Parent);
    run.finish().expect(0).says(&["table traffic_limits tells of its changes"]);
    let (mut run, http) = notified(&relay.uri(&database, "reader"), "0");
    let mut feed = Feed::to(&topic);
    feed.give(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
    says(&mut run, "data", &["raised big 1500"]);
    run.wait_for("is read once a second: its notifications do not arrive");
    for value in ["2000", "1000"] {
        database.sql(&format!("update traffic_limits set limit_value = {value}"));
        let event = if value == "2000" { "cleared big 1500" } else { "raised big 1500" };
        says(&mut run, "limit_change", &[event]);
    }
    ask_until(http, "/readyz", |answer| answer.status == 200);
    run.signal("TERM", Whom::Parent);
    let done = run.finish().expect(0);
    assert_eq!(done.stderr.matches("do not arrive").count(), 1, "{}", done.stderr);
    assert!(!done.stderr.contains("tells of its changes"), "{}", done.stderr);
}

#[test]
fn refused_rows_end_a_run_only_at_its_start_and_with_strict_limits() {
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
        done.says(&["--strict-limits: 1 of 2 rows of limits", "are refused"]);
    }
    // Without it, and with rows that an edit makes, it is said again at the end.
    let mut feed = Feed::to(&topic);
    feed.give(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
    for line in [&line, &strict] {
        if line == &strict {
            database.sql("delete from traffic_limits where limit_name = 'bad'");
        }
        let mut run = place.floodmark(line).start();
        says(&mut run, "data", &["raised big 1500"]);
        database.sql(
            "begin; update traffic_limits set limit_value = 2000 where limit_name = 'big';
             insert into traffic_limits values ('worse', 'NaN', '1970-01-01'); commit",
        );
        says(&mut run, "limit_change", &["cleared big 1500"]);
        database.sql("update traffic_limits set limit_value = 1000 where limit_name = 'big'");
        says(&mut run, "limit_change", &["raised big 1500"]);
        run.signal("TERM", Whom::Parent);
        let refused = if line == &strict { "1 of 2" } else { "2 of 3" };
        run.finish().expect(0).says(&[&format!("at the end {refused} rows of limits")]);
        database.sql("delete from traffic_limits where limit_name = 'worse'");
    }
}

#[test]
fn what_is_no_table_of_limits_ends_the_run_at_its_start() {
    let place = Place::new();
    let database = Postgres::shared().database();
    let topic = Broker::shared().topic("flows", 1);
    let limits = database.uri("reader");
    let run = |limits: &str, code| {
        place.floodmark(&format!("run --from {topic} --limits {limits}")).run().expect(code)
    };
    run(&limits, 66).says(&["no table traffic_limits", "limits init"]);
    database.sql("create table traffic_limits (limit_name text, limit_value int)");
    run(&limits, 78).says(&["no column effective_date"]);
    database.sql("alter table traffic_limits add effective_date date, add destinaton text");
    run(&limits, 78).says(&["\"destinaton\"", "\"destination\""]);
    run("postgres://reader@127.0.0.1:1/x", 69).says(&["Connection refused"]);
    let secret = run("postgres://reader:hunter2@127.0.0.1:1/x", 64);
    assert!(!secret.stderr.contains("hunter2"), "{}", secret.stderr);
    run("mysql://127.0.0.1/x", 64).says(&["\"mysql://\""]);
}
