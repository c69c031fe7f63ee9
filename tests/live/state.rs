//! Runs with a state: however one ends, the next one continues, nothing is lost, and nothing is published twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use floodmark::kafka::Address;

use super::kit::{LIMITS, TopicFeed, topic_of};
use super::restarts::{alerts, check, edit_limits, with_edited_limits};
use super::sinks::new_address;
use super::trimmed::delete_before;
use crate::common::broker::Broker;
use crate::common::data;
use crate::replay::fold::fold;
use crate::replay::pcap::{Packet, packet, pcap};
use crate::replay::run::{Done, Live, Place, STUCK_AFTER, SignalTarget};
use crate::replay::traffic::{self, BEGIN_MS, Random, json_lines};
use crate::serving::{get_until, server};

/// Every run begins many checkpoints, so that some are under way when it ends.
pub(super) const OPTIONS: &str = "--limits limits.jsonl --lateness 2h --create-topic \
    --checkpoint-interval 50ms";

/// A limit that every packet changes the alert of.
pub(super) const EACH: &str =
    r#"{"limit_name":"each","limit_value":1,"effective_date":"1970-01-01","per":"total"}"#;

fn line(from: &Address, to: &Address, more: &str) -> String {
    let state = if more.contains("--state") { "" } else { "--state state" };
    let idle = if more.contains("--idle-timeout") { "" } else { "--idle-timeout 1h" };
    let tick = if more.contains("--tick") { "" } else { "--tick 50ms" };
    format!("run --from {from} --to {to} {OPTIONS} {state} {idle} {tick} {more}")
}

/// Runs to the end of the topic.
fn run_to_end(place: &Place, from: &Address, to: &Address, more: &str) -> Done {
    place.floodmark(&format!("{} --until-end", line(from, to, more))).run()
}

/// A run that also prints its changes.
fn start(place: &Place, from: &Address, to: &Address, more: &str) -> Live {
    place.floodmark(&line(from, to, &format!("--to - {more}"))).start()
}

/// A directory with limits, and packets of 40 minutes in their order.
pub(super) fn made(seed: u64, count: usize) -> (Place, Vec<Packet>) {
    let random = &mut Random::new(seed);
    let span_ms = 40 * 60_000;
    let mut packets = traffic::packets(random, count, span_ms);
    packets.sort_by_key(|packet| packet.ms);
    let place = Place::new();
    let limits = json_lines(&traffic::limits(random, 12, span_ms));
    place.write("limits.jsonl", format!("{limits}{EACH}\n"));
    place.write("made.pcap", pcap(&packets));
    (place, packets)
}

/// The partition of a packet, of three.
fn partition(packet: &Packet) -> i32 {
    let pair = format!("{} {}", packet.source, packet.destination);
    (pair.bytes().map(i32::from).sum::<i32>()) % 3
}

/// Sends packets to three partitions, as a capture does: all of a pair to the same one.
pub(super) fn send(feed: &mut TopicFeed, packets: &[Packet]) {
    packets.iter().for_each(|packet| feed.send(partition(packet), *packet));
    feed.flush();
}

/// The checkpoints in a state.
pub(super) fn checkpoints(place: &Place) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(place.path("state/checkpoints")) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    paths.sort();
    paths
}

/// Waits until there is a checkpoint with this number, or a later one, of this owner.
fn wait_for_checkpoint(place: &Place, owner: u64, number: u64) {
    let name = format!("{owner:08}-{number:08}.json");
    let began = Instant::now();
    while checkpoints(place).iter().all(|path| path.file_name().is_none_or(|at| *at < *name)) {
        assert!(began.elapsed() < STUCK_AFTER, "no checkpoint {name}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn orderly_end_is_continued_without_a_message() {
    let (place, packets) = made(911, 600);
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&from);
    send(&mut feed, &packets);
    for shape in ["-w2", "-n2 -w1", "-w1"] {
        let mut run = start(&place, &from, &to, shape);
        match shape {
            "-w2" => drop(run.line()),
            _ => drop(run.wait_for("the state is restored")),
        }
        run.signal("TERM", SignalTarget::Parent);
        run.finish().expect(0);
    }
    run_to_end(&place, &from, &to, "-w3").expect(0);
    check(&place, &to, "made.pcap");
}

#[test]
fn limits_edited_while_the_run_is_down_are_changes_like_others() {
    let place = with_edited_limits();
    let from = topic_of(&place, "made.pcap --format kv", 1);
    let to = new_address("alerts");
    let mut run = start(&place, &from, &to, "");
    while fold(&alerts(&to)).len() < 60 {
        run.line();
    }
    run.signal("KILL", SignalTarget::Group);
    run.finish_killed();
    edit_limits(&place);
    run_to_end(&place, &from, &to, "").expect(0);
    check(&place, &to, "made.pcap");
    let count = |event: &str| alerts(&to).matches(&format!("\"event\":\"{event}\"")).count();
    assert_eq!((count("raised"), count("cleared")), (80, 20));
}

#[test]
fn damaged_checkpoint_is_skipped_and_the_one_before_is_used() {
    let (place, packets) = made(921, 600);
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&from);
    let (first, second) = packets.split_at(400);
    send(&mut feed, first);
    let mut run = start(&place, &from, &to, "");
    run.line();
    wait_for_checkpoint(&place, 1, 3);
    run.signal("KILL", SignalTarget::Group);
    run.finish_killed();
    let newest = checkpoints(&place).pop().expect("there are some");
    let content = fs::read(&newest).expect("it is a file");
    fs::write(&newest, &content[..content.len() / 2]).expect("it can be written");
    send(&mut feed, second);
    let name = newest.file_name().expect("it has a name").to_string_lossy().into_owned();
    run_to_end(&place, &from, &to, "")
        .expect(0)
        .assert_stderr(&["a checkpoint is damaged: the one before it is used", &name]);
    check(&place, &to, "made.pcap");
}

#[test]
fn second_run_with_the_same_state_is_rejected() {
    let (place, packets) = made(931, 100);
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    send(&mut TopicFeed::to(&from), &packets);
    let mut run = start(&place, &from, &to, "");
    run.line();
    let second = run_to_end(&place, &from, &to, "").expect(69);
    second.assert_stderr(&[
        "process ",
        " uses it: stop that run, or give this one another directory",
    ]);
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
}

/// The first run is paused while another one with the same group takes over its topic.
#[test]
fn run_whose_topic_was_taken_over_publishes_nothing_more() {
    let (place, packets) = made(941, 900);
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&from);
    let (first, second) = packets.split_at(600);
    send(&mut feed, first);
    let mut run = start(&place, &from, &to, "");
    run.line();
    // Its records of ticks before its oldest checkpoint are removed.
    wait_for_checkpoint(&place, 1, 3);
    run.signal("STOP", SignalTarget::Group);
    send(&mut feed, second);
    run_to_end(&place, &from, &to, "--state other").expect(0);
    check(&place, &to, "made.pcap");
    let before = alerts(&to);
    run.signal("CONT", SignalTarget::Group);
    run.finish().expect(69).assert_stderr(&["another run publishes as"]);
    assert_eq!(alerts(&to), before);
}

#[test]
fn state_made_with_another_input_is_rejected() {
    let (place, packets) = made(951, 100);
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    send(&mut TopicFeed::to(&from), &packets);
    let mut run = start(&place, &from, &to, "");
    run.line();
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
    let other = Broker::shared().topic("other", 3);
    let rejected = |from: &Address, more: &str, parts: &[&str]| {
        run_to_end(&place, from, &to, more).expect(69).assert_stderr(parts);
    };
    rejected(&from, "--window 1m", &["was made with --window 5m, and this run has 1m"]);
    rejected(
        &from,
        "--source 10.0.0.0/8",
        &["was made with --source any, and this run has 10.0.0.0/8"],
    );
    rejected(
        &other,
        "",
        &[&format!("was made with --from (its topic) {}", from.topic), &other.topic],
    );
}

#[test]
fn run_with_a_state_that_ended_with_its_input_is_rejected() {
    let (place, packets) = made(961, 100);
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    send(&mut TopicFeed::to(&from), &packets);
    run_to_end(&place, &from, &to, "").expect(0);
    let again = run_to_end(&place, &from, &to, "").expect(69);
    again.assert_stderr(&["has come to its end by --until-end"]);
}

/// A file is where a folder should be.
#[test]
fn run_whose_state_can_not_be_written_goes_on_and_reports_it() {
    let place = Place::new();
    place.write("limits.jsonl", format!("{LIMITS}{EACH}\n"));
    let from = Broker::shared().topic("flows", 1);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&from);
    let mut run = start(&place, &from, &to, "--http 127.0.0.1:0 --updates tick");
    let http = server(&mut run);
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 100));
    feed.flush();
    while !run.line().contains("\"packets\":1") {}
    wait_for_checkpoint(&place, 1, 1);
    let totals = place.path("state/totals");
    fs::remove_dir_all(&totals).expect("it is there");
    fs::write(&totals, "").expect("a file");
    feed.send(0, packet(BEGIN_MS + 1, "10.0.0.1", "10.0.0.2", 200));
    feed.flush();
    while !run.line().contains("\"packets\":2") {}
    let unready = get_until(http, "/readyz", |page| page.body.contains("state_not_durable"));
    assert!(unready.status == 503 && unready.body.contains("\"seconds\":"), "{}", unready.body);
    feed.send(0, packet(BEGIN_MS + 2, "10.0.0.1", "10.0.0.2", 300));
    feed.flush();
    while !run.line().contains("\"packets\":3") {}
    fs::remove_file(&totals).expect("it is there");
    get_until(http, "/readyz", |page| page.status == 200);
    run.signal("KILL", SignalTarget::Group);
    run.finish_killed();
    place.write("made.pcap", pcap(feed.sent()));
    run_to_end(&place, &from, &to, "").expect(0);
    check(&place, &to, "made.pcap");
}

#[test]
fn messages_that_are_gone_are_named_and_the_start_is_rejected() {
    let (place, packets) = made(971, 300);
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&from);
    send(&mut feed, &packets[..100]);
    let mut run = start(&place, &from, &to, "");
    run.line();
    run.signal("KILL", SignalTarget::Group);
    run.finish_killed();
    send(&mut feed, &packets[100..]);
    let count = |of: i32| packets.iter().filter(|packet| partition(packet) == of).count() as i64;
    delete_before(&from, &[0, 1, 2].map(|partition| (partition, count(partition))));
    let rejected = run_to_end(&place, &from, &to, "").expect(69);
    rejected.assert_stderr(&[
        "messages of partition",
        "are gone: the state \"state\" continues at offset",
    ]);
    let gone_on = run_to_end(&place, &from, &to, "--accept-gap").expect(0);
    gone_on.assert_stderr(&[
        "(--accept-gap): windows up to that of the first message there are partial",
    ]);
}

#[test]
fn state_is_listed_checked_pruned_and_reset() {
    let (place, packets) = made(981, 600);
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    send(&mut TopicFeed::to(&from), &packets);
    let mut run = start(&place, &from, &to, "-w2");
    run.line();
    wait_for_checkpoint(&place, 1, 3);
    let in_use = place.floodmark("state prune state").run().expect(69);
    in_use.assert_stderr(&["uses the state \"state\": stop that run first"]);
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
    let listed = place.floodmark("state list state").stdout(0);
    for part in
        ["a state of kind run, format 2", "00000001-0000", "--lateness", &from.topic, "next offset"]
    {
        assert!(listed.contains(part), "{listed}");
    }
    let lines = place.floodmark("state list state --json").stdout(0);
    let newest: serde_json::Value =
        serde_json::from_str(lines.lines().next().expect("a checkpoint")).expect("JSON");
    assert!(
        newest["totals"].as_u64() > Some(0) && newest["offsets"]["2"].as_u64() > Some(0),
        "{newest}"
    );
    let sound = place.floodmark("state check state").stdout(0);
    assert_eq!(sound.matches(": sound").count(), 2, "{sound}");
    assert!(place.floodmark("state prune state").stdout(0).contains("is left"));
    assert_eq!(checkpoints(&place).len(), 1);
    let part = fs::read_dir(place.path("state/totals")).expect("a folder").next().expect("a file");
    let path = part.expect("an entry").path();
    let mut content = fs::read(&path).expect("a file");
    content[10] ^= 1;
    fs::write(&path, &content).expect("it can be written");
    let damaged = place.floodmark("state check state").stdout(65);
    assert!(
        damaged.contains("the checksum of totals/") && damaged.contains("is wrong"),
        "{damaged}"
    );
    assert!(place.floodmark("state reset state").stdout(0).contains("starts over"));
    let gone = place.floodmark("state list state").run().expect(66);
    gone.assert_stderr(&["is no state: it has no state.json"]);
}

/// By the clock of the earlier run, all records since its end would be of the future.
#[test]
fn records_that_came_while_the_run_was_down_are_counted() {
    let place = Place::new();
    place.write("limits.jsonl", format!("{LIMITS}{EACH}\n"));
    let from = Broker::shared().topic("flows", 1);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&from);
    let now = crate::common::now_ms();
    feed.send(0, packet(now, "10.0.0.1", "10.0.0.2", 100));
    feed.flush();
    let mut run = start(&place, &from, &to, "--max-ahead 0s --tick 1s");
    run.line();
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
    // Records have times of the clock: it must have passed what the last tick took for the future.
    while crate::common::now_ms() < now + 3000 {
        std::thread::sleep(Duration::from_millis(50));
    }
    let now = crate::common::now_ms();
    (0..50).for_each(|_| feed.send(0, packet(now, "10.0.0.1", "10.0.0.2", 300)));
    feed.flush();
    place.write("made.pcap", pcap(feed.sent()));
    run_to_end(&place, &from, &to, "--max-ahead 0s --tick 1s").expect(0);
    check(&place, &to, "made.pcap");
}

#[test]
fn state_whose_checkpoints_are_all_damaged_is_rejected() {
    let (place, packets) = made(991, 300);
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    send(&mut TopicFeed::to(&from), &packets);
    let mut run = start(&place, &from, &to, "");
    run.line();
    wait_for_checkpoint(&place, 1, 3);
    run.signal("KILL", SignalTarget::Group);
    run.finish_killed();
    for path in checkpoints(&place) {
        fs::write(&path, "{}").expect("it can be written");
    }
    let rejected = run_to_end(&place, &from, &to, "").expect(69);
    rejected.assert_stderr(&["all checkpoints are damaged"]);
}

/// Copies a directory.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it can be created");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("it can be copied")),
        }
    }
}

#[test]
fn state_of_the_format_before_is_rejected() {
    let place = Place::new();
    copy(&data().join("state-1"), &place.path("state"));
    let from = Broker::shared().topic("keep", 2);
    place.write("limits.jsonl", LIMITS);
    let rejected = run_to_end(&place, &from, &new_address("alerts"), "").expect(69);
    let why = "it has format 1, and this version reads format 2";
    rejected.assert_stderr(&[why]);
    let listed = place.floodmark("state list state").stdout(0);
    assert!(listed.contains(why), "{listed}");
}

/// `tests/data/state-2` was written by the first version with this format.
#[test]
fn state_of_the_second_format_is_read() {
    let place = Place::new();
    copy(&data().join("state-2"), &place.path("state"));
    let sound = place.floodmark("state check state").stdout(0);
    assert_eq!(sound.matches("9 files, 549 totals: sound").count(), 2, "{sound}");
    let listed = place.floodmark("state list state --json").stdout(0);
    let newest: serde_json::Value =
        serde_json::from_str(listed.lines().next().expect("a checkpoint")).expect("JSON");
    let expected = [
        ("/format", 2.into()),
        ("/tick", 1_795_803_288_731_u64.into()),
        ("/windows", 4.into()),
        ("/limits", 3.into()),
        ("/offsets/1", 2148.into()),
        ("/options/--window", "5m".into()),
        ("/rules/--lateness", "2h".into()),
        ("/rules/--input-timezone", "UTC".into()),
    ];
    for (field, value) in expected {
        assert_eq!(newest.pointer(field), Some::<&serde_json::Value>(&value), "{field}");
    }
    // A run reads it, and finds that the topic is another one.
    let from = Broker::shared().topic("keep", 2);
    place.write("limits.jsonl", LIMITS);
    let rejected = run_to_end(&place, &from, &new_address("alerts"), "").expect(69);
    rejected.assert_stderr(&["was made with --from (its topic) keep, and this run has"]);
}
