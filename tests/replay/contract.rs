//! The format of standard output, which other programs rely on.

use std::collections::{BTreeMap, BTreeSet};

use super::fold::{changes, fold, objects, text};
use super::pcap::{packet, pcap, pcapng};
use super::run::Place;
use super::traffic::{self, Random, json_lines};

/// Writes a capture of three packets in two windows of a minute, and a limit for each kind of entity.
fn small(place: &Place) {
    let packets = [
        packet(1_000, "10.0.0.1", "10.0.0.2", 700),
        packet(2_000, "10.0.0.1", "10.0.0.2", 800),
        packet(61_000, "2001:db8::1", "::ffff:10.0.0.2", 600),
    ];
    place.write("small.pcap", pcap(&packets));
    place.write(
        "small.jsonl",
        r#"{"limit_name":"pair","limit_value":1000,"effective_date":"1970-01-01"}
{"limit_name":"source","limit_value":"599.9","effective_date":"1970-01-01T00:00:00.5Z","per":"source","source":"::/0"}
{"limit_name":"destination","limit_value":1e3,"effective_date":"1960-01-01","per":"destination"}
{"limit_name":"host","limit_value":1,"effective_date":"1970-01-01","per":"host","metric":"packets","host":"10.0.0.2"}
{"limit_name":"min","limit_value":1000,"effective_date":"1970-01-01","per":"total"}
"#,
    );
}

#[test]
fn each_kind_of_change_has_its_fields_in_order() {
    let place = Place::new();
    small(&place);
    let stdout = place
        .floodmark("replay small.pcap --limits small.jsonl --window 1m --top 1,source,packets")
        .stdout(0);
    insta::assert_snapshot!(stdout);
}

#[test]
fn table_format_shows_the_same_changes() {
    let place = Place::new();
    small(&place);
    let stdout = place
        .floodmark("replay small.pcap --limits small.jsonl --window 1m --top 1 --format table")
        .stdout(0);
    insta::assert_snapshot!(stdout);
}

#[test]
fn change_of_a_removed_limit_has_no_value_and_no_version() {
    let place = Place::new();
    place.write(
        "a.pcap",
        pcap(&[
            packet(1_000, "10.0.0.1", "10.0.0.2", 700),
            packet(6_000, "10.0.0.3", "10.0.0.2", 20),
            packet(30_000, "10.0.0.3", "10.0.0.2", 20),
        ]),
    );
    place.write(
        "limits.json",
        r#"[{"limit_name":"l","limit_value":1,"effective_date":"1969-12-31T23:59:59Z","source":"10.0.0.1"},
            {"limit_name":"l","limit_value":2,"effective_date":"1970-01-01T00:00:05Z","source":"10.0.0.1"},
            {"limit_name":"l","limit_value":null,"effective_date":"1970-01-01T00:00:10Z"}]"#,
    );
    let run =
        place.floodmark("replay a.pcap --limits limits.json --window 1m --tick 5s --updates limit");
    insta::assert_snapshot!(run.stdout(0));
}

#[test]
fn times_past_the_year_9999_are_written_in_seconds() {
    let place = Place::new();
    // 9999-12-31T23:59:00Z and two minutes later.
    let last = 253_402_300_740_000;
    place.write(
        "far.pcapng",
        pcapng(&[
            packet(last, "10.0.0.1", "10.0.0.2", 700),
            packet(last + 120_000, "10.0.0.1", "10.0.0.2", 701),
        ]),
    );
    place.write(
        "limits.json",
        r#"{"limit_name":"l","limit_value":1,"effective_date":"1970-01-01"}"#,
    );
    let stdout = place
        .floodmark(
            "replay far.pcapng --limits limits.json --window 1m --tick 1m --totals totals.csv --top 1",
        )
        .stdout(0);
    let emitted = |event: &str, at: usize, field: &str| {
        let of = changes(&stdout).into_iter().filter(|change| change["event"] == event);
        of.collect::<Vec<_>>()[at][field].to_string()
    };
    assert_eq!(emitted("raised", 0, "window_start"), "\"9999-12-31T23:59:00Z\"");
    assert_eq!(emitted("raised", 0, "window_end"), "253402300800");
    assert_eq!(emitted("raised", 0, "as_of"), "\"9999-12-31T23:59:00Z\"");
    assert_eq!(emitted("raised", 1, "window_start"), "253402300860");
    assert_eq!(emitted("raised", 1, "window_end"), "253402300920");
    assert_eq!(emitted("raised", 1, "as_of"), "253402300860");
    let tops = objects(&stdout).into_iter().filter(|object| object.contains_key("top"));
    let starts: Vec<String> = tops.map(|top| top["window_start"].to_string()).collect();
    assert_eq!(starts, ["\"9999-12-31T23:59:00Z\"", "253402300860"]);
    assert_eq!(
        place.read("totals.csv"),
        "window_start,source,destination,bytes,packets\n\
         9999-12-31T23:59:00Z,10.0.0.1,10.0.0.2,700,1\n\
         253402300860,10.0.0.1,10.0.0.2,701,1\n"
    );
}

#[test]
fn last_window_with_an_end_is_judged() {
    let place = Place::new();
    let minute = 60_000;
    let end = u64::MAX / minute * minute;
    place.write(
        "end.pcapng",
        pcapng(&[
            packet(1_000, "10.0.0.1", "10.0.0.2", 699),
            packet(end - 2 * minute, "10.0.0.1", "10.0.0.2", 700),
            packet(u64::MAX, "10.0.0.1", "10.0.0.2", 701),
        ]),
    );
    place.write(
        "limits.json",
        r#"{"limit_name":"l","limit_value":1,"effective_date":"1970-01-01"}"#,
    );
    let run = place.floodmark("replay end.pcapng --limits limits.json --window 1m --totals t.csv");
    let done = run
        .run()
        .expect(0)
        .assert_stderr(&["counted 2 of 3 frames, 1399 bytes; not counted: 1 in no window"]);
    let standing = fold(&done.stdout);
    assert!(standing.values().any(|violation| violation["amount"] == 700), "{standing:?}");
    assert_eq!(place.read("t.csv").lines().count(), 1 + standing.len());
}

/// Parses a time.
fn time(text: &str) -> jiff::Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn as_of_never_goes_back_and_is_a_tick() {
    for seed in [201, 202, 203] {
        let random = &mut Random::new(seed);
        let span_ms = 20 * 60_000;
        let place = Place::new();
        place.write("a.pcap", pcap(&traffic::packets(random, 1500, span_ms)));
        place.write("limits.jsonl", json_lines(&traffic::limits(random, 10, span_ms)));
        for tick in [1, 10] {
            let line = format!("replay a.pcap --limits limits.jsonl --tick {tick}s --updates tick");
            let stdout = place.floodmark(&line).stdout(0);
            let mut last = time("1970-01-01T00:00:00Z");
            // Each id has at most one change a tick.
            let mut emitted = BTreeSet::new();
            for change in changes(&stdout) {
                let now = time(text(&change, "as_of"));
                assert!(now >= last, "seed {seed}: {now} after {last}");
                if now > last {
                    emitted.clear();
                }
                last = now;
                assert!(emitted.insert(text(&change, "id").to_owned()), "seed {seed}: {change:?}");
                // Changes by packets are emitted at ticks of the interval; those by versions also in between.
                if change["reason"] == "data" || change["reason"] == "late_data" {
                    assert_eq!(now.as_millisecond() % (tick * 1000), 0, "seed {seed}: {change:?}");
                }
            }
        }
    }
}

#[test]
fn ids_are_independent_of_workers_and_ticks() {
    let random = &mut Random::new(301);
    let span_ms = 10 * 60_000;
    let place = Place::new();
    place.write("a.pcap", pcap(&traffic::packets(random, 500, span_ms)));
    place.write("limits.jsonl", json_lines(&traffic::limits(random, 6, span_ms)));
    let ids = |variant: &str| -> BTreeMap<String, String> {
        let line = format!("replay a.pcap --limits limits.jsonl --window 1m {variant}");
        let stdout = place.floodmark(&line).stdout(0);
        let of = |change: super::fold::Object| {
            let what = ["limit_name", "window_start", "window_end", "per", "entity"];
            let what = what.map(|field| change[field].to_string()).join(" ");
            (what, text(&change, "id").to_owned())
        };
        changes(&stdout).into_iter().map(of).collect()
    };
    let first = ids("-w1");
    let distinct: BTreeSet<&String> = first.values().collect();
    assert!(first.len() > 100, "only {} violations", first.len());
    assert_eq!(distinct.len(), first.len(), "two violations share an id");
    for id in distinct {
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }
    for variant in ["-w4", "--tick 60s", "-n2"] {
        for (what, id) in ids(variant) {
            assert_eq!(first.get(&what).unwrap_or(&id), &id, "{variant}: {what}");
        }
    }
}

#[test]
fn top_ranks_each_window_when_it_settles() {
    let place = Place::new();
    let of = |ms, from: u8, bytes| packet(ms, &format!("10.0.0.{from}"), "10.0.1.1", bytes);
    place.write(
        "a.pcap",
        pcap(&[
            of(1_000, 1, 500),
            of(2_000, 2, 300),
            of(3_000, 2, 300),
            of(4_000, 3, 100),
            of(61_000, 3, 50),
            of(200_000, 1, 60),
        ]),
    );
    let ranks = |options: &str| -> Vec<String> {
        let stdout = place.floodmark(&format!("replay a.pcap --window 1m {options}")).stdout(0);
        stdout.lines().map(str::to_owned).collect()
    };
    let row = |top, start: &str, from, bytes, packets| {
        format!(
            r#"{{"top":{top},"window_start":"{start}","entity":{{"source":"10.0.0.{from}"}},"bytes":{bytes},"packets":{packets}}}"#
        )
    };
    let zero = "1970-01-01T00:00:00Z";
    let rest = [row(1, "1970-01-01T00:01:00Z", 3, 50, 1), row(1, "1970-01-01T00:03:00Z", 1, 60, 1)];
    let by_bytes = [row(1, zero, 2, 600, 2), row(2, zero, 1, 500, 1)];
    for variant in ["", "-w4", "-n2", "--tick 1m"] {
        assert_eq!(ranks(&format!("--top 2,source {variant}")), [&by_bytes[..], &rest].concat());
    }
    let by_packets = ranks("--top 1,packets,source --lateness 0s --retention 0s");
    assert_eq!(by_packets, [&by_bytes[..1], &rest].concat());
    let destinations = ranks("--top 5,destination");
    assert_eq!(
        destinations[0],
        r#"{"top":1,"window_start":"1970-01-01T00:00:00Z","entity":{"destination":"10.0.1.1"},"bytes":1200,"packets":4}"#
    );
    let pairs = ranks("--top 3");
    assert_eq!(
        pairs[2],
        r#"{"top":3,"window_start":"1970-01-01T00:00:00Z","entity":{"source":"10.0.0.3","destination":"10.0.1.1"},"bytes":100,"packets":1}"#
    );
    assert_eq!(pairs.len(), 5);
}

#[test]
fn changes_are_written_to_the_file_of_the_option() {
    let place = Place::new();
    small(&place);
    let replay = "replay small.pcap --limits small.jsonl --window 1m";
    let stdout = place.floodmark(replay).stdout(0);
    let nothing = place.floodmark(&format!("{replay} --changes changes.jsonl")).stdout(0);
    assert_eq!(nothing, "");
    assert_eq!(place.read("changes.jsonl"), stdout);
    assert_eq!(place.floodmark(&format!("{replay} --changes -")).stdout(0), stdout);
}
