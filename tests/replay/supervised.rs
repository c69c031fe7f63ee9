//! Supervised processes of one machine: if one dies, hangs or panics, all end.

use std::fs::File;
use std::time::Duration;

use super::fold::events;
use super::pcap::packet;
use super::pipes::{LIMITS, PipeFeed};
use super::run::{Live, Place, SignalTarget};

/// Longer than a healthy process is silent on a busy machine.
const HANG: &str = "--hang-timeout 3s";

/// Starts a replay that has emitted a change, and runs for as long as its input is open.
fn computing(place: &Place, options: &str) -> (Live, PipeFeed) {
    let pipe = place.fifo("pipe");
    place.write("limits.jsonl", LIMITS);
    let line = format!("replay pipe --limits limits.jsonl {options}");
    let mut run = place.floodmark(&line).start();
    let mut feed = PipeFeed::open(&pipe);
    feed.packet(packet(1_000, "10.0.0.1", "10.0.0.2", 1200));
    feed.packet(packet(2_000, "10.0.0.1", "10.0.0.2", 1200));
    assert_eq!(events(&run.line()), ["raised big 1200"]);
    (run, feed)
}

#[test]
fn killed_process_ends_all_and_is_named() {
    for victim in 0..3 {
        let place = Place::new();
        let (run, feed) = computing(&place, "-n3");
        run.signal("KILL", SignalTarget::Child(victim));
        let done = run.finish().expect(1);
        drop(feed);
        let message = format!(
            "floodmark: process {victim} was killed by signal 9 (SIGKILL): all processes were ended\n"
        );
        assert_eq!(done.stderr, message);
    }
}

#[test]
fn stopped_process_ends_all_and_is_named() {
    for victim in 0..2 {
        let place = Place::new();
        let (run, feed) = computing(&place, &format!("-n2 {HANG}"));
        run.signal("STOP", SignalTarget::Child(victim));
        let done = run.finish().expect(1);
        drop(feed);
        let message = format!(
            "floodmark: process {victim} gave no sign of life for 3s: all processes were ended\n"
        );
        assert_eq!(done.stderr, message);
    }
}

/// As by Ctrl-Z and `fg`: no process was silent while others ran.
#[test]
fn stopped_process_group_continues() {
    let place = Place::new();
    let (mut run, mut feed) = computing(&place, &format!("-n2 {HANG}"));
    run.signal("STOP", SignalTarget::Group);
    // There is no event to wait for: more time than the time-out must pass.
    std::thread::sleep(Duration::from_secs(4));
    run.signal("CONT", SignalTarget::Group);
    feed.packet(packet(3_000, "10.0.0.1", "10.0.0.3", 1200));
    feed.packet(packet(4_000, "10.0.0.1", "10.0.0.3", 1200));
    assert_eq!(events(&run.line()), ["raised big 1200"]);
    drop(feed);
    run.finish().expect(0);
}

#[test]
fn panicking_process_is_named() {
    for (victim, process) in [("1", 0), ("2", 1)] {
        let place = Place::new();
        let pipe = place.fifo("pipe");
        let held = File::options().read(true).write(true).open(&pipe).expect("opening the pipe");
        let run = place.floodmark("replay pipe -n2 -w2").env("FLOODMARK_PANIC_WORKER", victim);
        let done = run.run().expect(1);
        drop(held);
        let message = format!("floodmark: process {process} panicked: all processes were ended\n");
        assert!(done.stderr.ends_with(&message), "{}", done.stderr);
    }
}

#[test]
fn processes_end_with_their_killed_supervisor() {
    // A stopped process can't notice the end of its supervisor.
    for signal in ["CONT", "STOP"] {
        let place = Place::new();
        let (run, feed) = computing(&place, "-n2");
        run.signal(signal, SignalTarget::Child(1));
        run.signal("KILL", SignalTarget::Parent);
        assert_eq!(run.finish_killed().code(), -1);
        drop(feed);
    }
}

#[test]
fn second_interrupt_ends_all_processes_at_once() {
    let place = Place::new();
    let (mut run, feed) = computing(&place, "-n2 --hang-timeout 1h --stall-timeout 1h");
    // The stopped process prevents an orderly end.
    run.signal("STOP", SignalTarget::Child(1));
    while !run.has_ended() {
        run.signal("INT", SignalTarget::Parent);
    }
    let done = run.finish().expect(130);
    drop(feed);
    assert!(!done.stderr.contains("process"), "{}", done.stderr);
}

#[test]
fn lifeline_variable_set_by_a_user_is_rejected() {
    let place = Place::new();
    for lifeline in ["", "x", "-1", "0", "2", "999", "4294967296"] {
        let run = place.floodmark("replay none.pcap").env("FLOODMARK_LIFELINE", lifeline);
        run.run()
            .expect(64)
            .assert_stderr(&["FLOODMARK_LIFELINE", "only floodmark sets this variable"]);
    }
}

/// A process that is stopped on another machine shows only by the lack of progress.
#[test]
fn stalled_computation_with_waiting_input_ends() {
    let place = Place::new();
    place.write("hosts", super::processes::hosts(2));
    let other = place.floodmark("replay pipe -n2 -p1 --hostfile hosts").start();
    let (run, mut feed) = computing(&place, "-n2 -p0 --hostfile hosts --stall-timeout 3s");
    other.signal("STOP", SignalTarget::Parent);
    // A tick without work for the other process may complete without it. New windows concern all processes.
    for window in 1..4 {
        feed.packet(packet(window * 300_000, "10.0.0.1", "10.0.0.2", 1200));
    }
    let done = run.finish().expect(1);
    drop(feed);
    done.assert_stderr(&["no tick after", "while input waits", "--stall-timeout 3s"]);
    other.signal("CONT", SignalTarget::Parent);
    let done = other.finish().expect(1);
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    done.assert_stderr(&["floodmark: lost process 0", "this process ends too"]);
}

#[test]
fn process_of_a_host_file_ends_with_its_killed_peer() {
    for victim in 0..2 {
        let place = Place::new();
        place.write("hosts", super::processes::hosts(2));
        let other = place.floodmark("replay pipe -n2 -p1 --hostfile hosts").start();
        let (run, feed) = computing(&place, "-n2 -p0 --hostfile hosts");
        let both = [run, other];
        both[victim].signal("KILL", SignalTarget::Parent);
        let [first, second] = both.map(Live::finish_killed);
        drop(feed);
        let (killed, left) = if victim == 0 { (first, second) } else { (second, first) };
        assert_eq!(killed.code(), -1);
        let left = left.expect(1);
        assert_eq!(left.stderr.lines().count(), 1, "{}", left.stderr);
        left.assert_stderr(&[
            &format!("floodmark: lost process {victim}"),
            "this process ends too",
        ]);
    }
}
