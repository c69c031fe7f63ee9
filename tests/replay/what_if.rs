//! A second set of limits beside the first: each is judged as if alone, and `--only-difference` shows their difference.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::fold::{assert_same, changes, events, fold, text};
use super::pcap::{packet, pcap};
use super::run::Place;
use super::sets::{SETS, changes_of_set, in_one_set, in_one_set_lines, live_only, standing};
use super::traffic::{self, Random, json_lines};
use crate::common::data;

/// Options of the runs that are compared.
const VARIANTS: [&str; 3] = ["-w1", "-w2", "-n2"];

/// Returns the violations that stand at the end, without the id, which differs between the sets.
fn settled(stdout: &str) -> String {
    let mut lines: Vec<String> = fold(stdout)
        .into_values()
        .map(|mut violation| {
            violation.remove("id").expect("every violation has one");
            Value::from(violation).to_string() + "\n"
        })
        .collect();
    lines.sort();
    lines.concat()
}

/// Compares both sets, and their difference, with replays of one set. Returns the number of violations in both sets,
/// and in one of them.
fn check(place: &Place, what: &str) -> (usize, usize) {
    let run = |more: &str| place.floodmark(&format!("replay {what} {more}")).run().expect(0);
    for variant in VARIANTS {
        let both = run(&format!("--limits limits.jsonl --what-if other.jsonl {variant}"));
        let live = run(&format!("--limits limits.jsonl {variant}"));
        let other = run(&format!("--limits other.jsonl {variant}"));
        let shown = |one: &str| format!("{one} of\n$ {}", both.command_line());
        assert_same(&live_only(&both.stdout), &live.stdout, || shown("the live set"));
        let what_if = settled(&changes_of_set(&both.stdout, "what_if"));
        assert_same(&what_if, &settled(&other.stdout), || shown("the other set"));
        let alone_too = run(&format!("--what-if other.jsonl {variant}"));
        assert_same(&what_if, &settled(&changes_of_set(&alone_too.stdout, "what_if")), || {
            shown("the other set, with and without a first one")
        });

        let line =
            format!("--limits limits.jsonl --what-if other.jsonl --only-difference {variant}");
        let difference = run(&line);
        let (all, few) = (standing(&both.stdout), standing(&difference.stdout));
        assert_same(&in_one_set_lines(&few), &in_one_set_lines(&all), || shown("the difference"));
        // The difference is a subset of the lines of both sets.
        let lines: BTreeSet<&str> = both.stdout.lines().collect();
        let mut seen = BTreeSet::new();
        for line in difference.stdout.lines() {
            assert!(
                lines.contains(line) && seen.insert(line),
                "{}: {line}",
                difference.command_line()
            );
        }
        let ranked = |stdout: &str| stdout.matches("{\"top\":").count();
        assert_eq!(ranked(&difference.stdout), ranked(&both.stdout));
    }
    let all = standing(&run("--limits limits.jsonl --what-if other.jsonl").stdout);
    let both = all.values().filter(|sets| sets.len() == SETS.len()).count();
    (both, in_one_set(&all).count())
}

/// Writes two random sets of limits that share most of their names, and some of their rows.
fn two_sets(place: &Place, random: &mut Random, span_ms: u64) {
    let one = traffic::limits(random, 12, span_ms);
    let other = traffic::limits(random, 16, span_ms);
    let shared = |row: &&Value| {
        let name = row["limit_name"].as_str().expect("a name");
        ["limit 2", "limit 3", "limit 5", "limit 7"].contains(&name)
    };
    let rest = other.iter().filter(|row| !shared(row));
    let other: Vec<Value> = one.iter().filter(shared).chain(rest).cloned().collect();
    place.write("limits.jsonl", json_lines(&one));
    place.write("other.jsonl", json_lines(&other));
}

#[test]
fn each_set_is_judged_as_if_alone() {
    let mut counts = (0, 0);
    for seed in 901..=904 {
        println!("seed {seed}");
        let random = &mut Random::new(seed);
        let span_ms = 40 * 60_000;
        let place = Place::new();
        place.write("made.pcap", pcap(&traffic::packets(random, 900, span_ms)));
        two_sets(&place, random, span_ms);
        for more in ["--updates tick --top 3", "--lateness 1m --retention 1m --window 1m"] {
            let (both, one) = check(&place, &format!("made.pcap {more}"));
            counts = (counts.0 + both, counts.1 + one);
        }
    }
    println!("{} violations in both sets, {} in one", counts.0, counts.1);
    assert!(counts.0 > 100 && counts.1 > 100, "{counts:?}");
}

/// Returns limits of all scopes with random values, always in force.
fn always(random: &mut Random) -> String {
    let mut rows = String::new();
    for (at, per) in ["pair", "source", "destination", "host", "total"].into_iter().enumerate() {
        for (bound, metric) in [("max", "bytes"), ("max", "packets"), ("min", "bytes")] {
            let most = if metric == "bytes" { 6000 } else { 12 };
            let row = json!({
                "limit_name": format!("{bound} {metric} {}", (at + random.below(2) as usize) % 5),
                "limit_value": random.below(most),
                "effective_date": format!("197{at}-01-01"),
                "bound": bound, "metric": metric, "per": per,
            });
            rows += &format!("{row}\n");
        }
    }
    rows
}

#[test]
fn each_set_is_judged_as_if_alone_on_real_captures() {
    for (seed, name) in (921..).zip([
        "mixed-vlan-mpls.pcap",
        "many-interfaces.pcapng",
        "ipv6-ext-headers.pcap",
        "three-sections.pcapng",
        "vxlan.pcap",
    ]) {
        println!("seed {seed}");
        let random = &mut Random::new(seed);
        let place = Place::new();
        place.write("limits.jsonl", always(random));
        place.write("other.jsonl", always(random));
        let capture = data().join("captures").join(name);
        let (both, one) = check(&place, &format!("{} --window 10s --top 2", capture.display()));
        assert!(both + one > 0, "nothing is violated in {name}");
    }
}

/// Returns a directory with two sets of limits, and a capture of one pair with 1200 bytes in the first window and 600
/// in the second.
fn place() -> Place {
    let place = Place::new();
    let packets =
        [packet(1_000, "10.0.0.1", "10.0.0.2", 1200), packet(301_000, "10.0.0.1", "10.0.0.2", 600)];
    place.write("a.pcap", pcap(&packets));
    place.write("high.json", limit(1000, ""));
    place.write("low.json", limit(500, ""));
    place
}

fn limit(value: u64, more: &str) -> String {
    format!(
        "{{\"limit_name\":\"big\",\"limit_value\":{value},\"effective_date\":\"1970-01-01\"{more}}}\n"
    )
}

#[test]
fn changes_name_their_set() {
    let place = place();
    let stdout = place.floodmark("replay a.pcap --limits high.json --what-if low.json").stdout(0);
    let emitted: Vec<String> = changes(&stdout)
        .iter()
        .map(|change| {
            let [event, set] = ["event", "limit_set"].map(|field| text(change, field));
            format!("{event} {set} {} {}", change["limit_value"], change["amount"])
        })
        .collect();
    let expected = [
        "raised live 1000 1200",
        "raised what_if 500 1200",
        "raised what_if 500 600",
        "updated live 1000 1200",
        "updated what_if 500 1200",
        "updated what_if 500 600",
    ];
    assert_eq!(emitted, expected);
    let first = stdout.lines().next().expect("a line");
    assert!(
        first.contains("\"limit_name\":\"big\",\"limit_set\":\"live\",\"limit_value\""),
        "{first}"
    );
    // The id of a live violation is the same without a second set.
    let alone = place.floodmark("replay a.pcap --limits high.json").stdout(0);
    assert!(!alone.contains("limit_set"));
    assert_eq!(changes(&alone)[0]["id"], changes(first)[0]["id"]);

    let only = "replay a.pcap --limits high.json --what-if low.json --only-difference";
    let stdout = place.floodmark(only).stdout(0);
    assert_eq!(events(&stdout), ["raised big 600", "updated big 600"]);
    assert!(changes(&stdout).iter().all(|change| change["limit_set"] == "what_if"));

    let table = place.floodmark(&format!("{only} --format table")).stdout(0);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    let at = lines[0].find("SET ").expect("a column");
    assert!(lines[1..].iter().all(|line| line[at..].starts_with("what_if  ")), "{table}");
    let table = place.floodmark("replay a.pcap --limits high.json --format table").stdout(0);
    assert!(!table.contains("SET") && !table.contains("live"), "{table}");
}

#[test]
fn equal_limits_of_both_sets_show_no_difference() {
    let place = place();
    place.write("same.json", limit(1000, "").replace("1000", "1e3"));
    let line = "replay a.pcap --limits high.json --what-if same.json";
    let stdout = place.floodmark(line).stdout(0);
    assert_eq!(changes(&stdout).len(), 4);
    // Each change has the notation of its own set.
    assert_eq!(stdout.matches("\"limit_value\":1000,").count(), 2, "{stdout}");
    assert_eq!(stdout.matches("\"limit_value\":1e3,").count(), 2, "{stdout}");
    assert_eq!(place.floodmark(&format!("{line} --only-difference")).stdout(0), "");
    // A limit of another scope has other violations, even if the amounts are equal.
    place.write("source.json", limit(1000, ",\"per\":\"source\""));
    let line = "replay a.pcap --limits high.json --what-if source.json --only-difference";
    assert_eq!(changes(&place.floodmark(line).stdout(0)).len(), 4);
    // --limits-per applies to both sets.
    let line = format!("{line} --limits-per source");
    assert_eq!(place.floodmark(&line).stdout(0), "");
}

#[test]
fn violation_of_the_second_set_is_no_failure() {
    let place = place();
    place.write("never.json", limit(5000, ""));
    let run = |limits: &str, code| {
        place.floodmark(&format!("replay a.pcap {limits} --fail-on-violation")).stdout(code)
    };
    let emitted = changes(&run("--limits never.json --what-if low.json", 0));
    assert_eq!(emitted.len(), 4);
    run("--limits low.json --what-if never.json", 2);
    // The exit code also counts violations that --only-difference hides.
    run("--limits low.json --what-if low.json --only-difference", 2);
    run("--what-if low.json", 0);
}

#[test]
fn invalid_second_set_is_reported() {
    let place = place();
    place.write("bad.json", "[{");
    for (words, code, parts) in [
        ("--limits high.json --only-difference", 64, ["--what-if", ""]),
        ("--only-difference", 64, ["--what-if", ""]),
        ("--limits - --what-if -", 64, ["--limits", "--what-if"]),
        ("--limits high.json --what-if none.json", 66, ["none.json", "reading limits"]),
        ("--limits high.json --what-if bad.json", 78, ["bad.json", "line"]),
    ] {
        let done = place.floodmark(&format!("replay a.pcap {words} --totals t.csv")).run();
        assert_eq!(done.expect(code).assert_stderr(&parts).stdout, "", "{words}");
        assert!(!place.path("t.csv").exists(), "something began: {words}");
    }
    place.write("refused.json", limit(1, "") + &limit(2, ",\"sorce\":\"10.0.0.1\""));
    let run = place.floodmark("replay a.pcap --limits high.json --what-if refused.json").run();
    run.expect(0).assert_stderr(&["\"refused.json\"", "sorce"]);
    // The second set may come from the environment.
    let run = place.floodmark("replay a.pcap --limits high.json --only-difference");
    let stdout = run.env("FLOODMARK_WHAT_IF", "low.json").stdout(0);
    assert_eq!(events(&stdout), ["raised big 600", "updated big 600"]);
}
