//! Topics that a run writes to: rejected as sources of records, deleted during the run, and rejecting messages.

use floodmark::kafka::topics::{self, Plan};
use floodmark::kafka::{ClientOptions, Outgoing};

use super::kit::{LIMITS, TopicFeed};
use crate::common::broker::{Broker, produce, random_name, read_all};
use crate::replay::fold::{Object, objects};
use crate::replay::pcap::{packet, pcap};
use crate::replay::run::{Place, SignalTarget};
use crate::replay::traffic::BEGIN_MS;

#[test]
fn topic_of_totals_alerts_or_dead_letters_is_rejected_as_a_source() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let broker = Broker::shared();
    let topic = broker.topic("flows", 2);
    let [alerts, totals, dead] =
        ["alerts", "totals", "dead"].map(|name| broker.address(&random_name(name)));
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 30_000));
    feed.send(1, packet(BEGIN_MS, "10.0.0.3", "10.0.0.2", 30_000));
    feed.send_raw(0, None, b"not a record", BEGIN_MS);
    feed.close(2);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --idle-timeout 1h --lateness 0s --tick 50ms --to - \
         --to {alerts} --publish {totals} --dead-letter {dead} --create-topic"
    );
    let run = place.floodmark(&line).start();
    feed.replay(&place, "").check_run(run);
    assert_eq!(read_all(&totals).len(), 2);
    for (from, kind) in [
        (&totals, "totals of windows (--publish)"),
        (&alerts, "changes of violations (--to)"),
        (&dead, "dead letters (--dead-letter)"),
    ] {
        for workers in ["-w1", "-w2"] {
            let line = format!("run --from {from} --limits limits.jsonl {workers}");
            let done = place.floodmark(&line).run().expect(78);
            done.assert_stderr(&[kind, &from.topic, "is no topic of records"]);
        }
    }
    let line = format!("convert --from {totals} --to flows.jsonl");
    place.floodmark(&line).run().expect(78).assert_stderr(&["totals of windows (--publish)"]);
    // A conversion accepts dead letters, to repair them.
    let line = format!("convert --from {dead} --until-end --to flows.jsonl");
    place.floodmark(&line).run().expect(0).assert_stderr(&["unknown_format 1"]);
}

/// A message of output among records, even the first one, is rejected alone.
#[test]
fn stray_total_among_records_is_rejected_alone() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topic = Broker::shared().topic("flows", 1);
    let total = br#"{"window_start":"2026-01-01T00:00:00Z","window_end":"2026-01-01T00:05:00Z","source":"10.0.0.1","destination":"10.0.0.2","bytes":1,"packets":1,"as_of":"2026-01-01T00:15:00Z"}"#;
    produce(&topic, &[Outgoing { payload: Some(total), ..Outgoing::default() }]);
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 30_000));
    feed.send_raw(0, None, total, BEGIN_MS);
    feed.close(1);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --idle-timeout 1h --lateness 0s --tick 50ms"
    );
    let run = place.floodmark(&line).start();
    let done = feed.replay(&place, "").check_run(run);
    done.assert_stderr(&["own_output", "output of floodmark, and no record: totals of windows"]);
}

/// Only the ranking needs the sums of sources; no limit does.
#[test]
fn sources_are_ranked_in_a_run_as_in_a_replay() {
    let place = Place::new();
    let limits = r#"{"limit_name":"a","limit_value":1,"effective_date":"1970-01-01"}"#;
    place.write("limits.jsonl", limits);
    let topic = Broker::shared().topic("flows", 2);
    let mut feed = TopicFeed::to(&topic);
    for (number, bytes) in (0..).zip([900, 500, 700, 100]) {
        let source = format!("10.0.0.{}", number % 3);
        let packet = packet(BEGIN_MS + 1000 * number, &source, &format!("10.0.1.{number}"), bytes);
        feed.send(number as i32 % 2, packet);
    }
    feed.close(2);
    let ranked = |stdout: &str| -> Vec<Object> {
        objects(stdout).into_iter().filter(|object| object.contains_key("top")).collect()
    };
    place.write("fed.pcap", pcap(feed.sent()));
    let expected = place.floodmark("replay fed.pcap --top 2,source").stdout(0);
    let expected = ranked(&expected);
    assert_eq!(expected.len(), 2);
    for workers in ["-w1", "-w2"] {
        let line = format!(
            "run --from {topic} --limits limits.jsonl --idle-timeout 1h --lateness 0s --tick 50ms \
             --top 2,source {workers}"
        );
        let run = place.floodmark(&line).start();
        let done = feed.replay(&place, "").check_run(run);
        assert_eq!(ranked(&done.stdout)[..2], expected[..]);
    }
}

/// The topic rejects changes as too large.
#[test]
fn alert_rejected_by_the_broker_is_dead_lettered_and_the_run_continues() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let broker = Broker::shared();
    let topic = broker.topic("flows", 1);
    let mut plan = Plan::state(1);
    plan.config.push(("max.message.bytes", "300".to_owned()));
    let alerts = broker.topic_with("alerts", &plan);
    let dead = broker.address(&random_name("dead"));
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 30_000));
    let line = format!(
        "run --from {topic} --limits limits.jsonl --idle-timeout 1h --lateness 0s --tick 50ms --to - \
         --to {alerts} --dead-letter {dead} --create-topic -X compression.type=none"
    );
    let mut run = place.floodmark(&line).start();
    run.wait_for("refuses a message for good");
    feed.send(0, packet(BEGIN_MS + 1, "10.0.0.3", "10.0.0.2", 31_000));
    feed.close(1);
    let done = feed.replay(&place, "").check_run(run);
    assert!(read_all(&alerts).is_empty());
    let kept = read_all(&dead);
    let mut texts: Vec<&str> = kept.iter().map(|message| message.text()).collect();
    let mut emitted: Vec<&str> = done.stdout.lines().collect();
    texts.sort_unstable();
    emitted.sort_unstable();
    assert_eq!(texts, emitted);
}

#[test]
fn recreated_alert_topic_receives_the_alerts_that_have_waited() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let broker = Broker::shared();
    let topic = broker.topic("flows", 1);
    let alerts = broker.topic_with("alerts", &Plan::state(1));
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 30_000));
    let line = format!(
        "run --from {topic} --limits limits.jsonl --idle-timeout 1h --lateness 0s --tick 50ms --to - \
         --to {alerts}"
    );
    let mut run = place.floodmark(&line).start();
    run.line();
    broker.delete(&alerts);
    run.wait_for("the topic does not exist any more");
    run.wait_for(&format!("the topic of sink \\\"kafka:{}\\\" has been missing", alerts.topic));
    feed.send(0, packet(BEGIN_MS + 1, "10.0.0.3", "10.0.0.2", 31_000));
    feed.close(1);
    let replayed = feed.replay(&place, "");
    replayed.wait_for(&mut run);
    topics::describe(&alerts, &ClientOptions::default()).expect_err("nobody has created it");
    // The broker might create it like this for another client.
    topics::create(&alerts, &ClientOptions::default(), &Plan::flows(1)).expect("it is created");
    run.wait_for("does not fit");
    assert!(read_all(&alerts).is_empty());
    broker.alter(&alerts, "cleanup.policy", "compact,delete");
    run.wait_for("messages go to the new one");
    run.signal("TERM", SignalTarget::Parent);
    let done = run.finish().expect(0);
    let waited = read_all(&alerts);
    assert!(!waited.is_empty());
    for message in waited {
        assert!(done.stdout.contains(message.text()), "{}", message.text());
    }
    assert!(done.stdout.contains("10.0.0.3") && done.stdout.contains("10.0.0.1"));
}
