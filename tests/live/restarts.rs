//! Restarts without a state: a topic of alerts gets only what differs from the alerts of the run before.

use floodmark::kafka::Address;

use super::equality::made;
use super::kit::{LIMITS, ReplayResult, TopicFeed, capture, topic_of};
use super::sinks::new_address;
use crate::common::broker::{Broker, read_all};
use crate::replay::fold::{Object, fold, text};
use crate::replay::pcap::{packet, pcap};
use crate::replay::run::{Done, Place, SignalTarget};
use crate::replay::traffic::{self, BEGIN_MS, Random};

const OPTIONS: &str = "--limits limits.jsonl --lateness 2h --create-topic";

fn run(place: &Place, from: &Address, to: &Address, more: &str) -> Done {
    place.floodmark(&format!("run --from {from} --to {to} {OPTIONS} {more}")).run().expect(0)
}

/// Returns the alerts of a topic as lines, those of an id in their order.
pub(super) fn alerts(topic: &Address) -> String {
    read_all(topic).iter().map(|message| message.text().to_owned() + "\n").collect()
}

/// Asserts that a topic holds the violations of a replay, and that no alert repeats the one before of its id.
pub(super) fn check(place: &Place, topic: &Address, what: &str) {
    let alerts = alerts(topic);
    let mut last = std::collections::BTreeMap::<String, Object>::new();
    for line in alerts.lines() {
        let mut alert: Object = serde_json::from_str(line).expect("an alert is JSON");
        alert.remove("as_of");
        let before = last.insert(text(&alert, "id").to_owned(), alert.clone());
        assert_ne!(before, Some(alert), "repeated");
    }
    ReplayResult::whole(place, what).assert_stands(fold(&alerts), || alerts.clone());
}

#[test]
fn restarted_run_publishes_nothing_that_its_topic_holds() {
    let place = made(741);
    let topic = topic_of(&place, "made.pcap --format kv", 3);
    let to = new_address("alerts");
    run(&place, &topic, &to, "--until-end -w2");
    check(&place, &to, "made.pcap");
    let before = alerts(&to);
    for workers in ["-w1", "-n2 -w2"] {
        run(&place, &topic, &to, &format!("--until-end {workers}")).assert_stderr(&["caught up"]);
        assert_eq!(alerts(&to), before);
    }
    // With a short retention, windows leave memory while the run still catches up.
    run(&place, &topic, &to, "--until-end --retention 1s");
    assert_eq!(alerts(&to), before);
}

/// The run before was killed amid its input.
#[test]
fn killed_run_is_completed_by_the_next_one() {
    let place = made(743);
    let random = &mut Random::new(744);
    let packets = traffic::packets(random, 3000, 40 * 60_000);
    let (first, second) = packets.split_at(1000);
    place.write("first.pcap", pcap(first));
    place.write("second.pcap", pcap(second));
    place.write("all.pcap", pcap(&packets));
    let topic = topic_of(&place, "first.pcap --format kv", 2);
    let to = new_address("alerts");
    let line = format!("run --from {topic} --to {to} --to - {OPTIONS}");
    let mut killed = place.floodmark(&line).start();
    killed.line();
    killed.signal("KILL", SignalTarget::Parent);
    killed.finish_killed();
    capture(&place, "second.pcap --format kv", &topic);
    run(&place, &topic, &to, "--until-end");
    check(&place, &to, "all.pcap");
}

fn limit(name: &str, value: u64) -> String {
    format!(
        "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\"effective_date\":\"1970-01-01\"}}\n"
    )
}

/// A directory with 20 packets of different pairs, and three limits that each of them breaks.
pub(super) fn with_edited_limits() -> Place {
    let place = Place::new();
    let packets: Vec<_> = (0..20)
        .map(|number| {
            packet(BEGIN_MS + number * 60_000, &format!("10.0.0.{number}"), "10.0.1.1", 1000)
        })
        .collect();
    place.write("made.pcap", pcap(&packets));
    place.write(
        "limits.jsonl",
        [limit("gone", 500), limit("moved", 600), limit("same", 700)].concat(),
    );
    place
}

/// Removes one of these limits, moves another, and adds one.
pub(super) fn edit_limits(place: &Place) {
    place.write(
        "limits.jsonl",
        [limit("moved", 650), limit("new", 800), limit("same", 700)].concat(),
    );
}

#[test]
fn limits_edited_while_the_run_is_down_change_its_alerts() {
    let place = with_edited_limits();
    let topic = topic_of(&place, "made.pcap --format kv", 1);
    let to = new_address("alerts");
    run(&place, &topic, &to, "--until-end");
    assert_eq!(fold(&alerts(&to)).len(), 60);
    edit_limits(&place);
    run(&place, &topic, &to, "--until-end");
    check(&place, &to, "made.pcap");
    let count = |event: &str| alerts(&to).matches(&format!("\"event\":\"{event}\"")).count();
    // The first run raises 60, and updates each when its window settles. The second one raises 20 of the new limit, and
    // updates these and those of the limit that was moved.
    assert_eq!((count("raised"), count("updated"), count("cleared")), (80, 100, 20));
}

/// Alerts of other runs, and those of versions without these headers, belong to nobody.
#[test]
fn alerts_of_other_runs_are_left_alone() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topics = [0, 1].map(|number| {
        place.write(
            "made.pcap",
            pcap(&[packet(BEGIN_MS, &format!("10.0.{number}.1"), "10.0.9.9", 30_000)]),
        );
        topic_of(&place, "made.pcap --format kv", 1)
    });
    let to = new_address("alerts");
    run(&place, &topics[0], &to, "--until-end --group one");
    let before = alerts(&to);
    assert!(!before.is_empty());
    for other in [
        format!("--from {} --group two", topics[0]),
        format!("--from {} --group one", topics[1]),
        format!("--from {} --group one --window 1m", topics[0]),
    ] {
        let line = format!("run {other} --to {to} {OPTIONS} --until-end");
        let done = place.floodmark(&line).run().expect(0);
        assert!(!done.stderr.contains("before a restart"), "{}", done.stderr);
    }
    let after = alerts(&to);
    assert!(after.starts_with(&before) && !after.contains("\"event\":\"cleared\""), "{after}");
}

/// Silence has closed the last window before the restart; after it, the window is open until the partition is idle again.
#[test]
fn alerts_of_a_window_that_is_open_again_are_not_cleared() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topic = Broker::shared().topic("flows", 1);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 100));
    feed.flush();
    let line = format!("run --from {topic} --to {to} --to - {OPTIONS} --idle-timeout 1s");
    for _ in 0..2 {
        let mut run = place.floodmark(&line).start();
        // A lower bound judges the window when it is closed.
        while !run.line().contains("\"min-destination\"") {}
        run.signal("TERM", SignalTarget::Parent);
        run.finish().expect(0);
    }
    let alerts = alerts(&to);
    assert!(!alerts.contains("\"event\":\"cleared\""), "{alerts}");
    assert_eq!(alerts.matches("\"min-destination\"").count(), 1, "{alerts}");
}

/// The amounts of a window that is not read from its start would be too small.
#[test]
fn windows_that_are_not_read_from_their_start_keep_their_alerts() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topic = Broker::shared().topic("flows", 1);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 30_000));
    feed.flush();
    run(&place, &topic, &to, "--until-end");
    let before = alerts(&to);
    assert!(before.contains("\"amount\":30000"), "{before}");
    let line = format!("run --from {topic} --to {to} --to - {OPTIONS} --from-offset latest");
    let mut run = place.floodmark(&line).start();
    run.wait_for("reading a partition");
    feed.send(0, packet(BEGIN_MS + 1000, "10.0.0.1", "10.0.0.2", 25_000));
    feed.flush();
    while !run.line().contains("\"amount\":25000") {}
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
    assert_eq!(alerts(&to), before);
}

/// The limit is the same, so the records must be fewer: here, since they are filtered.
#[test]
fn violation_is_not_cleared_while_the_version_that_judged_it_is_in_force() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    place.write("made.pcap", pcap(&[packet(BEGIN_MS, "10.0.0.1", "10.0.9.9", 30_000)]));
    let topic = topic_of(&place, "made.pcap --format kv", 1);
    let to = new_address("alerts");
    run(&place, &topic, &to, "--until-end");
    let before = alerts(&to);
    run(&place, &topic, &to, "--until-end --source 10.9.0.0/16").assert_stderr(&["caught up"]);
    let after = alerts(&to);
    assert!(after.starts_with(&before), "{after}");
    assert!(before.contains("\"max-pair\"") && !after.contains("\"event\":\"cleared\""), "{after}");
}
