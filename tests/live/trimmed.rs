//! Topics whose first records retention has deleted: windows up to their first remaining records are partial.

use std::collections::BTreeSet;

use rdkafka::admin::AdminOptions;
use rdkafka::{Offset, TopicPartitionList};

use super::kit::{LIMITS, TopicFeed, admin, block_on};
use super::partitions::{WAITS, ordered};
use crate::common::broker::{Broker, Received, read_all};
use crate::common::now_ms;
use crate::replay::fold::{Object, changes, text};
use crate::replay::pcap::{Packet, packet};
use crate::replay::run::{Place, SignalTarget};
use crate::replay::traffic::{BEGIN_MS, date};
use floodmark::kafka::Address;

const MINUTE: u64 = 60_000;

/// Deletes all records before these offsets, as retention does.
pub(super) fn delete_before(topic: &Address, offsets: &[(i32, i64)]) {
    let mut until = TopicPartitionList::new();
    for (partition, offset) in offsets {
        let offset = Offset::Offset(*offset);
        until.add_partition_offset(&topic.topic, *partition, offset).expect("an offset");
    }
    // A dropped client would lose the response.
    let admin = admin(topic);
    let deleted = admin.delete_records(&until, &AdminOptions::new());
    for one in block_on(deleted).expect("a response").elements() {
        one.error().expect("they are deleted");
    }
}

/// A topic of three partitions, from which the records of the first minutes are deleted.
struct Trimmed {
    topic: Address,
    /// The feed that has sent the remaining records.
    feed: TopicFeed,
    /// The starts of the windows of the remaining records.
    windows: BTreeSet<u64>,
    /// The start of the window with the latest first record among the trimmed partitions.
    last_partial: u64,
}

fn trimmed(packets: Vec<Packet>, minutes: [u64; 3]) -> Trimmed {
    let window = |ms: u64| ms - ms % (5 * MINUTE);
    let (mut windows, mut firsts) = (BTreeSet::new(), [None; 3]);
    let topic = Broker::shared().topic("flows", 3);
    let (mut before, mut after) = (TopicFeed::to(&topic), TopicFeed::to(&topic));
    let mut offsets = [0_i64; 3];
    for (number, packet) in packets.into_iter().enumerate() {
        let partition = number % 3;
        if packet.ms < BEGIN_MS + minutes[partition] * MINUTE {
            before.send(partition as i32, packet);
            offsets[partition] += 1;
        } else {
            // Each partition must receive its deleted records first.
            before.flush();
            after.send(partition as i32, packet);
            windows.insert(window(packet.ms));
            firsts[partition].get_or_insert(packet.ms);
        }
    }
    before.flush();
    after.flush();
    let offsets: Vec<(i32, i64)> = (0..).zip(offsets).filter(|(_, offset)| *offset > 0).collect();
    delete_before(&topic, &offsets);
    let firsts = offsets.iter().filter_map(|(partition, _)| firsts[*partition as usize]);
    let last_partial = window(firsts.max().expect("a partition is trimmed"));
    Trimmed { topic, feed: after, windows, last_partial }
}

/// Returns the starts of the windows of totals.
fn windows_of(totals: &[Received]) -> Vec<String> {
    let start = |total: &Received| {
        let total: Object = serde_json::from_str(total.text()).expect("JSON");
        text(&total, "window_start").to_owned()
    };
    let mut windows: Vec<String> = totals.iter().map(start).collect();
    windows.sort();
    windows.dedup();
    windows
}

#[test]
fn windows_of_a_trimmed_topic_are_partial_up_to_the_latest_first_record() {
    for workers in ["-w1", "-n2 -w2"] {
        let place = Place::new();
        place.write("limits.jsonl", LIMITS);
        // The first partition is whole, the others begin in the second and in the third window.
        let trimmed = trimmed(ordered(761, 600), [0, 7, 12]);
        let Trimmed { topic, feed, mut windows, last_partial } = trimmed;
        let totals = Broker::shared().address(&crate::common::broker::random_name("totals"));
        let line = format!(
            "run --from {topic} {WAITS} --lateness 2h --to - --publish {totals} --create-topic {workers}"
        );
        let run = place.floodmark(&line).start();
        feed.close(3);
        let replayed = feed.replay(&place, "").partial_until(&date(last_partial));
        let done = replayed.check_run(run);
        let whole = date(last_partial + 5 * MINUTE);
        let emitted = done.stderr.lines().find(|line| line.contains("windows are whole"));
        assert!(emitted.is_some_and(|line| line.contains(&whole)), "{}", done.stderr);
        // Partial totals must not replace those that an earlier run has published.
        windows.retain(|window| *window > last_partial);
        assert!(windows.len() > 2, "{windows:?}");
        let windows: Vec<String> = windows.into_iter().map(date).collect();
        assert_eq!(windows_of(&read_all(&totals)), windows);
    }
}

#[test]
fn partition_trimmed_to_nothing_begins_at_the_start_of_the_run() {
    let place = Place::new();
    let rows = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n\
                {\"limit_name\":\"min\",\"limit_value\":1000,\"effective_date\":\"1970-01-01\"}\n";
    place.write("limits.jsonl", rows);
    let topic = Broker::shared().topic("flows", 2);
    let mut feed = TopicFeed::to(&topic);
    let began = now_ms();
    // The window of these records has closed when the run starts.
    feed.send(0, packet(began - 2000, "10.0.0.1", "10.0.0.2", 100));
    feed.send(1, packet(began - 2000, "10.0.0.1", "10.0.0.2", 100));
    feed.flush();
    delete_before(&topic, &[(1, 1)]);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --window 1s --idle-timeout 1s --lateness 1s --tick 50ms -w2"
    );
    let mut run = place.floodmark(&line).start();
    run.wait_for("windows are whole");
    // The `min` judges later windows only.
    loop {
        let now = now_ms();
        (0..2).for_each(|partition| feed.send(partition, packet(now, "10.0.0.1", "10.0.0.2", 100)));
        feed.flush();
        let emitted = changes(&run.line()).remove(0);
        if emitted["limit_name"] == "min" {
            break;
        }
    }
    run.signal("TERM", SignalTarget::Parent);
    let done = run.finish().expect(0);
    let whole = date(began - began % 1000 + 1000);
    for change in changes(&done.stdout) {
        let early = text(&change, "window_start") < whole.as_str();
        let partial = change.get("partial").is_some_and(|partial| *partial == true);
        assert!(!early || (partial && change["limit_name"] == "any"), "{change:?}, began {began}");
        assert!(!partial || change["limit_name"] == "any", "{change:?}");
    }
}

#[test]
fn trimmed_topic_without_readable_records_begins_when_it_is_idle() {
    let place = Place::new();
    let rows = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
    place.write("limits.jsonl", rows);
    let topic = Broker::shared().topic("flows", 1);
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(now_ms(), "10.0.0.1", "10.0.0.2", 100));
    feed.send_raw(0, None, b"no record", now_ms());
    feed.flush();
    delete_before(&topic, &[(0, 1)]);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --window 1s --idle-timeout 1s --lateness 1s --tick 50ms"
    );
    let mut run = place.floodmark(&line).start();
    let whole = run.wait_for("windows are whole");
    feed.send(0, packet(now_ms() + 1000, "10.0.0.1", "10.0.0.2", 100));
    feed.flush();
    let emitted = changes(&run.line()).remove(0);
    assert!(emitted.get("partial").is_none(), "{emitted:?}, {whole}");
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
}
