//! Idle, lagging, new and expired partitions; unreadable messages; the start of a run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::admin::{AdminOptions, NewPartitions};

use super::kit::{LIMITS, TopicFeed, admin, block_on, committed, delete_records};
use crate::common::broker::{Broker, random_name, read_all};
use crate::common::now_ms;
use crate::replay::fold::{changes, events, text};
use crate::replay::pcap::{Packet, packet};
use crate::replay::run::{Place, SignalTarget};
use crate::replay::traffic::{self, BEGIN_MS, Random, date};

/// Options for old packets: only later packets settle a window.
pub(super) const WAITS: &str = "--limits limits.jsonl --idle-timeout 1h --tick 50ms";

/// Returns random packets in order of time.
pub(super) fn ordered(seed: u64, count: usize) -> Vec<Packet> {
    let mut packets = traffic::packets(&mut Random::new(seed), count, 40 * 60_000);
    packets.sort_by_key(|packet| packet.ms);
    packets
}

#[test]
fn added_partitions_are_discovered_and_read() {
    for workers in ["-w1", "-n2 -w2"] {
        let place = Place::new();
        // Only the records of all partitions together break the limit.
        let limit = "{\"limit_name\":\"all\",\"limit_value\":4,\"effective_date\":\"1970-01-01\",\
                     \"per\":\"total\",\"metric\":\"packets\"}\n";
        place.write("limits.jsonl", limit);
        let topic = Broker::shared().topic("flows", 2);
        // The run looks for new partitions every second.
        let line = format!(
            "run --from {topic} --limits limits.jsonl --idle-timeout 4s --window 87600h --tick 50ms {workers}"
        );
        let mut run = place.floodmark(&line).start();
        let mut feed = TopicFeed::to(&topic);
        let at = |partition: i32| {
            packet(now_ms() + partition as u64, &format!("10.0.0.{partition}"), "10.0.1.1", 100)
        };
        for partition in 0..2 {
            feed.send(partition, at(partition));
        }
        feed.flush();
        run.wait_for("reading a partition");
        run.wait_for("reading a partition");
        let more = NewPartitions::new(&topic.topic, 5);
        let made = block_on(admin(&topic).create_partitions(&[more], &AdminOptions::new()));
        made.expect("a response").remove(0).expect("partitions were made");
        let mut feed = TopicFeed::to(&topic);
        for partition in 2..5 {
            feed.send(partition, at(partition));
        }
        feed.flush();
        assert_eq!(events(&run.line()), ["raised all 5"]);
        run.signal("TERM", SignalTarget::Parent);
        let done = run.finish().expect(0);
        assert_eq!(done.stderr.matches("reading a partition").count(), 5, "{}", done.stderr);
    }
}

#[test]
fn paused_partitions_resume_before_the_next_tick_is_due() {
    for workers in ["-w1", "-n2 -w2"] {
        let place = Place::new();
        let limit = "{\"limit_name\":\"all\",\"limit_value\":15000,\"effective_date\":\"1970-01-01\",\
                     \"per\":\"total\",\"metric\":\"packets\"}\n";
        place.write("limits.jsonl", limit);
        let topic = Broker::shared().topic("flows", 4);
        // With a packet an hour, each partition is soon paused until the others have caught up.
        let mut feed = TopicFeed::to(&topic);
        for hour in 0..20_000_u64 {
            feed.send((hour % 4) as i32, packet(hour * 3_600_000, "10.0.0.1", "10.0.1.1", 100));
        }
        feed.flush();
        let line = format!(
            "run --from {topic} --limits limits.jsonl --idle-timeout 1h --window 87600h --tick 1h \
             --max-skew 30m {workers}"
        );
        let mut run = place.floodmark(&line).start();
        assert!(text(&changes(&run.line())[0], "event") == "raised");
        run.signal("TERM", SignalTarget::Parent);
        run.finish().expect(0);
    }
}

#[test]
fn idle_partition_does_not_hold_the_watermark() {
    let place = Place::new();
    let limit = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
    place.write("limits.jsonl", limit);
    let topic = Broker::shared().topic("flows", 2);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --idle-timeout 1s --lateness 0s --tick 100ms \
         --window 1s -w2"
    );
    let mut run = place.floodmark(&line).start();
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(now_ms(), "10.0.0.1", "10.0.0.2", 100));
    let settled = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Keep the other partition busy.
            let mut busy = TopicFeed::to(&topic);
            while !settled.load(Ordering::SeqCst) {
                busy.send(1, packet(now_ms(), "10.0.0.3", "10.0.0.4", 100));
                busy.flush();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // Windows of the busy partition settle, so that the idle one does not hold the watermark.
        let mut later = 0;
        while later < 3 {
            let change = changes(&run.line()).remove(0);
            let settled = change["settled"] == true;
            later += u32::from(settled && change["entity"]["source"] == "10.0.0.3");
        }
        settled.store(true, Ordering::SeqCst);
    });
    run.signal("TERM", SignalTarget::Parent);
    let done = run.finish().expect(0);
    super::kit::assert_no_late_drops(&done);
}

#[test]
fn partition_far_behind_is_waited_for_and_no_record_is_lost() {
    for options in ["-w1", "-w2 --retention 0s", "-n2"] {
        let place = Place::new();
        place.write("limits.jsonl", LIMITS);
        let topic = Broker::shared().topic("flows", 2);
        // Without lateness, records of settled windows would be dropped.
        let line = format!(
            "run --from {topic} {WAITS} --lateness 0s --max-skew 1m --log-level debug {options}"
        );
        let mut feed = TopicFeed::to(&topic);
        let packets = ordered(721, 600);
        for packet in packets.iter().step_by(2) {
            feed.send(0, *packet);
        }
        feed.flush();
        let (first, rest) = packets.split_first().expect("packets");
        feed.send(1, *first);
        let mut run = place.floodmark(&line).start();
        run.wait_for("pausing a partition until the slowest one catches up");
        // Each partition is in order, and they are far apart.
        for (number, packet) in rest.iter().enumerate().filter(|(number, _)| number % 2 == 0) {
            feed.send(1, *packet);
            if number % 100 == 0 {
                feed.flush();
            }
        }
        feed.close(2);
        feed.replay(&place, "").check_run(run);
    }
}

#[test]
fn unreadable_messages_are_dead_lettered_and_the_run_continues() {
    for workers in ["-w1", "-n2 -w2"] {
        let place = Place::new();
        place.write("limits.jsonl", LIMITS);
        let topic = Broker::shared().topic("flows", 3);
        let kept = Broker::shared().topic("kept", 1);
        let mut feed = TopicFeed::to(&topic);
        let huge = (1u64 << 41).to_string();
        let poison: [(Option<&str>, &[u8]); 9] = [
            (None, b"\xff\xfe\x00\x80"),
            (None, b""),
            (None, b"{\"source\":"),
            (None, b"{\"source\":\"10.0.0.1\",\"destination\":\"10.0.0.2\",\"bytes\":-5,\"packets\":1}"),
            (None, b"1500"),
            (Some("10.0.0.1"), b"1500"),
            (Some("10.0.0.1 2001:db8::1"), b"1500"),
            (Some("10.0.0.1 10.0.0.2"), huge.as_bytes()),
            (Some("10.0.0.1 10.0.0.2"), b"many"),
        ];
        for (number, packet) in ordered(731, 90).iter().enumerate() {
            let partition = (number % 3) as i32;
            feed.send(partition, *packet);
            if number % 10 == 0 {
                let (key, payload) = poison[number / 10];
                feed.send_raw(partition, key, payload, BEGIN_MS);
            }
        }
        // This record is too far in the future.
        feed.send_raw(0, Some("10.0.0.1 10.0.0.2"), b"1500", now_ms() + 3_600_000);
        feed.close(3);
        let line =
            format!("run --from {topic} {WAITS} --lateness 2h --dead-letter {kept} {workers}");
        let done = feed.replay(&place, "").check_run(place.floodmark(&line).start());
        let mut letters: Vec<_> = read_all(&kept)
            .into_iter()
            .map(|letter| (letter.key, letter.payload.unwrap_or_default()))
            .collect();
        let future = (Some("10.0.0.1 10.0.0.2"), &b"1500"[..]);
        let poison = poison.into_iter().chain([future]);
        let mut expected: Vec<_> = poison
            .map(|(key, payload)| (key.map(|key| key.as_bytes().to_vec()), payload.to_vec()))
            .collect();
        letters.sort();
        expected.sort();
        assert_eq!(letters, expected, "{}", done.stderr);
        done.assert_stderr(&[
            "a record is not counted",
            "\"topic\":",
            "\"partition\":",
            "\"offset\":",
            "future",
        ]);
    }
}

/// Also large ones, while the run goes on.
#[test]
fn dead_letters_do_not_delay_the_records_after_them() {
    for workers in ["-w1", "-w2"] {
        let place = Place::new();
        let limit =
            "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
        place.write("limits.jsonl", limit);
        let topic = Broker::shared().topic("flows", 1);
        // The run creates this topic.
        let kept = Broker::shared().address(&random_name("kept"));
        let line =
            format!("run --from {topic} {WAITS} --dead-letter {kept} --create-topic {workers}");
        let mut run = place.floodmark(&line).start();
        run.wait_for("reading a partition");
        let mut feed = TopicFeed::to(&topic);
        for round in 0..3 {
            feed.send_raw(0, None, &vec![b'x'; 450_000 * round], now_ms());
            feed.flush();
            let source = format!("10.0.0.{round}");
            feed.send(0, packet(now_ms(), &source, "10.0.1.1", 100));
            feed.flush();
            let emitted = changes(&run.line()).remove(0);
            assert_eq!(emitted["entity"]["source"], source.as_str());
            // Ticks are not ahead of the clock.
            let as_of: jiff::Timestamp = text(&emitted, "as_of").parse().expect("a time");
            assert!(as_of.as_millisecond() <= now_ms() as i64, "{emitted:?}");
        }
        run.signal("TERM", SignalTarget::Parent);
        run.finish().expect(0);
        let sizes = read_all(&kept).iter().map(|one| one.text().len()).collect::<Vec<_>>();
        // The last dead letter is truncated.
        assert_eq!(sizes, [0, 450_000, 800_000]);
    }
}

#[test]
fn run_from_a_time_settles_like_a_replay_from_there() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topic = Broker::shared().topic("flows", 3);
    let begin = BEGIN_MS + 20 * 60_000;
    let (mut before, mut after) = (TopicFeed::to(&topic), TopicFeed::to(&topic));
    for (number, packet) in ordered(741, 400).into_iter().enumerate() {
        if packet.ms < begin {
            before.send((number % 3) as i32, packet);
        } else {
            // Each partition must receive the earlier packets first.
            before.flush();
            after.send((number % 3) as i32, packet);
        }
    }
    after.close(3);
    let from = date(begin);
    let line = format!("run --from {topic} {WAITS} --lateness 2h --from-offset {from} -w2");
    // Each partition has messages from before that time, so that its first window is partial.
    let replayed = after.replay(&place, "").partial_until(&from);
    let done = replayed.check_run(place.floodmark(&line).start());
    let whole = date(begin + 5 * 60_000);
    assert!(
        done.stderr.contains("windows are whole") && done.stderr.contains(&whole),
        "{}",
        done.stderr
    );
}

#[test]
fn run_from_latest_judges_no_earlier_record() {
    for workers in ["-w1", "-n2 -w2"] {
        let place = Place::new();
        let rows = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n\
                    {\"limit_name\":\"min\",\"limit_value\":1000,\"effective_date\":\"1970-01-01\",\"per\":\"total\"}\n";
        place.write("limits.jsonl", rows);
        let topic = Broker::shared().topic("flows", 4);
        let mut before = TopicFeed::to(&topic);
        for partition in 0..4 {
            before.send(partition, packet(now_ms(), "10.0.0.1", "10.0.0.2", 100));
        }
        before.flush();
        let group = random_name("group");
        let began = now_ms();
        let line = format!(
            "run --from {topic} --limits limits.jsonl --from-offset latest --group {group} \
             --idle-timeout 1s --lateness 1s --tick 100ms --window 1s {workers}"
        );
        let mut run = place.floodmark(&line).start();
        for _ in 0..4 {
            run.wait_for("reading a partition");
        }
        let mut after = TopicFeed::to(&topic);
        for partition in 0..4 {
            after.send(partition, packet(now_ms(), "10.0.0.3", "10.0.0.4", 100));
        }
        after.flush();
        // A window without records breaks the `min`.
        loop {
            let change = changes(&run.line()).remove(0);
            if change["limit_name"] == "min" && change["settled"] == true && change["amount"] == 0 {
                break;
            }
        }
        run.signal("TERM", SignalTarget::Parent);
        let done = run.finish().expect(0);
        let emitted = changes(&done.stdout);
        let of = |source: &str| {
            emitted.iter().filter(|change| change["entity"]["source"] == source).count()
        };
        assert!(of("10.0.0.1") == 0 && of("10.0.0.3") > 0, "{}", done.stdout);
        // The windows up to the start of the run are partial, so that no `min` judges them.
        let whole = date(began - began % 1000 + 1000);
        for change in emitted.iter().filter(|change| change["limit_name"] == "min") {
            assert!(text(change, "window_start") >= whole.as_str(), "{change:?}, began {began}");
        }
        for (committed, end) in committed(&topic, &group, 4) {
            assert_eq!((committed, end), (2, 2));
        }
    }
}

#[test]
fn records_that_expire_before_they_are_read_end_the_run() {
    // The worker that detects the loss need not be the leader.
    for (workers, ahead) in [("-w1", 0), ("-w2", 1), ("-n2", 1)] {
        let place = Place::new();
        place.write("limits.jsonl", LIMITS);
        let topic = Broker::shared().topic("flows", 2);
        let mut feed = TopicFeed::to(&topic);
        for minute in 0..100 {
            feed.send(ahead, packet(BEGIN_MS + minute * 60_000, "10.0.0.1", "10.0.0.2", 30_000));
        }
        feed.send(1 - ahead, packet(BEGIN_MS, "10.0.0.3", "10.0.0.4", 30_000));
        feed.flush();
        let line = format!("run --from {topic} {WAITS} --max-skew 1m --log-level debug {workers}");
        let mut run = place.floodmark(&line).start();
        run.wait_for("pausing a partition until the slowest one catches up");
        // The next messages of the paused partition are deleted, and later ones remain.
        for minute in 100..110 {
            feed.send(ahead, packet(BEGIN_MS + minute * 60_000, "10.0.0.1", "10.0.0.2", 30_000));
        }
        feed.flush();
        delete_records(&topic, ahead, 105);
        feed.close(2);
        run.finish().expect(1).assert_stderr(&[
            &topic.topic,
            &format!("partition {ahead}: offset"),
            "does not exist any more",
            "records were lost",
            "retention.ms",
        ]);
    }
}
