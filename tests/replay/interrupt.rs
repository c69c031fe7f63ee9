//! Interrupts of a replay: complete ticks are emitted, nothing else, and no process is left behind.

use std::fs::File;

use super::fold::events;
use super::pcap::packet;
use super::pipes::{LIMITS, PipeFeed};
use super::run::{Place, SignalTarget};

const HEADER: &str = "window_start,source,destination,bytes,packets\n";

/// Interrupts a replay that has completed the ticks of the seconds 1, 2 and 61, but not that of 62.
fn check(variant: &str, target: SignalTarget, signal: &str) {
    let place = Place::new();
    let pipe = place.fifo("pipe");
    place.write("limits.jsonl", LIMITS);
    let line = format!(
        "replay pipe --limits limits.jsonl --window 1m --totals totals.csv --top 1 {variant}"
    );
    let mut run = place.floodmark(&line).start();
    let mut feed = PipeFeed::open(&pipe);
    feed.packet(packet(1_000, "10.0.0.1", "10.0.0.2", 1200));
    feed.packet(packet(2_000, "10.0.0.9", "10.0.0.2", 20));
    feed.packet(packet(61_500, "10.0.0.1", "10.0.0.3", 1300));
    feed.packet(packet(62_000, "10.0.0.1", "10.0.0.4", 1400));
    // A large total in the first minute, the end of that minute, and a large total in the second.
    let lines: Vec<String> = (0..3).map(|_| run.line()).collect();
    let expected = ["raised big 1200", "raised min 1220", "raised big 1300"];
    assert_eq!(events(&lines.concat()), expected, "{line}");
    // Two processes that compute, and their supervisor.
    let processes = if variant.contains("-n2") { 3 } else { 1 };
    assert_eq!(run.processes().len(), processes, "{line}");
    run.signal(signal, target);
    let done = run.finish().expect(130);
    drop(feed);
    assert_eq!(events(&done.stdout), expected, "{line}");
    assert_eq!(
        place.read("totals.csv"),
        format!(
            "{HEADER}1970-01-01T00:00:00Z,10.0.0.1,10.0.0.2,1200,1\n\
             1970-01-01T00:00:00Z,10.0.0.9,10.0.0.2,20,1\n\
             1970-01-01T00:01:00Z,10.0.0.1,10.0.0.3,1300,1\n"
        ),
        "{line}"
    );
    let last = done.stderr.lines().last().expect("a message");
    assert!(last.ends_with("complete up to event time 1970-01-01T00:01:02Z"), "{line}: {last}");
}

#[test]
fn interrupted_process_emits_complete_ticks_only() {
    for variant in ["-w1", "-w2", "--lateness 5s --retention 1h", "--fail-on-violation"] {
        check(variant, SignalTarget::Parent, "INT");
    }
}

#[test]
fn interrupted_process_group_emits_complete_ticks_only() {
    check("-n2", SignalTarget::Group, "INT");
    check("-n2 -w2", SignalTarget::Group, "INT");
}

#[test]
fn interrupted_supervisor_ends_both_processes_after_complete_ticks() {
    check("-n2", SignalTarget::Parent, "INT");
    check("-n2 -w2", SignalTarget::Parent, "INT");
}

#[test]
fn sigterm_ends_a_replay_after_complete_ticks() {
    check("-w1", SignalTarget::Parent, "TERM");
    check("-n2", SignalTarget::Group, "TERM");
}

#[test]
fn interrupt_before_any_complete_tick_emits_nothing() {
    for variant in ["-w1", "-n2"] {
        let place = Place::new();
        let pipe = place.fifo("pipe");
        place.write("limits.jsonl", LIMITS);
        let line = format!("replay pipe --limits limits.jsonl --totals totals.csv {variant}");
        let run = place.floodmark(&line).start();
        let mut feed = PipeFeed::open(&pipe);
        // More than a pipe holds: once all is written, the program has read some, and handles signals.
        let record = packet(1_000, "10.0.0.1", "10.0.0.2", 1200).record();
        feed.write(&record.repeat(100_000 / record.len()));
        run.signal("INT", SignalTarget::Parent);
        let done = run.finish().expect(130);
        drop(feed);
        assert_eq!(done.stdout, "", "{line}");
        assert_eq!(place.read("totals.csv"), HEADER, "{line}");
        let last = done.stderr.lines().last().expect("a message");
        assert!(last.contains("interrupted before any tick"), "{line}: {last}");
    }
}

/// The other workers would wait for ever for the one that has panicked.
#[test]
fn panicking_worker_ends_all_processes() {
    for (workers, victim) in [("-w1", "0"), ("-w3", "2"), ("-n2 -w2", "1"), ("-n2 -w2", "3")] {
        let place = Place::new();
        let pipe = place.fifo("pipe");
        // The pipe stays open, so that only the panic can end the run. Opened for reading and writing, so that opening
        // does not block.
        let held = File::options().read(true).write(true).open(&pipe).expect("opening the pipe");
        let run = place.floodmark(&format!("replay pipe {workers}"));
        let done = run.env("FLOODMARK_PANIC_WORKER", victim).start().finish_killed();
        drop(held);
        assert_ne!(done.code(), 0, "{}", done.stderr);
        let message = format!("worker {victim} panics");
        assert!(done.stderr.contains(&message), "{workers}: {}", done.stderr);
    }
}
