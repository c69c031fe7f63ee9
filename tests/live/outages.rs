//! Outages of the broker of records, and of the broker of alerts.

use std::time::{Duration, Instant};

use super::kit::{AlertTopic, LIMITS, TopicFeed};
use crate::common::broker::{Broker, read_all};
use crate::common::now_ms;
use crate::replay::fold::{events, fold};
use crate::replay::pcap::packet;
use crate::replay::run::{Place, SignalTarget};
use crate::replay::traffic::{self, BEGIN_MS, Random};

#[test]
fn run_reads_on_after_a_broker_restart() {
    let broker = Broker::own();
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let mut packets = traffic::packets(&mut Random::new(751), 900, 40 * 60_000);
    packets.sort_by_key(|packet| packet.ms);
    let topic = broker.topic("flows", 4);
    let mut feed = TopicFeed::to(&topic);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --idle-timeout 1h --lateness 2h --tick 50ms \
         -X reconnect.backoff.max.ms=500 -n2 -w2"
    );
    let mut run = place.floodmark(&line).start();
    let mut packets = packets.into_iter().enumerate();
    let mut send = |feed: &mut TopicFeed, count: usize| {
        for (number, packet) in packets.by_ref().take(count) {
            feed.send((number % 4) as i32, packet);
        }
    };
    send(&mut feed, 300);
    feed.flush();
    run.line();
    broker.stop();
    run.wait_for("the brokers do not respond");
    send(&mut feed, 300);
    broker.start();
    // The run reconnects by itself.
    run.wait_for("the brokers respond again");
    send(&mut feed, 300);
    feed.close(4);
    feed.replay(&place, "").check_run(run);
}

/// Records delayed by an outage count, and the outage is no silence.
#[test]
fn outage_longer_than_the_lateness_is_not_judged_as_silence() {
    const LATENESS_AND_IDLE: Duration = Duration::from_secs(2 + 5);
    let broker = Broker::own();
    let place = Place::new();
    // Every second has a packet.
    let limits = "{\"limit_name\":\"min\",\"limit_value\":1,\"effective_date\":\"1970-01-01\",\
                  \"per\":\"total\",\"metric\":\"packets\"}\n\
                  {\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
    place.write("limits.jsonl", limits);
    let topic = broker.topic("flows", 2);
    let mut feed = TopicFeed::to(&topic);
    let mut second = now_ms() / 1000 - 3;
    let mut send = |feed: &mut TopicFeed| {
        while second <= now_ms() / 1000 {
            for partition in 0..2 {
                let source = format!("10.0.0.{partition}");
                feed.send(partition, packet(second * 1000, &source, "10.0.1.1", 100));
            }
            second += 1;
        }
        feed.flush();
    };
    send(&mut feed);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --window 1s --idle-timeout 5s --lateness 2s --tick 100ms \
         -X reconnect.backoff.max.ms=200 -w2"
    );
    let mut run = place.floodmark(&line).start();
    run.line();
    let down = Instant::now();
    broker.stop();
    run.wait_for("the brokers do not respond");
    // The outage must exceed lateness and idle time-out.
    std::thread::sleep((LATENESS_AND_IDLE + Duration::from_secs(3)).saturating_sub(down.elapsed()));
    broker.start();
    // The sender may reconnect later than the reader.
    run.wait_for("the brokers respond again");
    std::thread::sleep(Duration::from_secs(1));
    send(&mut feed);
    let replayed = feed.replay(&place, "--window 1s");
    replayed.check_run(run);
}

#[test]
fn alerts_of_an_outage_wait_and_are_delivered_once() {
    let broker = Broker::own();
    let place = Place::new();
    let limits = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
    place.write("limits.jsonl", limits);
    let topic = Broker::shared().topic("flows", 2);
    let mut alerts = AlertTopic::new(&broker);
    let mut feed = TopicFeed::to(&topic);
    // The small queue for alerts makes the run wait. Consumers warn about the unknown option.
    let line = format!(
        "run --from {topic} --limits limits.jsonl --to {} --idle-timeout 1h --lateness 0s --tick 50ms \
         -X queue.buffering.max.messages=50 -X reconnect.backoff.max.ms=500 -w2",
        alerts.address
    );
    let mut run = place.floodmark(&line).start();
    let host = |number: u64| format!("10.0.{}.{}", number / 250, number % 250);
    feed.send(0, packet(BEGIN_MS, &host(0), "10.1.0.1", 100));
    feed.send(1, packet(BEGIN_MS, &host(1), "10.1.0.1", 100));
    alerts.wait_until(|change| change["event"] == "raised");
    broker.stop();
    for number in 2..600 {
        feed.send((number % 2) as i32, packet(BEGIN_MS + number, &host(number), "10.1.0.1", 100));
    }
    feed.close(2);
    run.wait_for("Connection refused");
    broker.start();
    let replayed = feed.replay(&place, "");
    alerts.wait_for(&replayed);
    run.signal("TERM", SignalTarget::Parent);
    let done = run.finish().expect(0);
    let lines: String =
        read_all(&alerts.address).iter().map(|message| message.text().to_owned() + "\n").collect();
    // The fold panics on duplicates.
    replayed.assert_stands(fold(&lines), || done.stderr.clone());
    let raised = events(&lines).iter().filter(|event| event.starts_with("raised")).count();
    // The last one is of the packets that close all windows.
    assert_eq!(raised, 601);
}
