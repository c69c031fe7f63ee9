//! Processes of one machine that are looked after: one dies, hangs or panics, and all end.

use std::fs::File;
use std::time::Duration;

use super::fold::events;
use super::pcap::packet;
use super::pipes::{Feed, LIMITS};
use super::run::{Live, Place, Whom};

/// Longer than a process that is well is silent on a busy machine.
const HANG: &str = "--hang-timeout 3s";

/// A replay that has judged something, and goes on for as long as its input does.
fn computing(place: &Place, options: &str) -> (Live, Feed) {
    let pipe = place.fifo("pipe");
    place.write("limits.jsonl", LIMITS);
    let line = format!("replay pipe --limits limits.jsonl {options}");
    let mut run = place.floodmark(&line).start();
    let mut feed = Feed::open(&pipe);
    feed.packet(packet(1_000, "10.0.0.1", "10.0.0.2", 1200));
    feed.packet(packet(2_000, "10.0.0.1", "10.0.0.2", 1200));
    assert_eq!(events(&run.line()), ["raised big 1200"]);
    (run, feed)
}

#[test]
fn each_process_that_is_killed_ends_all_and_is_named() {
    for victim in 0..3 {
        let place = Place::new();
        let (run, feed) = computing(&place, "-n3");
        run.signal("KILL", Whom::Child(victim));
        let done = run.finish().expect(1);
        drop(feed);
        let says = format!(
            "floodmark: process {victim} was killed by signal 9 (SIGKILL): all processes were ended\n"
        );
        assert_eq!(done.stderr, says);
    }
}

#[test]
fn each_process_that_is_stopped_ends_all_and_is_named() {
    for victim in 0..2 {
        let place = Place::new();
        let (run, feed) = computing(&place, &format!("-n2 {HANG}"));
        run.signal("STOP", Whom::Child(victim));
        let done = run.finish().expect(1);
        drop(feed);
        let says = format!(
            "floodmark: process {victim} gave no sign of life for 3s: all processes were ended\n"
        );
        assert_eq!(done.stderr, says);
    }
}

/// As by Ctrl-Z and `fg`: nobody was silent for others that ran.
#[test]
fn all_that_are_stopped_go_on() {
    let place = Place::new();
    let (mut run, mut feed) = computing(&place, &format!("-n2 {HANG}"));
    run.signal("STOP", Whom::Group);
    // There is no event to wait for: it is time that must pass, more than the time-out.
    std::thread::sleep(Duration::from_secs(4));
    run.signal("CONT", Whom::Group);
    feed.packet(packet(3_000, "10.0.0.1", "10.0.0.3", 1200));
    feed.packet(packet(4_000, "10.0.0.1", "10.0.0.3", 1200));
    assert_eq!(events(&run.line()), ["raised big 1200"]);
    drop(feed);
    run.finish().expect(0);
}

#[test]
fn a_panic_is_named() {
    for (victim, process) in [("1", 0), ("2", 1)] {
        let place = Place::new();
        let pipe = place.fifo("pipe");
        let held = File::options().read(true).write(true).open(&pipe).expect("opening the pipe");
        let run = place.floodmark("replay pipe -n2 -w2").env("FLOODMARK_PANIC_WORKER", victim);
        let done = run.run().expect(1);
        drop(held);
        let says = format!("floodmark: process {process} panicked: all processes were ended\n");
        assert!(done.stderr.ends_with(&says), "{}", done.stderr);
    }
}

#[test]
fn who_looks_after_them_is_not_outlived() {
    // One that is stopped can't see that it is alone.
    for signal in ["CONT", "STOP"] {
        let place = Place::new();
        let (run, feed) = computing(&place, "-n2");
        run.signal(signal, Whom::Child(1));
        run.signal("KILL", Whom::Parent);
        assert_eq!(run.finish_killed().code(), -1);
        drop(feed);
    }
}

#[test]
fn the_key_pressed_twice_ends_them_at_once() {
    let place = Place::new();
    let (mut run, feed) = computing(&place, "-n2 --hang-timeout 1h --stall-timeout 1h");
    // They can't end in good order.
    run.signal("STOP", Whom::Child(1));
    while !run.has_ended() {
        run.signal("INT", Whom::Parent);
    }
    let done = run.finish().expect(130);
    drop(feed);
    assert!(!done.stderr.contains("process"), "{}", done.stderr);
}

#[test]
fn only_this_program_gives_a_place() {
    let place = Place::new();
    for lifeline in ["", "x", "-1", "0", "2", "999", "4294967296"] {
        let run = place.floodmark("replay none.pcap").env("FLOODMARK_LIFELINE", lifeline);
        run.run().expect(64).says(&["FLOODMARK_LIFELINE", "set by this program alone"]);
    }
}

/// A process that is stopped on another machine is only seen by what does not move.
#[test]
fn a_computation_that_stands_still_while_input_waits_ends() {
    let place = Place::new();
    place.write("hosts", super::processes::hosts(2));
    let other = place.floodmark("replay pipe -n2 -p1 --hostfile hosts").start();
    let (run, mut feed) = computing(&place, "-n2 -p0 --hostfile hosts --stall-timeout 3s");
    other.signal("STOP", Whom::Parent);
    // A tick in which nothing concerns the other process may be done without it. New windows concern all.
    for window in 1..4 {
        feed.packet(packet(window * 300_000, "10.0.0.1", "10.0.0.2", 1200));
    }
    let done = run.finish().expect(1);
    drop(feed);
    done.says(&["nothing after tick", "while input waits", "--stall-timeout 3s"]);
    other.signal("CONT", Whom::Parent);
    let done = other.finish().expect(1);
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    done.says(&["floodmark: lost process 0", "this process ends too"]);
}

#[test]
fn processes_of_a_host_file_end_with_each_other() {
    for victim in 0..2 {
        let place = Place::new();
        place.write("hosts", super::processes::hosts(2));
        let other = place.floodmark("replay pipe -n2 -p1 --hostfile hosts").start();
        let (run, feed) = computing(&place, "-n2 -p0 --hostfile hosts");
        let both = [run, other];
        both[victim].signal("KILL", Whom::Parent);
        let [first, second] = both.map(Live::finish_killed);
        drop(feed);
        let (killed, left) = if victim == 0 { (first, second) } else { (second, first) };
        assert_eq!(killed.code(), -1);
        let left = left.expect(1);
        assert_eq!(left.stderr.lines().count(), 1, "{}", left.stderr);
        left.says(&[&format!("floodmark: lost process {victim}"), "this process ends too"]);
    }
}
