//! Processes started by hand, with one command each.

use std::net::{TcpListener, TcpStream};

use super::fold::assert_same;
use super::pcap::pcap;
use super::run::{Done, Place, SignalTarget};
use super::traffic::{self, Random, json_lines};

/// Returns a host file of `count` free ports of this machine.
pub(crate) fn hosts(count: usize) -> String {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let address = |listener: &TcpListener| listener.local_addr().expect("an address").to_string();
    listeners.iter().map(|listener| address(listener) + "\n").collect()
}

pub(super) fn place() -> Place {
    let random = &mut Random::new(501);
    let span_ms = 10 * 60_000;
    let place = Place::new();
    place.write("a.pcap", pcap(&traffic::packets(random, 800, span_ms)));
    place.write("limits.jsonl", json_lines(&traffic::limits(random, 8, span_ms)));
    place
}

/// Runs processes side by side, each with options of its own.
fn run(place: &Place, options: &[&str]) -> Vec<Done> {
    let start = |(process, options): (usize, &&str)| {
        let line = format!("replay a.pcap --hostfile hosts -p {process} {options}");
        place.floodmark(&line).start()
    };
    // All must start before the first one is waited for.
    let live: Vec<_> = options.iter().enumerate().map(start).collect();
    live.into_iter().map(|live| live.finish()).collect()
}

#[test]
fn three_processes_emit_the_output_of_one() {
    let place = place();
    let alone = place
        .floodmark("replay a.pcap --limits limits.jsonl --top 3 --totals totals.csv")
        .stdout(0);
    let totals = place.read("totals.csv");
    place.write("hosts", hosts(3));
    let first = "-n3 -w2 --limits limits.jsonl --top 3 --totals totals.csv";
    // The other processes need the options of the computation, but not the files.
    let other = "-n3 -w2 --top 3 --totals unused.csv";
    for done in run(&place, &[first, other, other]).into_iter().enumerate() {
        let (process, done) = (done.0, done.1.expect(0));
        let expected = if process == 0 { &alone[..] } else { "" };
        assert_same(&done.stdout, expected, || format!("process {process}"));
    }
    assert_same(&place.read("totals.csv"), &totals, || "totals".into());
    assert!(!place.path("unused.csv").exists());
}

#[test]
fn host_file_of_one_line_runs_one_process() {
    let place = place();
    place.write("hosts", hosts(1));
    run(&place, &["-n1"]).remove(0).expect(0);
}

/// Asserts that two processes with different options both fail, each with its messages.
fn check_mismatch(one: &str, other: &str, message: &[[&str; 2]; 2]) {
    let place = place();
    place.write("hosts", hosts(2));
    let both = run(&place, &[one, other]);
    for (done, message) in both.into_iter().zip(message) {
        assert!(![0, -1].contains(&done.code()), "{}: {}", done.command_line(), done.stderr);
        assert!(!done.stderr.contains("panick"), "{}", done.stderr);
        assert_eq!(done.stdout, "");
        done.assert_stderr(message);
    }
}

#[test]
fn different_numbers_of_workers_are_rejected_by_both_processes() {
    let one = ["process 1", "-w 3, this one with -w 2"];
    let other = ["process 0", "-w 2, this one with -w 3"];
    check_mismatch("-n2 -w2", "-n2 -w3", &[one, other]);
}

#[test]
fn different_options_are_rejected_by_both_processes() {
    let message = ["was started with other options"; 2];
    for option in ["--window 1m", "--lateness 1m", "--max-gap 1h", "--top 3", "--updates tick"] {
        check_mismatch("-n2", &format!("-n2 {option}"), &[message, message]);
    }
    check_mismatch("-n2 --lateness 1m", "-n2 --lateness 1m --retention 1m", &[message, message]);
    check_mismatch("-n2 --totals t.csv", "-n2", &[message, message]);
}

/// Options that decide about the result, with different values in the two processes.
#[test]
fn option_that_differs_is_named_with_both_values_by_both_processes() {
    for (option, one, other) in [
        ("--source", "10.0.0.0/8", "192.0.2.0/24"),
        ("--tick", "1s", "2m"),
        ("--max-ahead", "1h", "2h"),
        ("--limits", "limits.jsonl", "others.jsonl"),
        ("--limits-per", "source", "host"),
        ("--format", "json", "table"),
        ("--retention", "1h", ""),
    ] {
        let given = |value: &str| match value {
            "" => String::new(),
            value => format!(" {option} {value}"),
        };
        let shown = |value: &'static str| if value.is_empty() { "not given" } else { value };
        let [one, other] = [one, other].map(|value| (given(value), shown(value)));
        let options = "-n2 --lateness 1m";
        check_mismatch(
            &format!("{options}{}", one.0),
            &format!("{options}{}", other.0),
            &[
                ["process 1", &format!("options: {option} {} there, {} here", other.1, one.1)],
                ["process 0", &format!("options: {option} {} there, {} here", one.1, other.1)],
            ],
        );
    }
    // A flag that only process 1 has.
    let message = "options: --fail-on-violation given there, not given here";
    check_mismatch(
        "-n2",
        "-n2 --fail-on-violation",
        &[["process 1", message], ["process 0", "options"]],
    );
}

#[test]
fn options_for_files_and_timeouts_may_differ_between_processes() {
    let place = place();
    place.write("hosts", hosts(2));
    let alone = place.floodmark("replay a.pcap --limits limits.jsonl").stdout(0);
    let first = "-n2 --limits limits.jsonl --window 5m --stall-timeout 50s";
    let second = "-n2 --window 300s --hang-timeout 20s --changes unused";
    let mut both = run(&place, &[first, second]);
    assert_same(&both.remove(0).expect(0).stdout, &alone, || "process 0".into());
    both.remove(0).expect(0);
}

#[test]
fn port_in_use_fails_the_process() {
    let place = place();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = (taken.local_addr().expect("an address"), taken);
    place.write("hosts", format!("{}\n{}", taken.0, hosts(1)));
    let done = place.floodmark("replay a.pcap -n2 -p0 --hostfile hosts --totals t.csv").run();
    let done = done.expect(1);
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    done.assert_stderr(&["listening on", &taken.0.to_string(), "in use"]);
    assert!(!place.path("t.csv").exists());
    place.write("hosts", format!("{}{}", hosts(1), taken.0));
    let done = place.floodmark("replay a.pcap -n2 -p1 --hostfile hosts").run().expect(1);
    done.assert_stderr(&["listening on", &taken.0.to_string(), "in use"]);
}

#[test]
fn files_behind_two_dashes_are_read_with_two_processes() {
    let place = place();
    let line = "--limits limits.jsonl --window 1m";
    let alone = place.floodmark(&format!("replay {line} a.pcap")).stdout(0);
    let two = place.floodmark(&format!("replay {line} -n2 -- a.pcap")).stdout(0);
    assert_same(&alone, &two, || "files behind `--`, with -n2".into());
}

#[test]
fn interrupt_ends_the_wait_for_other_processes() {
    let place = place();
    let hosts = hosts(2);
    place.write("hosts", &hosts);
    let run = place.floodmark("replay a.pcap -n2 -p0 --hostfile hosts --totals t.csv").start();
    // The process waits once it accepts connections; this connection is no process of the run.
    let first = hosts.lines().next().expect("two hosts");
    while TcpStream::connect(first).is_err() {
        std::thread::yield_now();
    }
    run.signal("INT", SignalTarget::Parent);
    let done = run.finish().expect(130).assert_stderr(&["interrupted while waiting"]);
    assert_eq!(done.stdout, "");
}
