//! Files, standard output and several clusters as outputs of a run with a state: each gets every change once.

use std::fs;

use floodmark::kafka::Address;

use super::kit::{LIMITS, ReplayResult, TopicFeed};
use super::restarts::check;
use super::sinks::new_address;
use super::state::{EACH, checkpoints, made, send};
use crate::common::broker::{Broker, random_name};
use crate::replay::fold::{Object, fold, text};
use crate::replay::pcap::{packet, pcap};
use crate::replay::run::{Done, Live, Place, SignalTarget};
use crate::replay::traffic::{BEGIN_MS, Random};
use crate::serving::{get_until, server};

const OPTIONS: &str = "--limits limits.jsonl --lateness 2h --checkpoint-interval 50ms --state state \
    --idle-timeout 1h --tick 50ms";

fn line(from: &Address, more: &str) -> String {
    format!("run --from {from} {OPTIONS} {more}")
}

fn run_to_end(place: &Place, from: &Address, more: &str) -> Done {
    place.floodmark(&format!("{} --until-end", line(from, more))).run().expect(0)
}

fn kill(run: Live) -> Done {
    run.signal("KILL", SignalTarget::Group);
    run.finish_killed()
}

/// Asserts that lines are the changes of a replay, each once.
pub(super) fn check_lines(place: &Place, lines: &str) {
    let mut last = std::collections::BTreeMap::<String, Object>::new();
    for line in lines.lines() {
        let mut change: Object =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        change.remove("as_of");
        let before = last.insert(text(&change, "id").to_owned(), change.clone());
        assert_ne!(before, Some(change), "repeated");
    }
    ReplayResult::whole(place, "made.pcap").assert_stands(fold(lines), || lines.to_owned());
}

#[test]
fn file_of_a_run_killed_at_random_moments_has_each_change_once() {
    let (place, packets) = made(811, 1500);
    let random = &mut Random::new(811);
    let from = Broker::shared().topic("flows", 3);
    let mut feed = TopicFeed::to(&from);
    for slice in packets.chunks(250) {
        send(&mut feed, slice);
        let shape = random.pick(&["-w1", "-w2", "-n2 -w1"]);
        let mut run =
            place.floodmark(&line(&from, &format!("--to out.jsonl --to - {shape}"))).start();
        (0..=random.below(5)).for_each(|_| drop(run.line()));
        kill(run);
    }
    run_to_end(&place, &from, "--to out.jsonl -w2");
    check_lines(&place, &place.read("out.jsonl"));
}

#[test]
fn standard_output_of_a_run_that_is_started_again_repeats_nothing() {
    let (place, packets) = made(821, 900);
    let from = Broker::shared().topic("flows", 3);
    let mut feed = TopicFeed::to(&from);
    let mut printed = String::new();
    for (shape, slice) in ["-w1", "-n2 -w1", "-w2"].into_iter().zip(packets.chunks(300)) {
        send(&mut feed, slice);
        let mut run = place.floodmark(&line(&from, shape)).start();
        run.line();
        run.signal("TERM", SignalTarget::Parent);
        printed += &run.finish().expect(0).stdout;
    }
    printed += &run_to_end(&place, &from, "-w2").stdout;
    check_lines(&place, &printed);
}

/// The second file is new to the second run, and the third one to the third run.
#[test]
fn file_that_is_new_to_a_state_begins_with_what_stands() {
    let (place, packets) = made(835, 900);
    let from = Broker::shared().topic("flows", 3);
    let mut feed = TopicFeed::to(&from);
    let outputs = [
        "--to - --to 1.jsonl",
        "--to - --to 1.jsonl --to 2.jsonl",
        "--to - --to 1.jsonl --to 3.jsonl",
    ];
    for (outputs, slice) in outputs.into_iter().zip(packets.chunks(300)) {
        send(&mut feed, slice);
        let mut run = place.floodmark(&line(&from, &format!("{outputs} -w2"))).start();
        run.line();
        kill(run);
    }
    // The third run has gone on without the second file.
    let last = "--to - --to 1.jsonl --to 2.jsonl --to 3.jsonl";
    let rejected = place.floodmark(&line(&from, last)).run().expect(69);
    rejected.assert_stderr(&["the run before did not write", "2.jsonl", "Move it away"]);
    fs::rename(place.path("2.jsonl"), place.path("2.old")).expect("it is there");
    run_to_end(&place, &from, last);
    for file in ["1.jsonl", "2.jsonl", "3.jsonl"] {
        check_lines(&place, &place.read(file));
    }
}

#[test]
fn file_that_was_rotated_while_the_run_was_down_is_named() {
    let (place, packets) = made(831, 600);
    let from = Broker::shared().topic("flows", 3);
    let mut feed = TopicFeed::to(&from);
    let (first, second) = packets.split_at(300);
    send(&mut feed, first);
    let mut run = place.floodmark(&line(&from, "--to out.jsonl --to -")).start();
    run.line();
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
    fs::rename(place.path("out.jsonl"), place.path("out.1")).expect("it is there");
    send(&mut feed, second);
    let done = run_to_end(&place, &from, "--to out.jsonl --to -");
    done.assert_stderr(&["the file is not as the run before has left it"]);
    check_lines(&place, &(place.read("out.1") + &place.read("out.jsonl")));
}

#[test]
fn outputs_of_which_one_lacks_ticks_get_what_each_lacks() {
    let (place, packets) = made(841, 900);
    let from = Broker::shared().topic("flows", 3);
    let other = Broker::own();
    let (here, there) = (new_address("alerts"), other.address(&random_name("alerts")));
    let mut feed = TopicFeed::to(&from);
    let outputs = format!("--to {here} --to {there} --to out.jsonl --create-topic");
    for (round, slice) in packets.chunks(300).enumerate() {
        send(&mut feed, slice);
        let mut run = place.floodmark(&line(&from, &format!("{outputs} --to - -w2"))).start();
        run.line();
        if round == 1 {
            // The other cluster gets nothing of the ticks that follow.
            other.stop();
            while place.read("out.jsonl").lines().count() < 500 {
                run.line();
            }
            kill(run);
            other.start();
        } else {
            kill(run);
        }
    }
    run_to_end(&place, &from, &format!("{outputs} -n2 -w2"));
    check_lines(&place, &place.read("out.jsonl"));
    check(&place, &here, "made.pcap");
    check(&place, &there, "made.pcap");
}

/// A file is where the folder of the records should be.
#[test]
fn lines_are_written_while_their_records_can_not_be() {
    let place = Place::new();
    place.write("limits.jsonl", format!("{LIMITS}{EACH}\n"));
    let from = Broker::shared().topic("flows", 1);
    let mut feed = TopicFeed::to(&from);
    let more = "--http 127.0.0.1:0 --updates tick --to out.jsonl --to -";
    let mut run = place.floodmark(&line(&from, more)).start();
    let http = server(&mut run);
    let send = |feed: &mut TopicFeed, number: u64, run: &mut Live| {
        feed.send(0, packet(BEGIN_MS + number, "10.0.0.1", "10.0.0.2", 100));
        feed.flush();
        while !run.line().contains(&format!("\"packets\":{number}")) {}
    };
    send(&mut feed, 1, &mut run);
    let (ticks, kept) = (place.path("state/ticks"), place.path("state/kept"));
    fs::rename(&ticks, &kept).expect("it is there");
    fs::write(&ticks, "no folder").expect("it can be written");
    send(&mut feed, 2, &mut run);
    let unready = get_until(http, "/readyz", |page| page.body.contains("state_not_durable"));
    assert_eq!(unready.status, 503);
    fs::remove_file(&ticks).expect("it is there");
    fs::rename(&kept, &ticks).expect("it is there");
    get_until(http, "/readyz", |page| page.status == 200);
    send(&mut feed, 3, &mut run);
    let written = checkpoints(&place).len();
    assert!(written > 0);
    kill(run);
    place.write("made.pcap", pcap(feed.sent()));
    run_to_end(&place, &from, "--to out.jsonl --updates tick");
    let text = place.read("out.jsonl");
    ReplayResult::whole(&place, "made.pcap").assert_stands(fold(&text), || text.clone());
}

/// The run can't end: the broker of one output is down.
#[test]
fn output_that_lacked_the_end_gets_it_from_the_next_run() {
    let (place, packets) = made(845, 300);
    let from = Broker::shared().topic("flows", 3);
    let other = Broker::own();
    let there = other.address(&random_name("alerts"));
    let mut feed = TopicFeed::to(&from);
    send(&mut feed, &packets[..100]);
    let words = line(&from, &format!("--to {there} --to out.jsonl --create-topic"));
    let mut first = place.floodmark(&format!("{words} --to -")).start();
    first.line();
    kill(first);
    send(&mut feed, &packets[100..]);
    let ending = words.replace("--tick 50ms", "--tick 2s");
    let mut ending = place.floodmark(&format!("{ending} --to - --until-end")).start();
    ending.wait_for("the state is restored");
    other.pause();
    ending.wait_for("the run ends when all is delivered");
    kill(ending);
    other.resume();
    place.floodmark(&format!("{words} --until-end")).run().expect(0);
    check_lines(&place, &place.read("out.jsonl"));
    check(&place, &there, "made.pcap");
    let again = place.floodmark(&format!("{words} --until-end")).run().expect(69);
    again.assert_stderr(&["has come to its end by --until-end"]);
}
