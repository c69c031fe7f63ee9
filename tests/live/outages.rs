//! Brokers that go away: that of the records, and that of the alerts.

use std::time::{Duration, Instant};

use super::kit::{AlertTopic, Feed, LIMITS};
use crate::common::broker::{Broker, read_all};
use crate::common::now_ms;
use crate::replay::fold::{events, fold};
use crate::replay::pcap::packet;
use crate::replay::run::{Place, Whom};
use crate::replay::traffic::{self, BEGIN_MS, Random};

#[test]
fn a_broker_that_is_stopped_and_started_is_read_on() {
    let broker = Broker::own();
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let mut packets = traffic::packets(&mut Random::new(751), 900, 40 * 60_000);
    packets.sort_by_key(|packet| packet.ms);
    let topic = broker.topic("flows", 4);
    let mut feed = Feed::to(&topic);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --idle-timeout 1h --lateness 2h --tick 50ms \
         -X reconnect.backoff.max.ms=500 -n2 -w2"
    );
    let mut run = place.floodmark(&line).start();
    let mut packets = packets.into_iter().enumerate();
    let mut give = |feed: &mut Feed, count: usize| {
        for (number, packet) in packets.by_ref().take(count) {
            feed.give((number % 4) as i32, packet);
        }
    };
    give(&mut feed, 300);
    feed.flush();
    run.line();
    broker.stop();
    run.wait_for("the brokers do not answer");
    give(&mut feed, 300);
    broker.start();
    // The run hears of it by itself.
    run.wait_for("the brokers answer again");
    give(&mut feed, 300);
    feed.close(4);
    feed.answer(&place, "").hold(run);
}

/// What is sent late, since the broker was away, is no silence, and counts.
#[test]
fn an_outage_longer_than_the_lateness_is_not_taken_for_silence() {
    const LATENESS_AND_IDLE: Duration = Duration::from_secs(2 + 5);
    let broker = Broker::own();
    let place = Place::new();
    // There is a packet in every second.
    let limits = "{\"limit_name\":\"min\",\"limit_value\":1,\"effective_date\":\"1970-01-01\",\
                  \"per\":\"total\",\"metric\":\"packets\"}\n\
                  {\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
    place.write("limits.jsonl", limits);
    let topic = broker.topic("flows", 2);
    let mut feed = Feed::to(&topic);
    let mut second = now_ms() / 1000 - 3;
    let mut give = |feed: &mut Feed| {
        while second <= now_ms() / 1000 {
            for partition in 0..2 {
                let source = format!("10.0.0.{partition}");
                feed.give(partition, packet(second * 1000, &source, "10.0.1.1", 100));
            }
            second += 1;
        }
        feed.flush();
    };
    give(&mut feed);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --window 1s --idle-timeout 5s --lateness 2s --tick 100ms \
         -X reconnect.backoff.max.ms=200 -w2"
    );
    let mut run = place.floodmark(&line).start();
    run.line();
    let down = Instant::now();
    broker.stop();
    run.wait_for("the brokers do not answer");
    // It is time that must pass.
    std::thread::sleep((LATENESS_AND_IDLE + Duration::from_secs(3)).saturating_sub(down.elapsed()));
    broker.start();
    // Those who send come back later than those who read.
    run.wait_for("the brokers answer again");
    std::thread::sleep(Duration::from_secs(1));
    give(&mut feed);
    let answer = feed.answer(&place, "--window 1s");
    answer.hold(run);
}

#[test]
fn alerts_that_can_not_be_delivered_wait_and_come_once() {
    let broker = Broker::own();
    let place = Place::new();
    let limits = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
    place.write("limits.jsonl", limits);
    let topic = Broker::shared().topic("flows", 2);
    let mut alerts = AlertTopic::new(&broker);
    let mut feed = Feed::to(&topic);
    // Little room for alerts: the run must wait. Consumers do not know the option, and say so.
    let line = format!(
        "run --from {topic} --limits limits.jsonl --to {} --idle-timeout 1h --lateness 0s --tick 50ms \
         -X queue.buffering.max.messages=50 -X reconnect.backoff.max.ms=500 -w2",
        alerts.address
    );
    let mut run = place.floodmark(&line).start();
    let host = |number: u64| format!("10.0.{}.{}", number / 250, number % 250);
    feed.give(0, packet(BEGIN_MS, &host(0), "10.1.0.1", 100));
    feed.give(1, packet(BEGIN_MS, &host(1), "10.1.0.1", 100));
    alerts.wait_until(|change| change["event"] == "raised");
    broker.stop();
    for number in 2..600 {
        feed.give((number % 2) as i32, packet(BEGIN_MS + number, &host(number), "10.1.0.1", 100));
    }
    feed.close(2);
    run.wait_for("Connection refused");
    broker.start();
    let answer = feed.answer(&place, "");
    alerts.wait_for(&answer);
    run.signal("TERM", Whom::Parent);
    let done = run.finish().expect(0);
    let lines: String =
        read_all(&alerts.address).iter().map(|message| message.text().to_owned() + "\n").collect();
    // Nothing is said twice: a fold would not take it.
    answer.assert_stands(fold(&lines), || done.stderr.clone());
    let raised = events(&lines).iter().filter(|event| event.starts_with("raised")).count();
    // Also of the packets that close all.
    assert_eq!(raised, 601);
}
