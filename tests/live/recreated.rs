//! Topics that are deleted while a run reads them, and created again, so that offsets refer to other messages.

use floodmark::kafka::Address;
use floodmark::kafka::topics::Plan;

use super::kit::TopicFeed;
use crate::common::broker::{Broker, create_again, delete};
use crate::common::now_ms;
use crate::replay::pcap::packet;
use crate::replay::run::{Live, Place};
use crate::serving::{get_until, reason, server};

const OPTIONS: &str = "--limits limits.jsonl --tick 50ms --idle-timeout 1s";

/// Sends packets to a partition.
fn fill(topic: &Address, partition: i32, count: usize) {
    let mut feed = TopicFeed::to(topic);
    for _ in 0..count {
        feed.send(partition, packet(now_ms(), "10.0.0.1", "10.0.1.1", 100));
    }
    feed.flush();
}

/// Starts a run, and waits until it has judged records.
fn reading(place: &Place, topic: &Address, options: &str) -> Live {
    let limit = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
    place.write("limits.jsonl", limit);
    let mut run = place.floodmark(&format!("run --from {topic} {OPTIONS} {options}")).start();
    run.line();
    run
}

#[test]
fn recreated_topic_ends_the_run() {
    for (workers, partitions, refill) in [("-w1", 1, 30), ("-w2", 2, 5), ("-n2", 2, 30)] {
        let place = Place::new();
        let topic = Broker::shared().topic("flows", 2);
        fill(&topic, 0, 10);
        let run = reading(&place, &topic, workers);
        delete(&topic);
        create_again(&topic, &Plan::recording(partitions));
        // The new topic ends after the next offset to read, or before it.
        fill(&topic, 0, refill);
        let id = "its id was ";
        run.finish().expect(1).assert_stderr(&[
            &topic.topic,
            "deleted and created again",
            id,
            "earliest",
        ]);
    }
}

#[test]
fn deleted_topic_is_named_and_ends_the_run() {
    let place = Place::new();
    let topic = Broker::shared().topic("flows", 1);
    fill(&topic, 0, 10);
    let mut run = reading(&place, &topic, "--http 127.0.0.1:0");
    let server = server(&mut run);
    delete(&topic);
    let missing = get_until(server, "/readyz", |response| {
        response.status == 503 && reason(&response.json(), "topic_missing").is_some()
    });
    let missing = missing.json();
    assert_eq!(reason(&missing, "topic_missing").expect("a reason")["name"], topic.topic.as_str());
    run.finish().expect(66).assert_stderr(&[
        &topic.topic,
        "was deleted while it was read",
        "Create it again",
    ]);
}
