//! `floodmark demo`, run as a user runs it: its output, and its final violations against a replay.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::replay::fold;
use crate::replay::run::{Place, SignalTarget};

/// Returns the folder of the files that are compiled into the program.
fn files() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/demo")
}

/// Returns the final violations of a replay with the final limits of the demo.
fn replayed() -> BTreeSet<String> {
    let place = Place::new();
    let limits = fs::read_to_string(files().join("limits.jsonl")).expect("limits");
    place.write("limits.jsonl", limits.replace("30000", "17000"));
    let run =
        place.floodmark("replay --limits limits.jsonl").arg(files().join("office-lan.pcapng.zst"));
    let of = |violation: &fold::Object| {
        let entity = violation["entity"].as_object().expect("an object");
        let field = |name: &str| entity.get(name).map(|_| fold::text(entity, name));
        let who = match (field("source"), field("destination")) {
            (Some(source), Some(destination)) => format!("{source} > {destination}"),
            (Some(source), None) => format!("source {source}"),
            _ => "total".to_owned(),
        };
        let window = &fold::text(violation, "window_start")[11..16];
        let (limit, bound) = (fold::text(violation, "limit_name"), fold::text(violation, "bound"));
        let (value, amount) = (&violation["limit_value"], &violation["amount"]);
        let metric = fold::text(violation, "metric");
        format!("{window} {limit} {bound} {value} {who} {amount} {metric}")
    };
    fold::fold(&run.stdout(0)).values().map(of).collect()
}

/// Returns the words of a line, separated by single blanks.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the output with the parts masked that differ from run to run.
fn masked(text: &str) -> String {
    let mask = |word: &str| -> String {
        match word {
            _ if word.starts_with("kafka://127.0.0.1:") => {
                format!("kafka://BROKER/{}", word.rsplit('/').next().expect("a topic"))
            }
            _ if word.ends_with("/limits.jsonl") => "FILE".to_owned(),
            _ => word.to_owned(),
        }
    };
    text.lines()
        .map(|line| line.split_whitespace().map(mask).collect::<Vec<_>>().join(" ") + "\n")
        .collect()
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("no \"{from}\" in {text}"));
    rest.split_once(to).unwrap_or_else(|| panic!("no \"{to}\" in {rest}")).0
}

/// Runs the demo to its end at full speed, and checks its whole output.
fn check(options: &str, workers: usize) {
    let place = Place::new();
    let run = place.floodmark(&format!("demo --speed max {options}"));
    // The demo ignores settings for the user's own brokers.
    let done = run.env("FLOODMARK_KAFKA_SECURITY_PROTOCOL", "ssl").run().expect(0);
    assert_eq!(done.stderr, "", "{options}");
    let output = masked(&done.stdout);
    let begins = format!(
        "4088 packets of 28 minutes of an office network pass at max speed:\n\n\
         sent to kafka://BROKER/floodmark-flows-v1 (floodmark capture)\n\
         judged by {workers} workers (floodmark run)\n\
         limits in FILE\n\
         alerts to kafka://BROKER/floodmark-alerts-v1\n\n\
         The broker is in this process, too. The limits, for windows of 5 minutes:\n\n\
         LIMIT VALUE METRIC PER TO\n\
         pair-max max 30000 bytes pair any\n\
         source-max max 50000 bytes source 224.0.0.0/4\n\
         min-lan min 500 packets total any\n\n"
    );
    assert!(output.starts_with(&begins), "{output}");
    let change = "Half-way, pair-max goes from 30000 to 17000 in FILE\n";
    // The first pair breaks the limit before the change, the second one only by the change.
    let place_of =
        |part: &str| output.find(part).unwrap_or_else(|| panic!("no \"{part}\" in {output}"));
    assert!(place_of(" raised 18:50 pair-max max 30000 ") < place_of(change), "{output}");
    assert!(place_of(change) < place_of(" raised 18:55 pair-max max 17000 "), "{output}");
    let table =
        between(&output, "These violations remain:\n\nWINDOW LIMIT VALUE WHO AMOUNT\n", "\n\n");
    let standing: BTreeSet<String> = table.lines().map(words).collect();
    assert_eq!(standing, replayed(), "{output}");
    assert!(output.contains("\n4088 packets went as "), "{output}");
    let effect = between(&output, "\npair-max from 30000 to 17000: ", " changes in ");
    assert!(effect.parse::<u32>().expect("a number") > 0, "{output}");
    for next in ["floodmark capture -i", "floodmark run --from", "floodmark replay some.pcap"] {
        assert!(output.contains(next), "{output}");
    }
}

#[test]
fn demo_ends_with_the_violations_of_a_replay() {
    check("", 2);
    check("-w 1", 1);
    check("--workers 3", 3);
}

#[test]
fn interrupt_ends_the_demo_without_messages() {
    let place = Place::new();
    let mut run = place.floodmark("demo").start();
    while !run.line().contains("min-lan") {}
    run.signal("INT", SignalTarget::Parent);
    let done = run.finish().expect(130);
    assert_eq!(done.stderr, "");
    assert!(!done.stdout.contains("These violations remain"), "{}", done.stdout);
}

#[test]
fn closed_stdout_ends_the_demo_with_code_0() {
    let place = Place::new();
    let done = place.floodmark("demo --speed max").stdout_closed().run().expect(0);
    assert_eq!(done.stderr, "");
    let mut run = place.floodmark("demo --speed max").start();
    while !run.line().contains("raised") {}
    run.close_stdout();
    assert_eq!(run.finish().expect(0).stderr, "");
}

#[test]
fn invalid_demo_options_exit_with_code_64() {
    let place = Place::new();
    place
        .floodmark("demo --workers 0")
        .run()
        .expect(64)
        .assert_stderr(&["at least one worker is needed"]);
    place
        .floodmark("demo --speed fast")
        .run()
        .expect(64)
        .assert_stderr(&["\"fast\" is not a speed"]);
}
