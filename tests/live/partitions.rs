//! Partitions that are idle, behind, new or cut; messages that can't be read; where a run begins.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::admin::{AdminOptions, NewPartitions};

use super::kit::{Feed, LIMITS, admin, committed, delete_records, wait};
use crate::common::broker::{Broker, random_name, read_all};
use crate::common::now_ms;
use crate::replay::fold::{changes, events, text};
use crate::replay::pcap::{Packet, packet};
use crate::replay::run::{Place, Whom};
use crate::replay::traffic::{self, BEGIN_MS, Random, date};

/// For packets of long ago: nothing settles but by later ones.
pub(super) const WAITS: &str = "--limits limits.jsonl --idle-timeout 1h --tick 50ms";

/// Random packets in the order of time.
pub(super) fn ordered(seed: u64, count: usize) -> Vec<Packet> {
    let mut packets = traffic::packets(&mut Random::new(seed), count, 40 * 60_000);
    packets.sort_by_key(|packet| packet.ms);
    packets
}

#[test]
fn partitions_that_come_into_being_are_found() {
    for workers in ["-w1", "-n2 -w2"] {
        let place = Place::new();
        // Broken when the records of all partitions are counted, and not before.
        let limit = "{\"limit_name\":\"all\",\"limit_value\":4,\"effective_date\":\"1970-01-01\",\
                     \"per\":\"total\",\"metric\":\"packets\"}\n";
        place.write("limits.jsonl", limit);
        let topic = Broker::shared().topic("flows", 2);
        // New ones are looked for every second.
        let line = format!(
            "run --from {topic} --limits limits.jsonl --idle-timeout 4s --window 87600h --tick 50ms {workers}"
        );
        let mut run = place.floodmark(&line).start();
        let mut feed = Feed::to(&topic);
        let at = |partition: i32| {
            packet(now_ms() + partition as u64, &format!("10.0.0.{partition}"), "10.0.1.1", 100)
        };
        for partition in 0..2 {
            feed.give(partition, at(partition));
        }
        feed.flush();
        run.wait_for("reads a partition");
        run.wait_for("reads a partition");
        let more = NewPartitions::new(&topic.topic, 5);
        let made = wait(admin(&topic).create_partitions(&[more], &AdminOptions::new()));
        made.expect("an answer").remove(0).expect("partitions were made");
        let mut feed = Feed::to(&topic);
        for partition in 2..5 {
            feed.give(partition, at(partition));
        }
        feed.flush();
        assert_eq!(events(&run.line()), ["raised all 5"]);
        run.signal("TERM", Whom::Parent);
        let done = run.finish().expect(0);
        assert_eq!(done.stderr.matches("reads a partition").count(), 5, "{}", done.stderr);
    }
}

#[test]
fn those_that_wait_for_each_other_do_not_wait_for_the_tick() {
    for workers in ["-w1", "-n2 -w2"] {
        let place = Place::new();
        let limit = "{\"limit_name\":\"all\",\"limit_value\":15000,\"effective_date\":\"1970-01-01\",\
                     \"per\":\"total\",\"metric\":\"packets\"}\n";
        place.write("limits.jsonl", limit);
        let topic = Broker::shared().topic("flows", 4);
        // A packet every hour: whoever has read a few must wait until the others have come up.
        let mut feed = Feed::to(&topic);
        for hour in 0..20_000_u64 {
            feed.give((hour % 4) as i32, packet(hour * 3_600_000, "10.0.0.1", "10.0.1.1", 100));
        }
        feed.flush();
        let line = format!(
            "run --from {topic} --limits limits.jsonl --idle-timeout 1h --window 87600h --tick 1h \
             --max-skew 30m {workers}"
        );
        let mut run = place.floodmark(&line).start();
        assert!(text(&changes(&run.line())[0], "event") == "raised");
        run.signal("TERM", Whom::Parent);
        run.finish().expect(0);
    }
}

#[test]
fn one_that_is_idle_holds_nothing_up() {
    let place = Place::new();
    let limit = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
    place.write("limits.jsonl", limit);
    let topic = Broker::shared().topic("flows", 2);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --idle-timeout 1s --lateness 0s --tick 100ms \
         --window 1s -w2"
    );
    let mut run = place.floodmark(&line).start();
    let mut feed = Feed::to(&topic);
    feed.give(0, packet(now_ms(), "10.0.0.1", "10.0.0.2", 100));
    let settled = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A partition in which something is always coming.
            let mut busy = Feed::to(&topic);
            while !settled.load(Ordering::SeqCst) {
                busy.give(1, packet(now_ms(), "10.0.0.3", "10.0.0.4", 100));
                busy.flush();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // The window of the last packet of the other partition settles, and later ones of the busy one.
        let mut later = 0;
        while later < 3 {
            let change = changes(&run.line()).remove(0);
            let settled = change["settled"] == true;
            later += u32::from(settled && change["entity"]["source"] == "10.0.0.3");
        }
        settled.store(true, Ordering::SeqCst);
    });
    run.signal("TERM", Whom::Parent);
    let done = run.finish().expect(0);
    super::kit::nothing_lost(&done);
}

#[test]
fn one_that_is_far_behind_is_waited_for() {
    for options in ["-w1", "-w2 --retention 0s", "-n2"] {
        let place = Place::new();
        place.write("limits.jsonl", LIMITS);
        let topic = Broker::shared().topic("flows", 2);
        // All that comes after its window has settled would be dropped.
        let line = format!(
            "run --from {topic} {WAITS} --lateness 0s --max-skew 1m --log-level debug {options}"
        );
        let mut feed = Feed::to(&topic);
        let packets = ordered(721, 600);
        for packet in packets.iter().step_by(2) {
            feed.give(0, *packet);
        }
        feed.flush();
        let (first, rest) = packets.split_first().expect("packets");
        feed.give(1, *first);
        let mut run = place.floodmark(&line).start();
        run.wait_for("waits for partitions that are behind");
        // In order in each partition, and far apart between them.
        for (number, packet) in rest.iter().enumerate().filter(|(number, _)| number % 2 == 0) {
            feed.give(1, *packet);
            if number % 100 == 0 {
                feed.flush();
            }
        }
        feed.close(2);
        feed.answer(&place, "").hold(run);
    }
}

#[test]
fn what_can_not_be_read_is_set_aside_and_stops_nothing() {
    for workers in ["-w1", "-n2 -w2"] {
        let place = Place::new();
        place.write("limits.jsonl", LIMITS);
        let topic = Broker::shared().topic("flows", 3);
        let kept = Broker::shared().topic("kept", 1);
        let mut feed = Feed::to(&topic);
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
            feed.give(partition, *packet);
            if number % 10 == 0 {
                let (key, payload) = poison[number / 10];
                feed.raw(partition, key, payload, BEGIN_MS);
            }
        }
        // As far ahead as no clock is.
        feed.raw(0, Some("10.0.0.1 10.0.0.2"), b"1500", now_ms() + 3_600_000);
        feed.close(3);
        let line =
            format!("run --from {topic} {WAITS} --lateness 2h --dead-letter {kept} {workers}");
        let done = feed.answer(&place, "").hold(place.floodmark(&line).start());
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
        done.says(&[
            "a record is not counted",
            "\"topic\":",
            "\"partition\":",
            "\"offset\":",
            "future",
        ]);
    }
}

/// It reads on while it runs, not only at its end, and large ones do no harm.
#[test]
fn what_is_set_aside_leaves_at_once() {
    for workers in ["-w1", "-w2"] {
        let place = Place::new();
        let limit =
            "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";
        place.write("limits.jsonl", limit);
        let topic = Broker::shared().topic("flows", 1);
        // It is made.
        let kept = Broker::shared().address(&random_name("kept"));
        let line =
            format!("run --from {topic} {WAITS} --dead-letter {kept} --create-topic {workers}");
        let mut run = place.floodmark(&line).start();
        run.wait_for("reads a partition");
        let mut feed = Feed::to(&topic);
        for round in 0..3 {
            feed.raw(0, None, &vec![b'x'; 450_000 * round], now_ms());
            feed.flush();
            let source = format!("10.0.0.{round}");
            feed.give(0, packet(now_ms(), &source, "10.0.1.1", 100));
            feed.flush();
            let said = changes(&run.line()).remove(0);
            assert_eq!(said["entity"]["source"], source.as_str());
            // Ticks are no faster than the clock.
            let as_of: jiff::Timestamp = text(&said, "as_of").parse().expect("a time");
            assert!(as_of.as_millisecond() <= now_ms() as i64, "{said:?}");
        }
        run.signal("TERM", Whom::Parent);
        run.finish().expect(0);
        let sizes = read_all(&kept).iter().map(|one| one.text().len()).collect::<Vec<_>>();
        // The last one is cut.
        assert_eq!(sizes, [0, 450_000, 800_000]);
    }
}

#[test]
fn a_run_may_begin_at_a_time() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topic = Broker::shared().topic("flows", 3);
    let begin = BEGIN_MS + 20 * 60_000;
    let (mut before, mut after) = (Feed::to(&topic), Feed::to(&topic));
    for (number, packet) in ordered(741, 400).into_iter().enumerate() {
        if packet.ms < begin {
            before.give((number % 3) as i32, packet);
        } else {
            // In this order in each partition.
            before.flush();
            after.give((number % 3) as i32, packet);
        }
    }
    after.close(3);
    let from = date(begin);
    let line = format!("run --from {topic} {WAITS} --lateness 2h --from-offset {from} -w2");
    // Each partition has messages from before that time, and its first one after it soon after.
    let answer = after.answer(&place, "").partial_until(&from);
    let done = answer.hold(place.floodmark(&line).start());
    let whole = date(begin + 5 * 60_000);
    assert!(
        done.stderr.contains("windows are whole") && done.stderr.contains(&whole),
        "{}",
        done.stderr
    );
}

#[test]
fn from_the_latest_on_nothing_is_said_of_what_was_before() {
    for workers in ["-w1", "-n2 -w2"] {
        let place = Place::new();
        let rows = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n\
                    {\"limit_name\":\"min\",\"limit_value\":1000,\"effective_date\":\"1970-01-01\",\"per\":\"total\"}\n";
        place.write("limits.jsonl", rows);
        let topic = Broker::shared().topic("flows", 4);
        let mut before = Feed::to(&topic);
        for partition in 0..4 {
            before.give(partition, packet(now_ms(), "10.0.0.1", "10.0.0.2", 100));
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
            run.wait_for("reads a partition");
        }
        let mut after = Feed::to(&topic);
        for partition in 0..4 {
            after.give(partition, packet(now_ms(), "10.0.0.3", "10.0.0.4", 100));
        }
        after.flush();
        // Silence is noticed, and said.
        loop {
            let change = changes(&run.line()).remove(0);
            if change["limit_name"] == "min" && change["settled"] == true && change["amount"] == 0 {
                break;
            }
        }
        run.signal("TERM", Whom::Parent);
        let done = run.finish().expect(0);
        let said = changes(&done.stdout);
        let of = |source: &str| {
            said.iter().filter(|change| change["entity"]["source"] == source).count()
        };
        assert!(of("10.0.0.1") == 0 && of("10.0.0.3") > 0, "{}", done.stdout);
        // The window in which it began, and those before, were not seen as a whole.
        let whole = date(began - began % 1000 + 1000);
        for change in said.iter().filter(|change| change["limit_name"] == "min") {
            assert!(text(change, "window_start") >= whole.as_str(), "{change:?}, began {began}");
        }
        for (committed, end) in committed(&topic, &group, 4) {
            assert_eq!((committed, end), (2, 2));
        }
    }
}

#[test]
fn records_that_expire_before_they_are_read_are_no_answer() {
    // Whoever finds out is not always the one who leads.
    for (workers, ahead) in [("-w1", 0), ("-w2", 1), ("-n2", 1)] {
        let place = Place::new();
        place.write("limits.jsonl", LIMITS);
        let topic = Broker::shared().topic("flows", 2);
        let mut feed = Feed::to(&topic);
        for minute in 0..100 {
            feed.give(ahead, packet(BEGIN_MS + minute * 60_000, "10.0.0.1", "10.0.0.2", 30_000));
        }
        feed.give(1 - ahead, packet(BEGIN_MS, "10.0.0.3", "10.0.0.4", 30_000));
        feed.flush();
        let line = format!("run --from {topic} {WAITS} --max-skew 1m --log-level debug {workers}");
        let mut run = place.floodmark(&line).start();
        run.wait_for("waits for partitions that are behind");
        // The next ones of the partition that waits are deleted, and more come.
        for minute in 100..110 {
            feed.give(ahead, packet(BEGIN_MS + minute * 60_000, "10.0.0.1", "10.0.0.2", 30_000));
        }
        feed.flush();
        delete_records(&topic, ahead, 105);
        feed.close(2);
        run.finish().expect(1).says(&[
            &topic.topic,
            &format!("partition {ahead}: offset"),
            "not there any more",
            "records were lost",
            "retention.ms",
        ]);
    }
}
