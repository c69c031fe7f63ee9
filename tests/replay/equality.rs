//! The result does not depend on the number of workers and processes, nor on the tick.

use super::fold::{assert_same, folded};
use super::pcap::pcap;
use super::run::Place;
use super::traffic::{self, Random, json_lines};
use crate::common::more_data;

/// Options of runs that are compared with one worker at ticks of a second.
const VARIANTS: [&str; 8] = [
    "-w2",
    "-w4",
    "-n2 -w2",
    "--tick 10s",
    "--tick 60s",
    "--tick 300s",
    "--tick 10s -w4",
    "--tick 300s -n2 -w2",
];

/// Compares all variants with the first run; `replay` is the command without their options.
fn check(place: &Place, replay: &str) {
    let run = |variant: &str| {
        let line = format!("replay {replay} --limits limits.jsonl --totals totals.csv {variant}");
        let done = place.floodmark(&line).run().expect(0);
        (done, place.read("totals.csv"))
    };
    let (first, totals) = run("-w1");
    let violations = folded(&first.stdout);
    assert!(!violations.is_empty(), "nothing is violated, so that nothing is compared: {replay}");
    for variant in VARIANTS {
        let (other, other_totals) = run(variant);
        let between = |what: &str| {
            format!("{what} of\n$ {}\n$ {}", first.command_line(), other.command_line())
        };
        assert_same(&violations, &folded(&other.stdout), || between("violations"));
        assert_same(&totals, &other_totals, || between("totals"));
        if !variant.contains("--tick") {
            assert_same(&first.stdout, &other.stdout, || between("standard output"));
        }
    }
    let one = run("--tick 10s -w1").0.stdout;
    let four = run("--tick 10s -w4").0.stdout;
    assert!(one == four, "ticks of 10 s with -w1 and -w4 differ: {replay}");
}

#[test]
fn random_captures_give_the_same_result_for_any_workers_and_ticks() {
    for seed in [101, 102] {
        let random = &mut Random::new(seed);
        let span_ms = 40 * 60_000;
        let packets = traffic::packets(random, 1500, span_ms);
        let place = Place::new();
        place.write("limits.jsonl", json_lines(&traffic::limits(random, 12, span_ms)));
        let (one, two) = packets.split_at(packets.len() / 3);
        place.write("one.pcap", pcap(one));
        place.write("two.pcap", pcap(two));
        check(&place, "two.pcap one.pcap --updates tick --top 3,source,packets");
    }
}

/// Limits that every real capture breaks somewhere.
const LIMITS: &str = r#"
{"limit_name":"max-pair","limit_value":20000,"effective_date":"1970-01-01"}
{"limit_name":"max-source","limit_value":100,"effective_date":"1970-01-01","per":"source","metric":"packets"}
{"limit_name":"max-host","limit_value":50000,"effective_date":"1970-01-01","per":"host"}
{"limit_name":"min-destination","limit_value":500,"effective_date":"1970-01-01","per":"destination"}
{"limit_name":"min-total","limit_value":1e6,"effective_date":"1970-01-01","per":"total"}
{"limit_name":"min-dns","limit_value":3,"effective_date":"1970-01-01","per":"total","metric":"packets","destination":"224.0.0.0/4"}
{"limit_name":"max","limit_value":1,"effective_date":"1970-01-01","per":"total"}
"#;

#[test]
fn real_captures_give_the_same_result_for_any_workers_and_ticks() {
    let Some(captures) = more_data().map(|data| data.join("captures")) else {
        println!("without the set of real captures: not compared");
        return;
    };
    let names = [
        "office-lan-ns.pcapng",
        "wechat.pcap",
        "whatsapp.pcap",
        "dns-fragmented.pcap",
        "denial6-6.pcap",
        "two-resolutions.pcapng",
        "many-interfaces.pcapng",
        "cip.pcap",
    ];
    for name in names {
        let place = Place::new();
        place.write("limits.jsonl", LIMITS);
        let capture = captures.join(name);
        check(&place, &format!("{} --top 5", capture.display()));
    }
}
