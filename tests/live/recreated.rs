//! Topics that are deleted while they are read, and created again: offsets mean other messages then.

use floodmark::kafka::Address;
use floodmark::kafka::topics::Plan;

use super::kit::Feed;
use crate::common::broker::{Broker, create_again, delete};
use crate::common::now_ms;
use crate::replay::pcap::packet;
use crate::replay::run::{Live, Place};
use crate::serving::{ask_until, reason, server};

const OPTIONS: &str = "--limits limits.jsonl --tick 50ms --idle-timeout 1s";

/// Sends packets to a partition.
fn fill(topic: &Address, partition: i32, count: usize) {
    let mut feed = Feed::to(topic);
    for _ in 0..count {
        feed.give(partition, packet(now_ms(), "10.0.0.1", "10.0.1.1", 100));
    }
    feed.flush();
}

/// Starts a run, and waits until it has judged what it has read.
fn reading(place: &Place, topic: &Address, options: &str) -> Live {
    let limit = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
    place.write("limits.jsonl", limit);
    let mut run = place.floodmark(&format!("run --from {topic} {OPTIONS} {options}")).start();
    run.line();
    run
}

#[test]
fn topic_that_is_created_again_and_refilled_ends_the_run() {
    for (workers, partitions, refill) in [("-w1", 1, 30), ("-w2", 2, 5), ("-n2", 2, 30)] {
        let place = Place::new();
        let topic = Broker::shared().topic("flows", 2);
        fill(&topic, 0, 10);
        let run = reading(&place, &topic, workers);
        delete(&topic);
        create_again(&topic, &Plan::recording(partitions));
        // Past the offset that is read next, or not so far.
        fill(&topic, 0, refill);
        let id = "its id was ";
        run.finish().expect(1).says(&[&topic.topic, "deleted and created again", id, "earliest"]);
    }
}

#[test]
fn topic_that_is_deleted_is_named_and_ends_the_run() {
    let place = Place::new();
    let topic = Broker::shared().topic("flows", 1);
    fill(&topic, 0, 10);
    let mut run = reading(&place, &topic, "--http 127.0.0.1:0");
    let server = server(&mut run);
    delete(&topic);
    let missing = ask_until(server, "/readyz", |answer| {
        answer.status == 503 && reason(&answer.json(), "topic_missing").is_some()
    });
    let missing = missing.json();
    assert_eq!(reason(&missing, "topic_missing").expect("a reason")["name"], topic.topic.as_str());
    run.finish().expect(66).says(&[
        &topic.topic,
        "was deleted while it was read",
        "Create it again",
    ]);
}
