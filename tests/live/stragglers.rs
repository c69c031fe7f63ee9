//! Wrong clocks: of an exporter with a partition of its own, and of one that shares a partition.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::kit::{TopicFeed, capture};
use super::partitions::WAITS;
use crate::common::broker::Broker;
use crate::common::now_ms;
use crate::replay::fold::{changes, events};
use crate::replay::pcap::{packet, pcap};
use crate::replay::run::{Place, STUCK_AFTER, SignalTarget};
use crate::replay::traffic::BEGIN_MS;
use crate::serving::{get, get_until, server};

const HOUR: u64 = 3600 * 1000;

#[test]
fn partition_with_a_wrong_clock_does_not_hold_the_watermark() {
    for (workers, processes) in [("-w1", 1), ("-n2 -w2", 2)] {
        let place = Place::new();
        let limit =
            "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
        place.write("limits.jsonl", limit);
        let topic = Broker::shared().topic("flows", 4);
        let line = format!(
            "run --from {topic} --limits limits.jsonl --window 1s --idle-timeout 2s --lateness 1s \
             --tick 100ms --http 127.0.0.1:0 {workers}"
        );
        let mut run = place.floodmark(&line).start();
        let servers: Vec<_> = (0..processes).map(|_| server(&mut run)).collect();
        let (ended, corrected) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut feed = TopicFeed::to(&topic);
                while !ended.load(Ordering::SeqCst) {
                    let now = now_ms();
                    // One exporter is an hour behind until its clock is corrected; another one is a year ahead.
                    let wrong = if corrected.load(Ordering::SeqCst) { now } else { now - HOUR };
                    let times = [wrong, now + 8760 * HOUR, now, now];
                    for (partition, ms) in (0..).zip(times) {
                        let source = format!("10.0.0.{partition}");
                        feed.send(partition, packet(ms, &source, "10.0.1.1", 100));
                    }
                    feed.flush();
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            // The other thread must end even if an assertion fails.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                // The run reports the straggling partition before it is ready for the first time.
                run.wait_for("not ready: ");
                let named = run.wait_for("no longer waits for it");
                assert!(
                    named.contains("\"partition\":0") || named.contains("\"partition\":1"),
                    "{named}"
                );
                let settled = |source: &str, line: &str| {
                    let change = changes(line).remove(0);
                    change["settled"] == true && change["entity"]["source"] == source
                };
                while !settled("10.0.0.3", &run.line()) {}
                let straggling = format!(
                    "floodmark_kafka_partition_straggling{{topic=\"{}\",partition=\"0\"}} 1\n",
                    topic.topic
                );
                // Only the process that reads the partition exports the series.
                let reads = |at: &&SocketAddr| get(**at, "/metrics").body.contains(&straggling);
                let started = Instant::now();
                let at = loop {
                    if let Some(at) = servers.iter().find(reads) {
                        break *at;
                    }
                    assert!(started.elapsed() < STUCK_AFTER, "no process has {straggling}");
                    std::thread::sleep(Duration::from_millis(20));
                };
                let ready = get_until(at, "/readyz", |response| {
                    response.status == 200 && response.body.contains("partition_straggling")
                });
                assert_eq!(ready.json()["ready"], true);
                corrected.store(true, Ordering::SeqCst);
                run.wait_for("the watermark waits for it again");
                while !settled("10.0.0.0", &run.line()) {}
                run.signal("TERM", SignalTarget::Parent);
            }));
            ended.store(true, Ordering::SeqCst);
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        });
        run.finish().expect(0);
    }
}

#[test]
fn record_far_behind_its_partition_is_rejected() {
    let place = Place::new();
    let limit = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
    place.write("limits.jsonl", limit);
    let day = 24 * HOUR;
    // One message holds both of these records, the older one first.
    let old = packet(BEGIN_MS, "10.0.0.1", "10.0.1.1", 100);
    let new = packet(BEGIN_MS + 8 * day, "10.0.0.2", "10.0.1.1", 100);
    place.write("made.pcap", pcap(&[old, new]));
    for (options, expected) in [
        ("", vec!["10.0.0.2", "10.0.0.5"]),
        ("--max-behind 9d", vec!["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]),
    ] {
        let topic = Broker::shared().topic("flows", 1);
        capture(&place, "made.pcap", &topic);
        let mut feed = TopicFeed::to(&topic);
        // One record in a message of its own, and two in a message of several lines.
        feed.send(0, packet(BEGIN_MS + day - 1, "10.0.0.3", "10.0.1.1", 100));
        let text = |source: &str, ms: u64| {
            format!(
                "{{\"time\":{ms},\"source\":\"{source}\",\"destination\":\"10.0.1.1\",\"bytes\":100,\"packets\":1}}\n"
            )
        };
        let both = text("10.0.0.4", BEGIN_MS + day / 2) + &text("10.0.0.5", BEGIN_MS + 8 * day);
        feed.send_raw(0, None, both.as_bytes(), BEGIN_MS + 8 * day);
        feed.flush();
        // The lateness exceeds the distance, so that no record is late.
        let line =
            format!("run --from {topic} {WAITS} --lateness 20d --http 127.0.0.1:0 {options}");
        let mut run = place.floodmark(&line).start();
        let at = server(&mut run);
        let lines: String = expected.iter().map(|_| run.line()).collect();
        let mut sources: Vec<String> = changes(&lines)
            .iter()
            .map(|change| change["entity"]["source"].as_str().expect("a source").to_owned())
            .collect();
        sources.sort();
        assert_eq!(sources, expected, "{:?}", events(&lines));
        let refused = 5 - expected.len();
        let series = format!("error=\"past\"}} {refused}");
        get_until(at, "/metrics", |response| response.body.contains(&series));
        run.signal("TERM", SignalTarget::Parent);
        let done = run.finish().expect(0);
        assert_eq!(done.stderr.contains("--max-behind"), refused > 0, "{}", done.stderr);
    }
}
