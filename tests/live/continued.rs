//! Runs with a state whose limits or options are others than those of the run before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use floodmark::kafka::{Address, Outgoing};

use super::kit::{LIMITS, TopicFeed};
use super::restarts::{alerts, check};
use super::sinks::new_address;
use super::state::{EACH, OPTIONS, made, send};
use crate::common::broker::{Broker, produce, read_all};
use crate::replay::fold::{fold, text};
use crate::replay::run::{Live, Place, SignalTarget};
use crate::replay::traffic::Random;
use crate::serving::{get_until, server};

fn line(from: &Address, to: &Address, more: &str) -> String {
    let state = if more.contains("--state") { "" } else { "--state state" };
    format!("run --from {from} --to {to} {OPTIONS} {state} --idle-timeout 1h --tick 50ms {more}")
}

fn start(place: &Place, from: &Address, to: &Address, more: &str) -> Live {
    place.floodmark(&line(from, to, &format!("--to - {more}"))).start()
}

fn kill(run: Live) {
    run.signal("KILL", SignalTarget::Group);
    run.finish_killed();
}

#[test]
fn run_whose_limits_can_not_be_read_starts_with_those_of_its_state() {
    let (place, packets) = made(851, 900);
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&from);
    send(&mut feed, &packets[..300]);
    let mut run = start(&place, &from, &to, "");
    run.line();
    kill(run);
    let limits = place.read("limits.jsonl");
    fs::remove_file(place.path("limits.jsonl")).expect("it is there");
    send(&mut feed, &packets[300..600]);
    let mut run = start(&place, &from, &to, "--http 127.0.0.1:0 -w2");
    let http = server(&mut run);
    run.wait_for("the run starts with those of its state");
    let unready = get_until(http, "/readyz", |page| page.body.contains("limits"));
    assert!(unready.status == 503 && unready.body.contains("No such file"), "{}", unready.body);
    // By the limits of the state, each packet of the second part changes an alert.
    run.line();
    // Edits of the meantime are changes like others.
    let edited = limits.replacen(EACH, "", 1) + LIMITS;
    place.write("limits.jsonl", edited);
    run.wait_for("can be read again");
    get_until(http, "/readyz", |page| page.status == 200);
    kill(run);
    send(&mut feed, &packets[600..]);
    place.floodmark(&line(&from, &to, "--until-end -n2")).run().expect(0);
    check(&place, &to, "made.pcap");
}

#[test]
fn first_run_whose_limits_can_not_be_read_is_rejected() {
    let (place, _) = made(861, 10);
    let from = Broker::shared().topic("flows", 1);
    fs::remove_file(place.path("limits.jsonl")).expect("it is there");
    let run = start(&place, &from, &new_address("alerts"), "");
    run.finish().expect(66).assert_stderr(&["limits.jsonl", "No such file"]);
}

/// A record without a zone.
fn local(time: &str, bytes: u64) -> String {
    format!(
        r#"{{"time":"2024-01-10T{time}","source":"10.0.0.1","destination":"10.0.0.2","bytes":{bytes},"packets":1}}"#
    )
}

/// Windows that have settled stay so. Ticks that are repeated count what they counted, by the rules of their time.
#[test]
fn options_that_change_hold_from_the_first_new_tick_on() {
    for checkpoints in ["1h", "20ms"] {
        let place = Place::new();
        place.write("limits.jsonl", EACH);
        let from = Broker::shared().topic("local", 1);
        let to = new_address("alerts");
        let line = |rules: &str| {
            format!(
                "run --from {from} --to {to} --limits limits.jsonl --create-topic --state state --to - \
                 --idle-timeout 1h --tick 20ms --updates tick --checkpoint-interval {checkpoints} {rules}"
            )
        };
        let send = |records: &[(&str, u64)]| {
            let records: Vec<_> = records.iter().map(|(time, bytes)| local(time, *bytes)).collect();
            let messages = records
                .iter()
                .map(|record| Outgoing { payload: Some(record.as_bytes()), ..Outgoing::default() });
            produce(&from, &messages.collect::<Vec<_>>());
        };
        let wait_for = |run: &mut Live, window: &str, bytes: u64| {
            let (window, bytes) = (format!("T{window}:00Z\""), format!("\"amount\":{bytes},"));
            let is_it = |line: &str| line.contains(&window) && line.contains(&bytes);
            while !is_it(&run.line()) {}
        };

        let mut run = place.floodmark(&line("--lateness 0s")).start();
        send(&[("10:00:00", 100)]);
        wait_for(&mut run, "10:00", 100);
        send(&[("10:20:00", 200)]);
        wait_for(&mut run, "10:20", 200);
        send(&[("10:01:00", 4000), ("10:21:00", 1)]);
        wait_for(&mut run, "10:20", 201);
        kill(run);

        let rules = "--lateness 2h --max-behind 30m --input-timezone Europe/Berlin -w2";
        let mut run = place.floodmark(&line(rules)).start();
        send(&[("11:22:00", 1000), ("11:02:00", 5000), ("11:40:00", 10)]);
        wait_for(&mut run, "10:40", 10);
        send(&[("11:23:00", 2000), ("11:05:00", 7000), ("11:41:00", 20)]);
        wait_for(&mut run, "10:40", 30);
        kill(run);

        send(&[("10:24:00", 9000)]);
        place.floodmark(&line("--lateness 0s --until-end -n2")).run().expect(0);
        let alerts = alerts(&to);
        let folded = fold(&alerts);
        let amounts = folded.values().map(|alert| {
            (text(alert, "window_start").to_owned(), alert["amount"].as_u64().expect("a number"))
        });
        let expected = [("10:00", 100), ("10:20", 3201), ("10:40", 30)];
        let expected = expected.map(|(window, bytes)| (format!("2024-01-10T{window}:00Z"), bytes));
        assert_eq!(amounts.collect::<BTreeMap<_, _>>(), BTreeMap::from(expected), "{alerts}");
        assert_eq!(alerts.matches("\"event\":\"raised\"").count(), 3, "{alerts}");
    }
}

/// There are more than a tick takes. Some are too large for their topic, and are cut.
#[test]
fn dead_letters_of_killed_runs_are_each_sent_once() {
    let (place, packets) = made(871, 300);
    let from = Broker::shared().topic("flows", 3);
    let (to, dead) = (new_address("alerts"), Broker::shared().topic("dead", 2));
    Broker::shared().alter(&dead, "max.message.bytes", "50000");
    let mut feed = TopicFeed::to(&from);
    let letter = |number: usize| {
        let size = if number.is_multiple_of(4) { 90_000 } else { 10 };
        let random = &mut Random::new(number as u64);
        // The client compresses what repeats.
        let text = (0..size).map(|_| char::from(b'a' + random.below(26) as u8));
        format!("letter {number} {}", text.collect::<String>())
    };
    let name = |letter: &str| letter.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let dead_letters = format!("--dead-letter {dead}");
    let mut letters = BTreeSet::new();
    for (round, slice) in packets.chunks(75).enumerate() {
        for (at, packet) in slice.iter().enumerate() {
            let letter = letter(75 * round + at);
            feed.send_raw(at as i32 % 3, None, letter.as_bytes(), packet.ms);
            letters.insert(name(&letter));
        }
        send(&mut feed, slice);
        let workers = ["-w1", "-w2", "-n2", "-n2 -w2"][round];
        let mut run = start(&place, &from, &to, &format!("{dead_letters} {workers}"));
        (0..5).for_each(|_| drop(run.line()));
        kill(run);
    }
    place.floodmark(&line(&from, &to, &format!("{dead_letters} --until-end -w2"))).run().expect(0);
    check(&place, &to, "made.pcap");
    let kept = read_all(&dead);
    assert!(kept.iter().all(|kept| kept.text().len() < 50_000));
    let mut kept: Vec<_> = kept.iter().map(|kept| name(kept.text())).collect();
    kept.sort();
    assert!(kept.iter().eq(&letters), "{} letters instead of {}", kept.len(), letters.len());
}

/// Both have the same group and topic.
#[test]
fn state_continued_after_a_run_with_another_one_repeats_nothing() {
    let (place, packets) = made(895, 900);
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&from);
    let parts = ["--state state", "--state other", "--state state"];
    for (state, slice) in parts.into_iter().zip(packets.chunks(300)) {
        send(&mut feed, slice);
        let words = line(&from, &to, &format!("--to - {state}"));
        let mut run = place.floodmark(&words).start();
        (0..40).for_each(|_| drop(run.line()));
        kill(run);
    }
    place.floodmark(&line(&from, &to, "--until-end")).run().expect(0);
    check(&place, &to, "made.pcap");
}

#[test]
fn supervised_run_that_another_one_has_replaced_is_not_started_again() {
    // With and without ticks that it has published.
    for published in [300, 0] {
        let (place, packets) = made(897, 600);
        let from = Broker::shared().topic("flows", 3);
        let to = new_address("alerts");
        let mut feed = TopicFeed::to(&from);
        send(&mut feed, &packets[..published]);
        let mut first = start(&place, &from, &to, "--restart");
        let _ = match published {
            0 => first.wait_for("ready: everything that the broker has is judged"),
            _ => first.line(),
        };
        first.signal("STOP", SignalTarget::Group);
        send(&mut feed, &packets[published..]);
        place.floodmark(&line(&from, &to, "--state other --until-end")).run().expect(0);
        let before = alerts(&to);
        first.signal("CONT", SignalTarget::Group);
        let ended = first.finish().expect(76);
        ended.assert_stderr(&[
            "starting all processes again",
            "a run with another state publishes as",
        ]);
        assert_eq!(alerts(&to), before);
        check(&place, &to, "made.pcap");
    }
}
