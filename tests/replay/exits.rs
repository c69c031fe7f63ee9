//! Exit codes and messages of a replay.

use std::fs;

use super::fold::{changes, events};
use super::pcap::{packet, pcap};
use super::run::Place;

const LIMITS: &str = r#"{"limit_name":"max","limit_value":1000,"effective_date":"1970-01-01"}
{"limit_name":"min","limit_value":1e9,"effective_date":"1970-01-01","per":"total"}
"#;

/// Returns a directory with limits, and a capture that breaks them.
fn place() -> Place {
    let place = Place::new();
    place.write(
        "a.pcap",
        pcap(&[
            packet(1_000, "10.0.0.1", "10.0.0.2", 1200),
            packet(301_000, "10.0.0.1", "10.0.0.2", 600),
        ]),
    );
    place.write("limits.jsonl", LIMITS);
    place
}

#[test]
fn fail_on_violation_exits_with_code_2_only_if_a_violation_stands() {
    let place = place();
    place.floodmark("replay a.pcap --limits limits.jsonl").stdout(0);
    for variant in ["-w1", "-w2", "-n2", "--format table", "--lateness 1s --retention 0s"] {
        let line = format!("replay a.pcap --limits limits.jsonl --fail-on-violation {variant}");
        place.floodmark(&line).stdout(2);
    }
    place.floodmark("replay a.pcap --fail-on-violation").stdout(0);
    place.write("never.jsonl", LIMITS.replace("1000", "1200").replace("1e9", "600"));
    let stdout =
        place.floodmark("replay a.pcap --limits never.jsonl --fail-on-violation").stdout(0);
    assert_eq!(stdout, "");
    // A raised violation is cleared when its limit ends.
    place.write(
        "ends.jsonl",
        r#"{"limit_name":"max","limit_value":1000,"effective_date":"1970-01-01"}
{"limit_name":"max","limit_value":null,"effective_date":"1970-01-01T00:04:00Z"}"#,
    );
    let stdout = place.floodmark("replay a.pcap --limits ends.jsonl --fail-on-violation").stdout(0);
    assert_eq!(events(&stdout), ["raised max 1200", "cleared max 1200"]);
}

#[test]
fn rejected_rows_end_a_replay_only_with_strict_limits_and_are_counted_at_its_end() {
    let place = place();
    let bad: String =
        (0..30).map(|n| format!("{{\"limit_name\":\"bad {n}\",\"limit_value\":-1}}\n")).collect();
    place.write("bad.jsonl", LIMITS.to_owned() + &bad);
    let strict = "--strict-limits --fail-on-violation";
    for limits in ["--limits bad.jsonl", "--limits limits.jsonl --what-if bad.jsonl"] {
        for processes in ["-w1", "-n2"] {
            let line = format!("replay a.pcap {limits} {processes}");
            let done = place.floodmark(&format!("{line} {strict}")).run().expect(78);
            assert_eq!(done.stdout, "");
            done.assert_stderr(&[
                "--strict-limits: 30 of 32 rows of limits \"bad.jsonl\" are refused",
            ]);
            let done = place.floodmark(&line).run().expect(0);
            assert_eq!(done.stderr.matches("refused:").count(), 20, "{}", done.stderr);
            let last = done.stderr.lines().last().unwrap_or_default();
            assert!(last.contains("WARNING: 30 of 32 rows of limits"), "{}", done.stderr);
        }
    }
    place.floodmark(&format!("replay a.pcap --limits limits.jsonl {strict}")).stdout(2);
    place.floodmark("replay a.pcap --strict-limits").stdout(0);
}

#[test]
fn invalid_arguments_exit_with_code_64() {
    let place = place();
    place.write("hosts", "127.0.0.1:1\n127.0.0.1:2\n");
    place.write("one-host", "127.0.0.1:1\n");
    place.write("no-port", "127.0.0.1:1\nlocalhost\n");
    place.write("bad-port", "127.0.0.1:1\n127.0.0.1:65536\n");
    place.write("twice", "127.0.0.1:1\n127.0.0.1:1\n");
    let cases: [(&str, &[&str]); 40] = [
        ("", &["FILE"]),
        ("a.pcap --retention 1h", &["--retention", "--lateness"]),
        ("a.pcap --lateness 5", &["--lateness", "not a duration: \"5\""]),
        ("a.pcap --lateness -1s", &["-1"]),
        ("a.pcap --window 0s", &["--window", "is zero"]),
        ("a.pcap --window 1500ms", &["whole number of seconds"]),
        ("a.pcap --window five", &["not a duration: \"five\""]),
        ("a.pcap --tick 0s", &["--tick", "is zero"]),
        ("a.pcap --tick 1us", &["whole number of milliseconds"]),
        ("a.pcap --max-gap 1", &["--max-gap"]),
        ("a.pcap --source 10.0.0.0/33", &["--source", "10.0.0.0/33"]),
        ("a.pcap --source localhost", &["--source", "localhost"]),
        ("a.pcap --destination 10.0.0/8", &["--destination", "10.0.0/8"]),
        ("a.pcap --top 0", &["--top", "\"0\""]),
        ("a.pcap --top many", &["--top", "\"many\""]),
        ("a.pcap --top 3,host", &["--top", "\"host\""]),
        ("a.pcap --top 3,bytes,packets", &["--top", "\"packets\""]),
        ("a.pcap --top -1", &["-1"]),
        ("a.pcap --updates always", &["--updates", "always"]),
        ("a.pcap --limits-per flow", &["--limits-per", "flow"]),
        ("a.pcap --format csv", &["--format", "csv"]),
        ("a.pcap --totals -", &["--changes"]),
        ("a.pcap --bogus", &["--bogus"]),
        ("a.pcap -w 0", &["at least one worker"]),
        ("a.pcap -w x", &["x"]),
        ("a.pcap -w -1", &["-1"]),
        ("a.pcap -n 0", &["at least one worker and one process"]),
        (
            "a.pcap -n 2 -p 2 --hostfile hosts",
            &["no process 2: -n 2 numbers the processes from 0 to 1"],
        ),
        ("a.pcap -p 1", &["no process 1: -n 1 numbers the processes from 0 to 0"]),
        ("a.pcap -n 2 -p 0", &["--hostfile"]),
        ("a.pcap -n 2 -p 1", &["--hostfile"]),
        ("a.pcap -n 2 --hostfile hosts", &["--process"]),
        ("a.pcap -n 3 -p 0 --hostfile hosts", &["lists 2 processes, but -n is 3"]),
        ("a.pcap -n 2 -p 1 --hostfile one-host", &["lists 1 processes, but -n is 2"]),
        ("a.pcap -n 2 -p 0 --hostfile no-port", &["\"localhost\"", "not host:port"]),
        ("a.pcap -n 2 -p 0 --hostfile bad-port", &["\"65536\"", "not a port"]),
        ("a.pcap -n 2 -p 0 --hostfile twice", &["\"127.0.0.1:1\"", "named twice"]),
        ("a.pcap -n 2 --hang-timeout 999ms", &["--hang-timeout must be at least 1 s"]),
        ("a.pcap --stall-timeout 0s", &["--stall-timeout", "is zero"]),
        ("- - a.pcap", &["\"-\" is named twice"]),
    ];
    for (words, parts) in cases {
        let run = place.floodmark(&format!("replay --totals t.csv {words}"));
        let run = if words.contains("--totals") {
            place.floodmark(&format!("replay {words}"))
        } else {
            run
        };
        let done = run.run().expect(64).assert_stderr(parts);
        assert_eq!(done.stdout, "", "{words}");
        assert!(!place.path("t.csv").exists(), "something began: {words}");
    }
}

#[test]
fn damaged_file_ends_and_the_others_are_read_on() {
    let place = place();
    let later = pcap(&[
        packet(2_000, "10.0.0.3", "10.0.0.4", 1500),
        packet(3_000, "10.0.0.3", "10.0.0.4", 1500),
    ]);
    let mut wrong = later.clone();
    // The second record claims an impossible length.
    wrong[24 + 50 + 8..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let cases: [(&[u8], &[&str], usize); 5] = [
        (&later[..later.len() - 1], &["packet 2", "counted 3 of 3 frames, 3300 bytes"], 1),
        (&wrong, &["packet 2", "counted 3 of 3 frames, 3300 bytes"], 1),
        (&later[..10], &["counted 2 of 2 frames"], 0),
        (b"", &["counted 2 of 2 frames"], 0),
        (b"GET / HTTP/1.1\r\n", &["counted 2 of 2 frames"], 0),
    ];
    for (bytes, parts, more) in cases {
        place.write("bad.pcap", bytes);
        for variant in ["bad.pcap a.pcap", "a.pcap bad.pcap -w2", "a.pcap -n2 bad.pcap"] {
            // The exit code of damage takes precedence over that of violations.
            let line = format!(
                "replay {variant} --limits limits.jsonl --fail-on-violation --totals t.csv --top 9"
            );
            let done = place
                .floodmark(&line)
                .run()
                .expect(65)
                .assert_stderr(&["bad.pcap"])
                .assert_stderr(parts);
            let complaints = done.stderr.lines().filter(|line| line.contains("bad.pcap"));
            assert_eq!(complaints.count(), 1, "{}", done.stderr);
            let of = |event| {
                let all = changes(&done.stdout);
                all.iter().filter(|change| change["event"] == event).count()
            };
            assert_eq!((of("raised"), of("updated")), (3 + more, 3 + more), "{}", done.stdout);
            assert_eq!(place.read("t.csv").lines().count(), 3 + more);
            assert_eq!(done.stdout.matches("\"top\":").count(), 2 + more);
        }
    }
}

#[test]
fn missing_file_is_reported_before_output_is_created() {
    let place = place();
    let cases: [(&str, &[&str]); 5] = [
        ("a.pcap b.pcap", &["b.pcap"]),
        ("a.pcap b.pcap -n2", &["b.pcap"]),
        ("a.pcap --limits none.jsonl", &["reading limits", "none.jsonl"]),
        ("a.pcap -n 2 -p 0 --hostfile none", &["host file", "\"none\""]),
        ("a.pcap -n 2 -p 1 --hostfile none", &["host file", "\"none\""]),
    ];
    for (words, parts) in cases {
        let line = format!("replay {words} --totals t.csv --changes c.jsonl");
        let done = place.floodmark(&line).run().expect(66).assert_stderr(parts);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
        assert!(!place.path("t.csv").exists() && !place.path("c.jsonl").exists(), "{words}");
    }
}

#[test]
fn unreadable_limits_fail_the_replay() {
    let place = place();
    for text in ["{", "[{\"limit_name\":\"max\"}", "limit_name,limit_value\nmax,1\n"] {
        place.write("bad.jsonl", text);
        let line = "replay a.pcap --limits bad.jsonl --totals t.csv";
        let done = place.floodmark(line).run().expect(78).assert_stderr(&["bad.jsonl", "line"]);
        assert_eq!(done.stdout, "");
        assert!(!place.path("t.csv").exists());
    }
}

#[test]
fn rejected_rows_are_reported_and_the_others_hold() {
    let place = place();
    place.write(
        "limits.json",
        r#"[{"limit_name":"max","limit_value":1000,"effective_date":"1970-01-01"},
            {"limit_name":"a","limit_value":-1,"effective_date":"1970-01-01"},
            {"limit_name":"b","limit_value":1,"effective_date":"1970-01-01","sorce":"10.0.0.1"},
            {"limit_name":"c","limit_value":1,"effective_date":"infinity"},
            {"limit_name":"d","limit_value":1,"effective_date":"1970-01-01","source":"10.0.0.0/8","destination":"::/0"},
            {"limit_name":"e","limit_value":1,"effective_date":"1970-01-01"},
            {"limit_name":"e","limit_value":2,"effective_date":"1970-01-01"},
            {"limit_name":"max","limit_value":1e3,"effective_date":"1970-01-02"}]"#,
    );
    for variant in ["-w1", "-n2"] {
        let line = format!("replay a.pcap --limits limits.json {variant}");
        let done = place.floodmark(&line).run().expect(0);
        assert_eq!(events(&done.stdout), ["raised max 1200", "updated max 1200"]);
        let refused = done.stderr.lines().filter(|line| line.contains("refused: "));
        assert_eq!(refused.count(), 6, "{}", done.stderr);
        done.assert_stderr(&["row 2", "row 3", "\"source\"", "row 4", "row 5", "row 6", "row 7"]);
    }
}

#[test]
fn limits_per_sets_the_scope_of_rows_without_one() {
    let place = place();
    place.write(
        "limits.jsonl",
        r#"{"limit_name":"max","limit_value":1000,"effective_date":"1970-01-01"}"#,
    );
    for per in ["pair", "source", "destination", "host", "total"] {
        let line = format!("replay a.pcap --limits limits.jsonl --limits-per {per}");
        let emitted = changes(&place.floodmark(&line).stdout(0));
        assert!(
            !emitted.is_empty() && emitted.iter().all(|change| change["per"] == per),
            "{emitted:?}"
        );
    }
}

#[test]
fn closed_stdout_ends_silently() {
    let place = place();
    let more =
        (0..4000).map(|at| packet(at * 1000, "10.0.0.1", &format!("10.0.{}.1", at % 200), 1200));
    place.write("b.pcap", pcap(&more.collect::<Vec<_>>()));
    for variant in ["-w1", "-w2", "-n2", "-n2 -w2", "--format table", "--top 100"] {
        let line = format!("replay a.pcap b.pcap --limits limits.jsonl --updates tick {variant}");
        let done = place.floodmark(&line).stdout_closed().run().expect(0);
        assert_eq!(done.stderr, "", "{line}");
    }
    let line = "replay a.pcap b.pcap --totals - --changes c.jsonl";
    assert_eq!(place.floodmark(line).stdout_closed().run().expect(0).stderr, "");
    // The reader closes the pipe in the middle of the output.
    let line = "replay b.pcap --limits limits.jsonl --updates tick";
    let mut run = place.floodmark(line).start();
    run.line();
    run.close_stdout();
    let done = run.finish().expect(0);
    assert!(!done.stderr.contains("panick"), "{}", done.stderr);
}

#[test]
fn unwritable_output_fails_the_replay() {
    let place = place();
    for variant in ["", "-w2", "-n2"] {
        let line = format!("replay a.pcap --limits limits.jsonl {variant}");
        let full = place.floodmark(&line).stdout_to("/dev/full").run();
        full.expect(1).assert_stderr(&["writing to standard output"]);
        let line = format!("replay a.pcap --totals no/such/folder.csv {variant}");
        let done = place.floodmark(&line).run().expect(1).assert_stderr(&["no/such/folder.csv"]);
        assert!(!done.stderr.contains("panick"), "{}", done.stderr);
        let line = format!("replay a.pcap --totals /dev/full {variant}");
        place.floodmark(&line).run().expect(1).assert_stderr(&["writing to \"/dev/full\""]);
    }
}

#[test]
fn uncounted_frames_are_reported() {
    let place = Place::new();
    let mut bytes = pcap(&[packet(1_000, "10.0.0.1", "10.0.0.2", 1200); 3]);
    // The second frame is ARP.
    let second = 24 + 16 + 34 + 16 + 12;
    bytes[second..][..2].copy_from_slice(&[0x08, 0x06]);
    let path = place.write("a.pcap", bytes);
    let done = place.floodmark("replay").arg(&path).run().expect(0);
    done.assert_stderr(&["counted 2 of 3 frames, 2400 bytes", "not counted: 1 "]);
    fs::remove_file(path).expect("removing the capture");
}
