//! Runs with a state whose limits or options are others than those of the run before.

use std::fs;

use floodmark::kafka::Address;

use super::kit::{LIMITS, TopicFeed};
use super::restarts::{alerts, check};
use super::sinks::new_address;
use super::state::{EACH, OPTIONS, made, send};
use crate::common::broker::Broker;
use crate::replay::run::{Live, Place, SignalTarget};
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
    let (place, packets) = made(897, 600);
    let from = Broker::shared().topic("flows", 3);
    let to = new_address("alerts");
    let mut feed = TopicFeed::to(&from);
    send(&mut feed, &packets[..300]);
    let mut first = start(&place, &from, &to, "--restart");
    first.line();
    first.signal("STOP", SignalTarget::Group);
    send(&mut feed, &packets[300..]);
    place.floodmark(&line(&from, &to, "--state other --until-end")).run().expect(0);
    let before = alerts(&to);
    first.signal("CONT", SignalTarget::Group);
    let ended = first.finish().expect(76);
    ended.assert_stderr(&["starting all processes again", "a run with another state publishes as"]);
    assert_eq!(alerts(&to), before);
    check(&place, &to, "made.pcap");
}
