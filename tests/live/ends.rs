//! How a run ends: asked to, with all that it has read judged and delivered, or with a reason.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use floodmark::kafka::topics;
use floodmark::kafka::{Address, ClientOptions};

use super::kit::{Feed, LIMITS, committed};
use crate::common::broker::{Broker, Mock, random_name};
use crate::replay::fold::{changes, fold};
use crate::replay::pcap::packet;
use crate::replay::run::{Place, Whom};
use crate::replay::traffic::BEGIN_MS;

const COUNT: &str = "{\"limit_name\":\"count\",\"limit_value\":0,\"effective_date\":\"1970-01-01\",\
                     \"per\":\"total\",\"metric\":\"packets\"}\n";

/// Whatever was read until then is in the last change, and is committed; nothing else is.
#[test]
fn what_was_read_is_judged_and_delivered_before_the_end() {
    for (workers, signal) in [("-w1", "TERM"), ("-w4", "INT"), ("-n2 -w2", "TERM"), ("-n2", "INT")]
    {
        let place = Place::new();
        place.write("limits.jsonl", COUNT);
        let topic = Broker::shared().topic("flows", 4);
        let group = random_name("group");
        let mut feed = Feed::to(&topic);
        let give = |feed: &mut Feed, from: u64, to: u64| {
            for number in from..to {
                let packet = packet(BEGIN_MS + number, "10.0.0.1", "10.0.0.2", 100);
                feed.give((number % 4) as i32, packet);
            }
            feed.flush();
        };
        give(&mut feed, 0, 100);
        // One tick at the start, and one when it is asked to end, unless it takes very long.
        let line = format!(
            "run --from {topic} --limits limits.jsonl --group {group} --idle-timeout 1h --tick 2s \
             --updates tick {workers}"
        );
        let mut run = place.floodmark(&line).start();
        run.line();
        give(&mut feed, 100, 3000);
        run.signal(signal, Whom::Parent);
        let done = run.finish().expect(0);
        let said = changes(&done.stdout).pop().expect("changes");
        let read: i64 = committed(&topic, &group, 4).iter().map(|(at, _)| at).sum();
        assert!(read >= 100, "{read}");
        assert_eq!(said["amount"], read, "{}", done.shown());
        fold(&done.stdout);
    }
}

/// The brokers say nothing, and would be waited for.
#[test]
fn whoever_ends_it_before_it_has_begun_does_not_wait() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("its address");
    let place = Place::new();
    place.write("limits.jsonl", COUNT);
    for (workers, signal, whom) in [
        ("-w1", "TERM", Whom::Parent),
        ("-n2", "TERM", Whom::Parent),
        // As a terminal does it.
        ("-n2", "INT", Whom::Group),
    ] {
        let line = format!(
            "run --from kafka://{address}/flows --limits limits.jsonl --http 127.0.0.1:0 {workers}"
        );
        let mut run = place.floodmark(&line).start();
        for _ in 0..if workers == "-w1" { 1 } else { 2 } {
            run.wait_for("serves /metrics");
        }
        let began = Instant::now();
        run.signal(signal, whom);
        let done = run.finish();
        // It waits 20 seconds for brokers, and 10 for processes.
        assert!(began.elapsed() < Duration::from_secs(8), "{}", done.shown());
        // One process ends by the signal itself.
        let code = if workers == "-w1" { -1 } else { 130 };
        assert_eq!(done.code(), code, "{}\n{}", done.shown(), done.stderr);
    }
}

#[test]
fn the_lag_is_right() {
    let place = Place::new();
    place.write("limits.jsonl", COUNT);
    let topic = Broker::shared().topic("flows", 3);
    let group = random_name("group");
    let mut feed = Feed::to(&topic);
    for number in 0..50 {
        feed.give((number % 2) as i32, packet(BEGIN_MS + number, "10.0.0.1", "10.0.0.2", 100));
    }
    feed.flush();
    let line = format!(
        "run --from {topic} --limits limits.jsonl --group {group} --idle-timeout 1s --tick 100ms -w2"
    );
    let run = place.floodmark(&line).start();
    feed.answer(&place, "").hold(run);
    assert_eq!(committed(&topic, &group, 3), [(25, 25), (25, 25), (0, 0)]);
}

#[test]
fn reader_of_the_only_sink_that_goes_away_ends_it_with_a_code_of_its_own() {
    for workers in ["-w2", "-n2", "--restart -w2"] {
        let place = Place::new();
        let any = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
        place.write("limits.jsonl", any);
        let topic = Broker::shared().topic("flows", 2);
        let mut feed = Feed::to(&topic);
        let at = |number: u64, to: &str| packet(BEGIN_MS + number, "10.0.0.1", to, 100);
        feed.give(0, at(0, "10.0.0.2"));
        let line = format!(
            "run --from {topic} --limits limits.jsonl --idle-timeout 1h --tick 50ms {workers}"
        );
        let mut run = place.floodmark(&line).start();
        run.line();
        run.close_stdout();
        feed.give(1, at(1, "10.0.0.3"));
        // A supervisor that starts it again gives it another standard output; --restart has only this one.
        run.finish().expect(74).says(&["\"-\"", "its reader has gone away", "no other --to"]);
    }
}

#[test]
fn what_is_missing_is_named() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    place.write("bad.jsonl", "{");
    let here = Broker::shared().topic("flows", 1);
    let unknown = Broker::shared().address(&random_name("unknown"));
    let nobody = Address { brokers: "127.0.0.1:1".into(), topic: "flows".into() };
    for (options, code, says) in [
        (format!("--from {unknown}"), 66, [unknown.topic.as_str(), "--create-topic"]),
        (format!("--from {nobody}"), 69, ["127.0.0.1:1", "reading from"]),
        (format!("--from {here} --to {nobody}"), 69, ["127.0.0.1:1", ""]),
        (format!("--from {here} --publish {nobody}"), 69, ["127.0.0.1:1", ""]),
        (format!("--from {here} --dead-letter {nobody}"), 69, ["127.0.0.1:1", ""]),
        (format!("--from {here} --to {unknown}"), 78, [unknown.topic.as_str(), "--create-topic"]),
        (
            format!("--from {here} --publish {unknown}"),
            78,
            [unknown.topic.as_str(), "--config cleanup.policy=compact,delete"],
        ),
        (
            format!("--from {here} --dead-letter {unknown}"),
            78,
            ["there is no topic", "--config cleanup.policy=delete"],
        ),
        // A slip of one letter.
        (
            format!("--from {here} --to {here}s"),
            78,
            [&format!("is \"{}\" meant?", here.topic), "--create-topic"],
        ),
        (format!("--from {here} --create-topic"), 64, ["--create-topic needs", "--publish"]),
        (format!("--from {here} --limits none.jsonl"), 66, ["none.jsonl", "reading limits"]),
        (format!("--from {here} --limits bad.jsonl"), 78, ["bad.jsonl", "reading limits"]),
        (format!("--from {here} --what-if none.jsonl"), 66, ["none.jsonl", "reading limits"]),
        (
            format!("--from {here} --limits limits.jsonl --what-if bad.jsonl"),
            78,
            ["bad.jsonl", "reading limits"],
        ),
        (format!("--from {here} --only-difference"), 64, ["--what-if", ""]),
        (format!("--from {here} --to - --to -"), 64, ["\"-\"", "place of its own"]),
        (format!("--from {here} --to {here}"), 64, [here.topic.as_str(), "for ever"]),
        // One topic, written in two ways.
        ("--from kafka://127.0.0.1:9092/t --to kafka://127.0.0.1/t".into(), 64, ["/t", "for ever"]),
        (format!("--from {here} --publish {here}"), 64, [here.topic.as_str(), "for ever"]),
        (format!("--from {here} --dead-letter {here}"), 64, [here.topic.as_str(), "for ever"]),
        (format!("--from {here} --restart --from-offset latest"), 64, ["latest", "a time"]),
        (format!("--from {here} --from-offset soon"), 64, ["\"soon\"", "latest"]),
    ] {
        let done = place.floodmark(&format!("run {options}")).run().expect(code);
        assert_eq!(done.says(&says).stdout, "");
    }
    // librdkafka refuses these options at creation: no restart mends them.
    for (options, says) in [
        ("security.protocol=ssl -X ssl.ca.location=none.pem", ["ssl.ca.location", "none.pem"]),
        ("security.protocol=sasl_plaintext", ["security.protocol", "-X sasl.mechanism="]),
        (
            "security.protocol=sasl_ssl -X sasl.mechanism=SCRAM-SHA-512 -X sasl.username=me",
            ["SCRAM-SHA-512", "FLOODMARK_KAFKA_SASL_PASSWORD"],
        ),
        ("fetch.max.bytes=1000", ["fetch.max.bytes is \"1000\"", "message.max.bytes"]),
        ("receive.message.max.bytes=1000000", ["receive.message.max.bytes", "fetch.max.bytes"]),
    ] {
        let line = format!("run --from {here} -X {options}");
        place.floodmark(&line).run().expect(78).says(&says);
    }
    for command in ["run -n2 --restart", "convert"] {
        let line = format!("{command} --from {here} -X security.protocol=sasl_plaintext");
        place.floodmark(&line).run().expect(78).says(&["-X sasl.mechanism="]);
    }
    // A longer message needs a larger fetch, which follows by itself.
    let line = format!("convert --from {here} --until-end -X message.max.bytes=20000000");
    place.floodmark(&line).run().expect(0);
    // Nothing of that was made by asking for it.
    topics::describe(&unknown, &ClientOptions::default()).expect_err("there is no topic");
    // The reason of a process that follows reaches the first one.
    let line = format!("run --from {here} --dead-letter {nobody} -n2");
    place.floodmark(&line).run().expect(69).says(&["127.0.0.1:1"]);
}

/// Offsets are for those who look at the lag: a run does not wait for them.
#[test]
fn run_asked_to_end_during_an_outage_ends_and_says_what_was_not_committed() {
    let (mock, place) = (Mock::new(), Place::new());
    let topic = mock.topic("flows", 1);
    place.write("limits.jsonl", COUNT);
    let mut feed = Feed::to(&topic);
    feed.give(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 100));
    feed.flush();
    let line = format!("run --from {topic} --limits limits.jsonl --tick 50ms");
    let mut run = place.floodmark(&line).start();
    assert!(run.line().contains("raised"));
    mock.down();
    run.wait_for("the brokers do not answer");
    run.signal("TERM", Whom::Parent);
    run.finish().expect(0).says(&["the run ends without a commit of the last offsets"]);
}
