//! The end of a run: on a signal, after delivering all that it has read, or with an error.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use floodmark::kafka::topics;
use floodmark::kafka::{Address, ClientOptions};

use super::kit::{LIMITS, TopicFeed, committed};
use crate::common::broker::{Broker, Mock, random_name};
use crate::replay::fold::{changes, fold};
use crate::replay::pcap::packet;
use crate::replay::run::{Place, SignalTarget};
use crate::replay::traffic::BEGIN_MS;

const COUNT: &str = "{\"limit_name\":\"count\",\"limit_value\":0,\"effective_date\":\"1970-01-01\",\
                     \"per\":\"total\",\"metric\":\"packets\"}\n";

/// The last change counts all records read, and the committed offsets count the same records.
#[test]
fn records_read_before_a_signal_are_judged_delivered_and_committed() {
    for (workers, signal) in [("-w1", "TERM"), ("-w4", "INT"), ("-n2 -w2", "TERM"), ("-n2", "INT")]
    {
        let place = Place::new();
        place.write("limits.jsonl", COUNT);
        let topic = Broker::shared().topic("flows", 4);
        let group = random_name("group");
        let mut feed = TopicFeed::to(&topic);
        let send = |feed: &mut TopicFeed, from: u64, to: u64| {
            for number in from..to {
                let packet = packet(BEGIN_MS + number, "10.0.0.1", "10.0.0.2", 100);
                feed.send((number % 4) as i32, packet);
            }
            feed.flush();
        };
        send(&mut feed, 0, 100);
        // The long interval leaves one tick at the start and one at the end, unless the machine is very slow.
        let line = format!(
            "run --from {topic} --limits limits.jsonl --group {group} --idle-timeout 1h --tick 2s \
             --updates tick {workers}"
        );
        let mut run = place.floodmark(&line).start();
        run.line();
        send(&mut feed, 100, 3000);
        run.signal(signal, SignalTarget::Parent);
        let done = run.finish().expect(0);
        let emitted = changes(&done.stdout).pop().expect("changes");
        let read: i64 = committed(&topic, &group, 4).iter().map(|(at, _)| at).sum();
        assert!(read >= 100, "{read}");
        assert_eq!(emitted["amount"], read, "{}", done.command_line());
        fold(&done.stdout);
    }
}

/// The broker does not respond; without the signal the run would wait for it.
#[test]
fn signal_before_the_first_tick_ends_the_run_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("its address");
    let place = Place::new();
    place.write("limits.jsonl", COUNT);
    for (workers, signal, target) in [
        ("-w1", "TERM", SignalTarget::Parent),
        ("-n2", "TERM", SignalTarget::Parent),
        // A terminal signals the whole group.
        ("-n2", "INT", SignalTarget::Group),
    ] {
        let line = format!(
            "run --from kafka://{address}/flows --limits limits.jsonl --http 127.0.0.1:0 {workers}"
        );
        let mut run = place.floodmark(&line).start();
        for _ in 0..if workers == "-w1" { 1 } else { 2 } {
            run.wait_for("serves /metrics");
        }
        let began = Instant::now();
        run.signal(signal, target);
        let done = run.finish();
        // The run would wait 20 seconds for brokers, and 10 for processes.
        assert!(began.elapsed() < Duration::from_secs(8), "{}", done.command_line());
        // A single process ends by the signal itself.
        let code = if workers == "-w1" { -1 } else { 130 };
        assert_eq!(done.code(), code, "{}\n{}", done.command_line(), done.stderr);
    }
}

#[test]
fn committed_offsets_reach_the_ends_of_the_partitions() {
    let place = Place::new();
    place.write("limits.jsonl", COUNT);
    let topic = Broker::shared().topic("flows", 3);
    let group = random_name("group");
    let mut feed = TopicFeed::to(&topic);
    for number in 0..50 {
        feed.send((number % 2) as i32, packet(BEGIN_MS + number, "10.0.0.1", "10.0.0.2", 100));
    }
    feed.flush();
    let line = format!(
        "run --from {topic} --limits limits.jsonl --group {group} --idle-timeout 1s --tick 100ms -w2"
    );
    let run = place.floodmark(&line).start();
    feed.replay(&place, "").check_run(run);
    assert_eq!(committed(&topic, &group, 3), [(25, 25), (25, 25), (0, 0)]);
}

#[test]
fn closed_only_sink_ends_the_run_with_code_74() {
    for workers in ["-w2", "-n2", "--restart -w2"] {
        let place = Place::new();
        let any = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
        place.write("limits.jsonl", any);
        let topic = Broker::shared().topic("flows", 2);
        let mut feed = TopicFeed::to(&topic);
        let at = |number: u64, to: &str| packet(BEGIN_MS + number, "10.0.0.1", to, 100);
        feed.send(0, at(0, "10.0.0.2"));
        let line = format!(
            "run --from {topic} --limits limits.jsonl --idle-timeout 1h --tick 50ms {workers}"
        );
        let mut run = place.floodmark(&line).start();
        run.line();
        run.close_stdout();
        feed.send(1, at(1, "10.0.0.3"));
        // --restart does not apply: the restarted processes would inherit the same closed standard output.
        run.finish().expect(74).assert_stderr(&[
            "\"-\"",
            "its reader has gone away",
            "no other --to",
        ]);
    }
}

#[test]
fn failed_start_names_its_cause() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    place.write("bad.jsonl", "{");
    let here = Broker::shared().topic("flows", 1);
    let unknown = Broker::shared().address(&random_name("unknown"));
    let nobody = Address { brokers: "127.0.0.1:1".into(), topic: "flows".into() };
    for (options, code, message) in [
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
        // A misspelt topic.
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
        // Two notations of one topic.
        ("--from kafka://127.0.0.1:9092/t --to kafka://127.0.0.1/t".into(), 64, ["/t", "for ever"]),
        (format!("--from {here} --publish {here}"), 64, [here.topic.as_str(), "for ever"]),
        (format!("--from {here} --dead-letter {here}"), 64, [here.topic.as_str(), "for ever"]),
        (
            format!("--from {unknown}-progress --to {unknown} --state state --create-topic"),
            64,
            [unknown.topic.as_str(), "gets the records of ticks"],
        ),
        (format!("--from {here} --restart --from-offset latest"), 64, ["latest", "a time"]),
        (format!("--from {here} --from-offset soon"), 64, ["\"soon\"", "latest"]),
    ] {
        let done = place.floodmark(&format!("run {options}")).run().expect(code);
        assert_eq!(done.assert_stderr(&message).stdout, "");
    }
    // librdkafka rejects these options when a client is created, so that a restart does not help.
    for (options, message) in [
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
        place.floodmark(&line).run().expect(78).assert_stderr(&message);
    }
    for command in ["run -n2 --restart", "convert"] {
        let line = format!("{command} --from {here} -X security.protocol=sasl_plaintext");
        place.floodmark(&line).run().expect(78).assert_stderr(&["-X sasl.mechanism="]);
    }
    // The program raises the fetch size with the size of messages.
    let line = format!("convert --from {here} --until-end -X message.max.bytes=20000000");
    place.floodmark(&line).run().expect(0);
    // None of these runs has created the unknown topic.
    topics::describe(&unknown, &ClientOptions::default()).expect_err("there is no topic");
    // The first process reports the error of another process.
    let line = format!("run --from {here} --dead-letter {nobody} -n2");
    place.floodmark(&line).run().expect(69).assert_stderr(&["127.0.0.1:1"]);
}

/// Committed offsets only show the lag: a run does not wait for them.
#[test]
fn run_ended_during_an_outage_reports_uncommitted_offsets() {
    let (mock, place) = (Mock::new(), Place::new());
    let topic = mock.topic("flows", 1);
    place.write("limits.jsonl", COUNT);
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 100));
    feed.flush();
    let line = format!("run --from {topic} --limits limits.jsonl --tick 50ms");
    let mut run = place.floodmark(&line).start();
    assert!(run.line().contains("raised"));
    mock.down();
    run.wait_for("the brokers do not respond");
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0).assert_stderr(&["the last offsets are not committed"]);
}
