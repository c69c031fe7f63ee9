//! Versions of limits that take effect during a replay.

use super::fold::{changes, events, fold};
use super::pcap::{packet, pcap};
use super::run::Place;

/// Replays a minute with two packets, at 5 s and 41 s, under these rows (value, time of day, further fields).
fn run(rows: &[(&str, &str, &str)], options: &str) -> String {
    run_until(41_000, rows, options)
}

/// Like [`run`], with the second packet at another time.
fn run_until(second_ms: u64, rows: &[(&str, &str, &str)], options: &str) -> String {
    let place = Place::new();
    place.write(
        "a.pcap",
        pcap(&[
            packet(5_000, "10.0.0.1", "10.0.0.2", 500),
            packet(second_ms, "10.0.0.3", "10.0.0.4", 20),
        ]),
    );
    let row = |(value, time, more): &(&str, &str, &str)| {
        let date = match time.contains('T') {
            true => (*time).to_owned(),
            false => format!("1970-01-01T{time}Z"),
        };
        format!(
            "{{\"limit_name\":\"l\",\"limit_value\":{value},\"effective_date\":\"{date}\"{more}}}\n"
        )
    };
    place.write("limits.jsonl", rows.iter().map(row).collect::<String>());
    let line = format!("replay a.pcap --limits limits.jsonl --window 1m {options}");
    place.floodmark(&line).stdout(0)
}

/// Returns the changes as event, reason, amount and, without the day, as_of.
fn emitted(stdout: &str) -> Vec<String> {
    let line = |change: &super::fold::Object| {
        let field = |name: &str| change[name].to_string().replace(['"', 'Z'], "");
        let as_of = field("as_of").replace("1970-01-01T", "");
        format!("{} {} {} at {as_of}", field("event"), field("reason"), field("amount"))
    };
    changes(stdout).iter().map(line).collect()
}

#[test]
fn future_version_takes_effect_at_its_date() {
    let rows = [("1000", "00:00:00", ""), ("100", "00:00:30", "")];
    // Packets are the clock of a replay: a version takes effect at the first tick at or after its date.
    let cases = [
        (30_000, "--tick 1s", "00:00:30"),
        (30_999, "--tick 1s", "00:00:30"),
        (41_000, "--tick 1s", "00:00:41"),
        (41_000, "--tick 1s -w2", "00:00:41"),
        (41_000, "--tick 1s -n2", "00:00:41"),
        (39_999, "--tick 10s", "00:00:30"),
        (41_000, "--tick 10s", "00:00:40"),
        // The end of the input advances the clock, since no packet does.
        (29_999, "--tick 1s", "00:00:30"),
        (41_000, "--tick 1m", "00:00:30"),
    ];
    for (second_ms, options, at) in cases {
        let emitted = emitted(&run_until(second_ms, &rows, options));
        let case = format!("second packet at {second_ms} ms, {options}");
        assert_eq!(emitted[0], format!("raised schedule 500 at {at}"), "{case}");
        assert_eq!(emitted[1], "updated schedule 500 at 00:01:01", "{case}");
        assert_eq!(emitted.len(), 2, "{case}: {emitted:?}");
    }
}

#[test]
fn null_value_clears_the_violation() {
    let rows = [("100", "00:00:00", ""), ("null", "00:00:30", "")];
    let stdout = run(&rows, "");
    assert_eq!(
        emitted(&stdout),
        ["raised data 500 at 00:00:05", "cleared schedule 500 at 00:00:41"]
    );
    let cleared = &changes(&stdout)[1];
    assert!(cleared["limit_value"].is_null() && cleared["effective_date"].is_null(), "{cleared:?}");
}

#[test]
fn higher_value_clears_the_violation_and_is_named() {
    let rows = [("100", "00:00:00", ""), ("500", "00:00:30", "")];
    let stdout = run(&rows, "");
    assert_eq!(
        emitted(&stdout),
        ["raised data 500 at 00:00:05", "cleared schedule 500 at 00:00:41"]
    );
    let cleared = &changes(&stdout)[1];
    assert_eq!(cleared["limit_value"], 500);
    assert_eq!(cleared["effective_date"], "1970-01-01T00:00:30Z");
}

#[test]
fn version_dated_after_the_last_packet_judges_the_window() {
    for tick in ["1s", "10s", "1m"] {
        let option = format!("--tick {tick}");
        let rows = [("1000", "00:00:00", ""), ("100", "00:00:59.999", "")];
        let events_of = events(&run(&rows, &option));
        assert_eq!(events_of, ["raised l 500", "updated l 500"], "{option}");
        let rows = [("100", "00:00:00", ""), ("null", "00:00:50", "")];
        assert_eq!(fold(&run(&rows, &option)).len(), 0, "{option}");
        // A version dated at the window's end applies to the next window.
        let rows = [("100", "00:00:00", ""), ("null", "00:01:00", "")];
        assert_eq!(fold(&run(&rows, &option)).len(), 1, "{option}");
        let rows = [("1000", "00:00:00", ""), ("100", "00:01:00", "")];
        assert_eq!(run(&rows, &option), "", "{option}");
    }
}

#[test]
fn order_and_repetition_of_rows_change_nothing() {
    let rows = [
        ("1", "1960-01-01T00:00:00Z", ""),
        ("1000", "00:00:00", ""),
        ("100", "00:00:30", ""),
        ("null", "00:00:45", ""),
        ("400", "00:00:55", ""),
        ("1", "2099-01-01T00:00:00Z", ""),
    ];
    let expected = run(&rows, "");
    assert_eq!(
        events(&expected),
        ["raised l 500", "cleared l 500", "raised l 500", "updated l 500"],
        "{expected}"
    );
    let mut backwards = rows;
    backwards.reverse();
    assert_eq!(run(&backwards, ""), expected);
    let mut twice = rows.to_vec();
    twice.extend(rows);
    assert_eq!(run(&twice, ""), expected);
}

#[test]
fn version_with_another_scope_replaces_the_violations() {
    let total = r#","per":"total","metric":"packets""#;
    let min = r#","bound":"min","per":"source","source":"10.0.0.3""#;
    let rows = [("100", "00:00:00", ""), ("1", "00:00:42", total), ("21", "00:00:50", min)];
    let stdout = run(&rows, "");
    // A cleared change states the amount in the metric of the new version: the pair in packets, the total in bytes.
    assert_eq!(
        events(&stdout),
        [
            "raised l 500",
            "cleared l 1",
            "raised l 2",
            "cleared l 520",
            "raised l 20",
            "updated l 20"
        ],
        "{stdout}"
    );
    let standing: Vec<_> = fold(&stdout).into_values().collect();
    assert_eq!(standing.len(), 1, "{stdout}");
    assert_eq!(standing[0]["amount"], 20);
    assert_eq!(standing[0]["entity"]["source"], "10.0.0.3");
    assert_eq!(standing[0]["bound"], "min");
}

#[test]
fn versions_judge_the_windows_that_they_are_in_force_for() {
    let place = Place::new();
    let at =
        |minute: u64| packet(minute * 60_000 + 1000, "10.0.0.1", "10.0.0.2", 100 + minute as u32);
    place.write("a.pcap", pcap(&(0..6).map(at).collect::<Vec<_>>()));
    place.write(
        "limits.jsonl",
        r#"{"limit_name":"l","limit_value":50,"effective_date":"1970-01-01T00:01:30Z"}
{"limit_name":"l","limit_value":1000,"effective_date":"1970-01-01T00:03:00Z"}
{"limit_name":"l","limit_value":60,"effective_date":"1970-01-01T00:04:59Z"}
{"limit_name":"l","limit_value":null,"effective_date":"1970-01-01T00:05:00Z"}"#,
    );
    for tick in ["1s", "1m", "5m"] {
        let line = format!("replay a.pcap --limits limits.jsonl --window 1m --tick {tick}");
        let standing = fold(&place.floodmark(&line).stdout(0));
        let mut amounts: Vec<_> = standing
            .values()
            .map(|violation| {
                (violation["amount"].to_string(), violation["limit_value"].to_string())
            })
            .collect();
        amounts.sort();
        let expected = [("101", "50"), ("102", "50"), ("104", "60")];
        assert_eq!(amounts, expected.map(|(a, v)| (a.to_owned(), v.to_owned())), "{tick}");
    }
}
