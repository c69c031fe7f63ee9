//! All sinks receive the same changes, totals equal those of a replay, and edits of limits take effect.

use std::fs;

use floodmark::kafka::topics;
use floodmark::kafka::{Address, ClientOptions};
use serde_json::Value;

use super::kit::{LIMITS, ReplayResult, TopicFeed, topic_of};
use super::streams::wait_for_file;
use crate::common::broker::{Broker, random_name, read_all};
use crate::common::now_ms;
use crate::replay::fold::{Object, assert_same, changes, events, text};
use crate::replay::pcap::{packet, pcap};
use crate::replay::run::{Live, Place, SignalTarget};
use crate::replay::traffic::{self, BEGIN_MS, Random, date, json_lines};

/// Options for old packets: only later packets settle a window.
pub(super) const WAITS: &str = "--idle-timeout 1h --lateness 0s --tick 50ms";

pub(super) fn new_address(prefix: &str) -> Address {
    Broker::shared().address(&random_name(prefix))
}

/// Returns the totals of a topic as the CSV of a replay.
pub(super) fn csv(address: &Address) -> String {
    let row = |object: &Object| {
        let [start, source, destination] =
            ["window_start", "source", "destination"].map(|field| text(object, field).to_owned());
        ((start, source, destination), object["bytes"].clone(), object["packets"].clone())
    };
    let mut rows = Vec::new();
    for message in read_all(address) {
        let object: Object = serde_json::from_str(message.text()).expect("a total is JSON");
        let (key, bytes, packets) = row(&object);
        let expected = format!("{} {} {}", key.0, key.1, key.2);
        assert_eq!(message.key.as_deref(), Some(expected.as_bytes()));
        rows.push((key, bytes, packets));
    }
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    let header = "window_start,source,destination,bytes,packets\n".to_owned();
    let line = |((start, source, destination), bytes, packets): (
        (String, String, String),
        Value,
        Value,
    )| { format!("{start},{source},{destination},{bytes},{packets}\n") };
    std::iter::once(header).chain(rows.into_iter().map(line)).collect()
}

#[test]
fn all_sinks_receive_the_same_changes_and_totals_are_published() {
    let random = &mut Random::new(711);
    let span_ms = 40 * 60_000;
    let place = Place::new();
    place.write("made.pcap", pcap(&traffic::packets(random, 800, span_ms)));
    place.write("limits.jsonl", json_lines(&traffic::limits(random, 12, span_ms)));
    let replayed = ReplayResult::of(&place, "made.pcap --totals totals.csv");
    let topic = topic_of(&place, "made.pcap --format kv", 4);
    for workers in ["-w1", "-n2 -w2"] {
        let (alerts, totals) = (new_address("alerts"), new_address("totals"));
        let _ = fs::remove_file(place.path("alerts.jsonl"));
        let line = format!(
            "run --from {topic} --limits limits.jsonl --idle-timeout 1s --lateness 2h --to - \
             --to alerts.jsonl --to {alerts} --publish {totals} --create-topic {workers}"
        );
        let done = replayed.check_run(place.floodmark(&line).start());
        assert_same(&done.stdout, &place.read("alerts.jsonl"), || "standard output, file".into());
        let lines: String =
            read_all(&alerts).iter().map(|message| message.text().to_owned() + "\n").collect();
        assert_same(&done.stdout, &lines, || "standard output, topic".into());
        for message in read_all(&alerts) {
            let change: Object = serde_json::from_str(message.text()).expect("JSON");
            assert_eq!(message.key.as_deref(), Some(text(&change, "id").as_bytes()));
        }
        let config = topics::describe(&alerts, &ClientOptions::default()).expect("described");
        assert!(config.compacts && config.deletes);
        assert_same(&place.read("totals.csv"), &csv(&totals), || "totals: replay, run".into());
    }
}

/// Starts a run over a topic of one partition, and returns it with the topic's feed.
fn started(place: &Place, options: &str) -> (Live, TopicFeed) {
    let topic = Broker::shared().topic("flows", 1);
    let line = format!("run --from {topic} --limits limits.jsonl {options}");
    (place.floodmark(&line).start(), TopicFeed::to(&topic))
}

#[test]
fn moved_output_file_is_created_again() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let (mut run, mut feed) = started(&place, &format!("{WAITS} --to alerts.jsonl --to -"));
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 30_000));
    let first = [run.line(), run.line()].concat();
    assert_eq!(sorted(&first), ["raised max 30000", "raised max-pair 30000"]);
    wait_for_file(&place, "alerts.jsonl", |written| written == first);
    fs::rename(place.path("alerts.jsonl"), place.path("alerts.1")).expect("moved");
    feed.send(0, packet(BEGIN_MS + 1, "10.0.0.3", "10.0.0.2", 31_000));
    // The packet breaks the limits of its pair and of its host.
    let second = [run.line(), run.line()].concat();
    assert_eq!(sorted(&second), ["raised max-host 61000", "raised max-pair 31000"]);
    wait_for_file(&place, "alerts.jsonl", |written| written == second);
    assert_eq!(place.read("alerts.1"), first);
    feed.close(1);
    feed.replay(&place, "").check_run(run);
}

fn limit(name: &str, value: u64, more: &str) -> String {
    format!(
        "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\"effective_date\":\"1970-01-01\"{more}}}\n"
    )
}

pub(super) fn sorted(lines: &str) -> Vec<String> {
    let mut events = events(lines);
    events.sort();
    events
}

pub(super) fn reasons(lines: &str) -> Vec<String> {
    changes(lines).iter().map(|change| text(change, "reason").to_owned()).collect()
}

#[test]
fn limit_edit_does_not_wait_for_the_next_due_tick() {
    let place = Place::new();
    place.write("limits.jsonl", limit("big", 1000, ""));
    let (mut run, mut feed) = started(&place, "--idle-timeout 1h --tick 8s -w2");
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
    let as_of = |line: &str| -> jiff::Timestamp {
        text(&changes(line)[0], "as_of").parse().expect("a time")
    };
    // The change shows that a tick has just ended.
    let raised = run.line();
    place.write("limits.jsonl", limit("big", 2000, ""));
    let cleared = run.line();
    assert_eq!(events(&(raised.clone() + &cleared)), ["raised big 1500", "cleared big 1500"]);
    let took = as_of(&cleared).duration_since(as_of(&raised));
    assert!(took.as_secs() < 7, "{took:?}");
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
}

#[test]
fn limit_edits_are_judged_retroactively() {
    for workers in ["-w1", "-w4", "-n2 -w2"] {
        let place = Place::new();
        place.write("limits.jsonl", limit("big", 1000, ""));
        let topic = Broker::shared().topic("flows", 3);
        let line = format!("run --from {topic} --limits limits.jsonl {WAITS} {workers}");
        let (mut run, mut feed) = (place.floodmark(&line).start(), TopicFeed::to(&topic));
        let assert_next_changes = |run: &mut Live,
                                   count: usize,
                                   reason: &str,
                                   expected: &[&str]| {
            let lines: String = (0..count).map(|_| run.line()).collect();
            assert!(reasons(&lines).iter().all(|emitted| emitted == reason), "{reason}: {lines}");
            assert_eq!(sorted(&lines), expected, "{workers}");
        };
        feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.9", 1500));
        assert_next_changes(&mut run, 1, "data", &["raised big 1500"]);
        feed.send(1, packet(BEGIN_MS + 5, "10.0.0.2", "10.0.0.9", 2500));
        assert_next_changes(&mut run, 1, "data", &["raised big 2500"]);
        // First a higher value, then a second limit on packets, later a lower value.
        place.write("limits.jsonl", limit("big", 2000, ""));
        assert_next_changes(&mut run, 1, "limit_change", &["cleared big 1500"]);
        let packets = limit("many", 1, ",\"metric\":\"packets\",\"per\":\"host\"");
        place.write("limits.jsonl", limit("big", 2000, "") + &packets);
        assert_next_changes(&mut run, 1, "limit_change", &["raised many 2"]);
        // A truncated file changes nothing.
        place.write("limits.jsonl", "{\"limit_name\":");
        run.wait_for("the limits stay as they are");
        place.write("limits.jsonl", limit("big", 400, "") + &packets);
        assert_next_changes(&mut run, 1, "limit_change", &["raised big 1500"]);
        feed.send(2, packet(BEGIN_MS + 9, "10.0.0.3", "10.0.0.9", 450));
        assert_next_changes(&mut run, 1, "data", &["raised big 450"]);
        feed.close(3);
        feed.replay(&place, "").check_run(run);
    }
}

#[test]
fn future_version_takes_effect_at_its_date() {
    let place = Place::new();
    let begins = now_ms() + 3000;
    let version = |value: u64, date: &str| {
        format!(
            "{{\"limit_name\":\"big\",\"limit_value\":{value},\"effective_date\":\"{date}\"}}\n"
        )
    };
    place.write("limits.jsonl", version(9999, "1970-01-01") + &version(100, &date(begins)));
    // The window is wide enough to be open at that date.
    let (mut run, mut feed) = started(&place, "--window 87600h --max-gap 87600h --tick 100ms");
    feed.send(0, packet(now_ms(), "10.0.0.1", "10.0.0.2", 1500));
    let line = run.line();
    assert!(now_ms() >= begins);
    assert_eq!(
        (events(&line), reasons(&line)),
        (vec!["raised big 1500".into()], vec!["schedule".into()])
    );
    run.signal("INT", SignalTarget::Parent);
    run.finish().expect(0);
}
