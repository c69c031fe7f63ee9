//! A second set of limits in a live run: its settled violations equal those of a replay, topics do not receive its
//! changes, and edits of it take effect.

use std::collections::BTreeMap;
use std::fs;

use super::kit::{AlertTopic, ReplayResult, TopicFeed, topic_of};
use crate::common::broker::{Broker, random_name, read_all};
use crate::replay::fold::{Object, assert_same, changes, objects, text};
use crate::replay::pcap::{packet, pcap};
use crate::replay::run::{Live, Place, SignalTarget};
use crate::replay::sets::{changes_of_set, in_one_set, standing};
use crate::replay::traffic::{self, BEGIN_MS, Random, json_lines};

const SETS: &str = "--limits limits.jsonl --what-if other.jsonl";

/// Returns a directory with a random capture, and two sets of limits with the same names.
fn made(seed: u64) -> Place {
    println!("seed {seed}");
    let random = &mut Random::new(seed);
    let span_ms = 40 * 60_000;
    let place = Place::new();
    place.write("made.pcap", pcap(&traffic::packets(random, 800, span_ms)));
    place.write("limits.jsonl", json_lines(&traffic::limits(random, 12, span_ms)));
    place.write("other.jsonl", json_lines(&traffic::limits(random, 12, span_ms)));
    place
}

/// Replays the capture with both sets.
fn replayed(place: &Place) -> ReplayResult {
    ReplayResult::of(place, "made.pcap --what-if other.jsonl")
}

const SETTLES: &str = "--idle-timeout 1s --lateness 2h --tick 200ms";

#[test]
fn both_sets_settle_like_a_replay_and_topics_receive_only_the_live_one() {
    let place = made(951);
    let replayed = replayed(&place);
    let topic = topic_of(&place, "made.pcap --format kv", 4);
    for workers in ["-w1", "-w2", "-n2"] {
        let alerts = Broker::shared().address(&random_name("alerts"));
        let _ = fs::remove_file(place.path("alerts.jsonl"));
        let line = format!(
            "run --from {topic} {SETS} {SETTLES} {workers} --to - --to alerts.jsonl --to {alerts} --create-topic"
        );
        let done = replayed.check_run(place.floodmark(&line).start());
        assert_same(&done.stdout, &place.read("alerts.jsonl"), || "standard output, file".into());
        let on_topic: String =
            read_all(&alerts).iter().map(|message| message.text().to_owned() + "\n").collect();
        assert!(changes(&on_topic).iter().all(|change| change["limit_set"] == "live"));
        let live = changes_of_set(&done.stdout, "live");
        assert_same(&live, &changes_of_set(&on_topic, "live"), || "standard output, topic".into());
        assert!(live.lines().count() < done.stdout.lines().count());
    }
}

/// Returns violations by id, without the fields that may differ between runs.
fn by_id<'a>(violations: impl Iterator<Item = &'a Object>) -> BTreeMap<String, Object> {
    let violation = |object: &Object| {
        let mut object = object.clone();
        for field in ["event", "reason", "as_of"] {
            object.remove(field).expect("every change has it");
        }
        (text(&object, "id").to_owned(), object)
    };
    violations.map(violation).collect()
}

#[test]
fn only_difference_prints_the_difference_and_the_topic_gets_every_live_change() {
    let place = made(952);
    let all = place.floodmark(&format!("replay made.pcap {SETS}")).stdout(0);
    let differs = by_id(in_one_set(&standing(&all)));
    let live = ReplayResult::of(&place, "made.pcap");
    for workers in ["-w2", "-n2 -w2"] {
        let topic = topic_of(&place, "made.pcap --format json", 3);
        let mut alerts = AlertTopic::new(Broker::shared());
        // With the short retention, most windows retire before the end.
        let line = format!(
            "run --from {topic} {SETS} {SETTLES} --retention 1m --only-difference --to - --to {} \
             {workers}",
            alerts.address
        );
        let mut run = place.floodmark(&line).start();
        let mut waits = differs.clone();
        while !waits.is_empty() {
            let change = &objects(&run.line())[0];
            if change["settled"] == true && change["event"] != "cleared" {
                waits.remove(text(change, "id"));
            }
        }
        alerts.wait_for(&live);
        run.signal("TERM", SignalTarget::Parent);
        let done = run.finish().expect(0);
        let shown = by_id(in_one_set(&standing(&done.stdout)));
        let lines = |violations: &BTreeMap<String, Object>| -> String {
            violations.values().map(|object| format!("{object:?}\n")).collect()
        };
        assert_same(&lines(&differs), &lines(&shown), || {
            format!(
                "only in the replay (here), or only in the run (there)\n$ {}",
                done.command_line()
            )
        });
        let stands = alerts.standing().into_iter().map(|(id, mut violation)| {
            assert_eq!(violation.remove("limit_set").expect("a set"), "live");
            (id, violation)
        });
        live.assert_stands(stands.collect(), || format!("the topic\n$ {}", done.command_line()));
    }
}

fn limit(name: &str, value: u64) -> String {
    format!(
        "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\"effective_date\":\"1970-01-01\"}}\n"
    )
}

/// Replaces a file by renaming, so that no reader sees half of it.
fn replace(place: &Place, name: &str, text: &str) {
    place.write("new", text);
    fs::rename(place.path("new"), place.path(name)).expect("it is moved");
}

/// Asserts the next changes, sorted, as event, reason, set, limit and amount.
fn assert_next_changes(run: &mut Live, expected: &[&str]) {
    let lines: String = expected.iter().map(|_| run.line()).collect();
    let mut emitted: Vec<String> = changes(&lines)
        .iter()
        .map(|change| {
            let [event, reason, set, name] =
                ["event", "reason", "limit_set", "limit_name"].map(|field| text(change, field));
            format!("{event} {reason} {set} {name} {}", change["amount"])
        })
        .collect();
    emitted.sort();
    assert_eq!(emitted, expected);
}

#[test]
fn second_set_is_followed_like_the_first_one() {
    for workers in ["-w1", "-n2 -w2"] {
        let place = Place::new();
        place.write("limits.jsonl", limit("big", 1000));
        place.write("other.jsonl", limit("big", 2000));
        let topic = Broker::shared().topic("flows", 2);
        let mut alerts = AlertTopic::new(Broker::shared());
        let line = format!(
            "run --from {topic} {SETS} --idle-timeout 1h --lateness 0s --tick 50ms --to - --to {} \
             {workers}",
            alerts.address
        );
        let (mut run, mut feed) = (place.floodmark(&line).start(), TopicFeed::to(&topic));
        feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
        assert_next_changes(&mut run, &["raised data live big 1500"]);
        feed.send(1, packet(BEGIN_MS + 5, "10.0.0.2", "10.0.0.9", 2500));
        assert_next_changes(
            &mut run,
            &["raised data live big 2500", "raised data what_if big 2500"],
        );
        // An edit of one set emits changes of that set only.
        replace(&place, "other.jsonl", &(limit("big", 1200) + &limit("new", 2400)));
        assert_next_changes(
            &mut run,
            &["raised limit_change what_if big 1500", "raised limit_change what_if new 2500"],
        );
        replace(&place, "other.jsonl", "{\"limit_name\":");
        run.wait_for("the limits stay as they are");
        replace(&place, "limits.jsonl", &limit("big", 1600));
        assert_next_changes(&mut run, &["cleared limit_change live big 1500"]);
        replace(&place, "other.jsonl", "");
        assert_next_changes(
            &mut run,
            &[
                "cleared limit_change what_if big 1500",
                "cleared limit_change what_if big 2500",
                "cleared limit_change what_if new 2500",
            ],
        );
        replace(&place, "other.jsonl", &limit("big", 2499));
        assert_next_changes(&mut run, &["raised limit_change what_if big 2500"]);
        feed.close(2);
        let done = feed.replay(&place, "--what-if other.jsonl").check_run(run);
        // Wait for the last change of the first set.
        alerts.wait_until(|change| change["settled"] == true);
        let on_topic = read_all(&alerts.address);
        let count = changes(&changes_of_set(&done.stdout, "live")).len();
        assert_eq!(on_topic.len(), count);
        assert!(on_topic.iter().all(|message| message.text().contains("\"limit_set\":\"live\"")));
    }
}
