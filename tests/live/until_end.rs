//! `run --until-end`: a run that judges what the topic holds, settles all windows, and stops.

use super::equality::made;
use super::kit::{LIMITS, ReplayResult, TopicFeed, assert_no_late_drops, topic_of};
use super::sinks::{csv, new_address};
use crate::common::broker::{Broker, Transaction};
use crate::replay::fold::{assert_same, fold};
use crate::replay::pcap::packet;
use crate::replay::run::{Place, SignalTarget};

const OPTIONS: &str = "--limits limits.jsonl --lateness 2h --until-end";

/// 2026-01-01T00:00:00Z.
const START_MS: u64 = 1_767_225_600_000;

/// The idle timeout of half a minute would outlast the test: the end of the topic, and not silence, settles the windows.
#[test]
fn run_until_the_end_settles_all_windows_like_a_replay() {
    let place = made(731);
    let replayed = ReplayResult::whole(&place, "made.pcap");
    for (format, partitions) in [("--format kv", 3), ("--format packed", 1)] {
        let topic = topic_of(&place, &format!("made.pcap {format}"), partitions);
        for workers in ["-w1", "-w3", "-n2 -w2"] {
            let line = format!("run --from {topic} {OPTIONS} {workers}");
            let done = place.floodmark(&line).run().expect(0);
            replayed.assert_stands(fold(&done.stdout), || {
                format!("{}$ {}", done.stderr, done.command_line())
            });
            assert_no_late_drops(&done);
        }
    }
}

#[test]
fn run_until_the_end_publishes_the_totals_of_all_windows() {
    let place = made(733);
    place.floodmark("replay made.pcap --limits limits.jsonl --totals totals.csv").run().expect(0);
    let topic = topic_of(&place, "made.pcap --format kv", 2);
    let totals = new_address("totals");
    let line = format!("run --from {topic} {OPTIONS} --publish {totals} --create-topic");
    place.floodmark(&line).run().expect(0);
    assert_same(&place.read("totals.csv"), &csv(&totals), || "totals: replay, run".into());
}

#[test]
fn run_until_the_end_of_an_empty_topic_stops_at_once() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topic = Broker::shared().topic("flows", 3);
    for workers in ["-w1", "-n2 -w2"] {
        let line = format!("run --from {topic} {OPTIONS} {workers}");
        assert_eq!(place.floodmark(&line).run().expect(0).stdout, "");
    }
}

/// The windows of records before the transaction settle all the same.
#[test]
fn run_until_the_end_fails_if_an_overdue_transaction_withholds_messages() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topic = Broker::shared().topic("flows", 2);
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(START_MS, "192.0.2.1", "192.0.2.2", 100));
    feed.flush();
    let transaction = Transaction::begin(&topic);
    feed.send_in(&transaction, 0, packet(START_MS + 1, "192.0.2.1", "192.0.2.2", 100));
    let options = "--max-transaction 1s --max-skew 1s";
    let line = format!("run --from {topic} {OPTIONS} {options}");
    let done = place.floodmark(&line).run().expect(1);
    assert!(done.stdout.contains("\"settled\":true"), "{}", done.stdout);
    done.assert_stderr(&[
        "1 messages are not judged",
        "--max-transaction",
        "\"message\":\"first record of a partition\",\"partition\":0,\"offset\":0,\
         \"time\":\"2026-01-01T00:00:00Z\"",
    ]);
    let skip = format!("{line} --skip-open-transactions");
    place.floodmark(&skip).run().expect(0).assert_stderr(&["1 messages are not judged"]);
    // Once the transaction has ended, its message is judged.
    let mut run = place.floodmark(&format!("run --from {topic} {OPTIONS}")).start();
    transaction.commit();
    let violations = loop {
        let line = run.line();
        if line.contains("\"packets\":2,") && line.contains("\"settled\":true") {
            break line;
        }
    };
    assert!(violations.contains("\"limit_name\""), "{violations}");
    run.finish().expect(0);
}

/// The partition with the transaction holds event time, for which the other one waits by --max-skew.
#[test]
fn run_until_the_end_stops_though_a_partition_waits_for_an_overdue_transaction() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    for workers in ["-w1", "-w2"] {
        let topic = Broker::shared().topic("flows", 2);
        let mut feed = TopicFeed::to(&topic);
        feed.send(0, packet(START_MS, "192.0.2.1", "192.0.2.2", 100));
        for number in 0..20 {
            feed.send(1, packet(START_MS + number * 60_000, "192.0.2.3", "192.0.2.4", 100));
        }
        feed.flush();
        let transaction = Transaction::begin(&topic);
        feed.send_in(&transaction, 0, packet(START_MS + 1, "192.0.2.1", "192.0.2.2", 100));
        let options = "--max-transaction 1s --max-skew 1s --tick 200ms";
        let line = format!("run --from {topic} {OPTIONS} {options} {workers}");
        let done = place.floodmark(&line).run().expect(1);
        done.assert_stderr(&["messages are not judged", "--max-transaction"]);
    }
}

/// A run that shuts down before it has read everything settles nothing.
#[test]
fn interrupted_run_until_the_end_leaves_windows_unsettled() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topic = Broker::shared().topic("flows", 1);
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(START_MS, "192.0.2.1", "192.0.2.2", 100));
    feed.flush();
    let transaction = Transaction::begin(&topic);
    feed.send_in(&transaction, 0, packet(START_MS + 1, "192.0.2.1", "192.0.2.2", 100));
    let mut run = place.floodmark(&format!("run --from {topic} {OPTIONS}")).start();
    run.line();
    run.signal("TERM", SignalTarget::Parent);
    let done = run.finish().expect(0);
    assert!(!done.stdout.contains("\"settled\":true"), "{}", done.stdout);
    transaction.commit();
}
