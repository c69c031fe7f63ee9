//! The interrupt key: what is finished is said, nothing else, and nobody is left behind.

use std::fs::File;

use super::fold::events;
use super::pcap::packet;
use super::pipes::{Feed, LIMITS};
use super::run::{Place, Whom};

const HEADER: &str = "window_start,source,destination,bytes,packets\n";

/// Interrupts a replay that has finished the ticks of the seconds 1, 2 and 61, and not that of 62.
fn check(way: &str, whom: Whom, signal: &str) {
    let place = Place::new();
    let pipe = place.fifo("pipe");
    place.write("limits.jsonl", LIMITS);
    let line =
        format!("replay pipe --limits limits.jsonl --window 1m --totals totals.csv --top 1 {way}");
    let mut run = place.floodmark(&line).start();
    let mut feed = Feed::open(&pipe);
    feed.packet(packet(1_000, "10.0.0.1", "10.0.0.2", 1200));
    feed.packet(packet(2_000, "10.0.0.9", "10.0.0.2", 20));
    feed.packet(packet(61_500, "10.0.0.1", "10.0.0.3", 1300));
    feed.packet(packet(62_000, "10.0.0.1", "10.0.0.4", 1400));
    // Big in the first minute; its end; big in the second.
    let lines: Vec<String> = (0..3).map(|_| run.line()).collect();
    let expected = ["raised big 1200", "raised min 1220", "raised big 1300"];
    assert_eq!(events(&lines.concat()), expected, "{line}");
    // Those that compute, and the one that looks after them.
    let processes = if way.contains("-n2") { 3 } else { 1 };
    assert_eq!(run.processes().len(), processes, "{line}");
    run.signal(signal, whom);
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
fn one_process() {
    for way in ["-w1", "-w2", "--lateness 5s --retention 1h", "--fail-on-violation"] {
        check(way, Whom::Parent, "INT");
    }
}

#[test]
fn two_processes_as_at_a_terminal() {
    check("-n2", Whom::Group, "INT");
    check("-n2 -w2", Whom::Group, "INT");
}

#[test]
fn two_processes_and_only_the_first_is_told() {
    check("-n2", Whom::Parent, "INT");
    check("-n2 -w2", Whom::Parent, "INT");
}

#[test]
fn asked_to_end_by_another_program() {
    check("-w1", Whom::Parent, "TERM");
    check("-n2", Whom::Group, "TERM");
}

#[test]
fn before_any_tick_is_complete() {
    for way in ["-w1", "-n2"] {
        let place = Place::new();
        let pipe = place.fifo("pipe");
        place.write("limits.jsonl", LIMITS);
        let line = format!("replay pipe --limits limits.jsonl --totals totals.csv {way}");
        let run = place.floodmark(&line).start();
        let mut feed = Feed::open(&pipe);
        // More than a pipe holds: when all is written, some is read, and the key is listened for.
        let record = packet(1_000, "10.0.0.1", "10.0.0.2", 1200).record();
        feed.write(&record.repeat(100_000 / record.len()));
        run.signal("INT", Whom::Parent);
        let done = run.finish().expect(130);
        drop(feed);
        assert_eq!(done.stdout, "", "{line}");
        assert_eq!(place.read("totals.csv"), HEADER, "{line}");
        let last = done.stderr.lines().last().expect("a message");
        assert!(last.contains("interrupted before any tick"), "{line}: {last}");
    }
}

/// The others would wait for it for ever.
#[test]
fn a_worker_that_panics_ends_all_processes() {
    for (workers, victim) in [("-w1", "0"), ("-w3", "2"), ("-n2 -w2", "1"), ("-n2 -w2", "3")] {
        let place = Place::new();
        let pipe = place.fifo("pipe");
        // Open for as long as the run lasts, so that only the panic can end it. Both ways, so that
        // opening waits for nobody.
        let held = File::options().read(true).write(true).open(&pipe).expect("opening the pipe");
        let run = place.floodmark(&format!("replay pipe {workers}"));
        let done = run.env("FLOODMARK_PANIC_WORKER", victim).start().finish_killed();
        drop(held);
        assert_ne!(done.code(), 0, "{}", done.stderr);
        let says = format!("worker {victim} panics");
        assert!(done.stderr.contains(&says), "{workers}: {}", done.stderr);
    }
}
