//! `floodmark test`: the cases in `tests/scenarios`, failing cases, and files that can't be read.

use serde_json::Value;

use crate::replay::fold::assert_same;
use crate::replay::pcap::pcap;
use crate::replay::run::Place;
use crate::replay::traffic::{self, Random, json_lines};

/// The output is the same for any number of workers and processes.
#[test]
fn scenarios_of_the_project_pass() {
    let place = Place::new();
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");
    let played = |variant: &str| place.floodmark(&format!("test {variant} -v")).arg(ours).stdout(0);
    let one = played("-w1");
    assert!(one.lines().filter(|line| line.starts_with("ok ")).count() > 100, "{one}");
    assert!(!one.contains("can't be"), "{one}");
    for variant in ["-w4", "-n2 -w2"] {
        assert!(played(variant) == one, "the output of {variant} differs from that of one worker");
    }
}

/// Two cases. The second one expects a missing, an incomplete and a wrong change.
const FAILING: &str = r#"
limit max 1000
limit "by source" 1500 per=source

case what is expected comes
at 10s
  10.0.0.1 > 10.0.0.2  600 bytes every 10s for 20s
  expect nothing
at 20s
  expect raised max 10.0.0.1 > 10.0.0.2  1200 bytes 2 packets reason=data settled=false as_of=20s

case what comes is not what is expected
at 1m
  10.0.0.1 > 10.0.0.2  1001 bytes
  10.0.0.3 > 10.0.0.4  700 bytes
  expect raised max 10.0.0.1 > 10.0.0.2  1002 bytes reason=late_data
  expect raised max 10.0.0.3 > 10.0.0.4
at 2m
  10.0.0.1 > 10.0.0.5  500 bytes
at 3m
  expect nothing
"#;

#[test]
fn failed_case_shows_missing_and_unexpected_changes() {
    let place = Place::new();
    place.write("a.scenario", FAILING);
    let shown = place.floodmark("test a.scenario -w2").stdout(1);
    let expected = "\
ok     a.scenario:5 what is expected comes
failed a.scenario:12 what comes is not what is expected
  at 1m (a.scenario:13):
    - expect raised max 10.0.0.1 > 10.0.0.2  1002 bytes reason=late_data    (line 16)
    + expect raised max 10.0.0.1 > 10.0.0.2 1001 bytes 1 packets reason=data window=0s value=1000 \
effective_date=1970-01-01T00:00:00Z settled=false as_of=1m
      differs in bytes, reason
    - expect raised max 10.0.0.3 > 10.0.0.4    (line 17)
  at 2m (a.scenario:18):
    + expect raised \"by source\" source 10.0.0.1 1501 bytes 2 packets reason=data window=0s value=1500 \
effective_date=1970-01-01T00:00:00Z settled=false as_of=2m
2 cases played, 1 failed (- expected but missing, + not expected)
";
    assert_eq!(shown, expected);

    // The case passes with the shown changes copied into the file.
    let unexpected = expected.lines().filter_map(|line| line.strip_prefix("    + "));
    let unexpected: Vec<&str> = unexpected.collect();
    let corrected = FAILING
        .replace(
            "expect raised max 10.0.0.1 > 10.0.0.2  1002 bytes reason=late_data",
            unexpected[0],
        )
        .replace("  expect raised max 10.0.0.3 > 10.0.0.4\n", "")
        .replace("500 bytes\n", &format!("500 bytes\n  {}\n", unexpected[1]));
    place.write("a.scenario", corrected);
    place.floodmark("test a.scenario -w2").stdout(0);

    // --case selects cases.
    place.write("a.scenario", FAILING);
    let chosen = place.floodmark("test a.scenario --case").arg("expected comes").stdout(0);
    assert!(chosen.ends_with("1 case played, 0 failed\n"), "{chosen}");
    place.floodmark("test a.scenario --case nowhere").run().expect(64);
}

#[test]
fn unreadable_files_are_named_and_the_others_played() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("all/below")).expect("directories for cases");
    place.write("all/good.scenario", "at 1m\n expect nothing");
    place.write("all/below/bad.scenario", "at 1m\n expect nothing\nat 30s\n expect nothing\n");
    place.write("all/below/worse.scenario", "at 1m\n  10.0.0.1 < 10.0.0.2 5 bytes\n");
    place.write("all/no-case.txt", "anything");
    let done = place.floodmark("test all").run().expect(65);
    let worse = "all/below/worse.scenario:2: expected \">\", not \"<\"";
    assert!(done.stderr.contains(worse), "{}", done.stderr);
    let bad = "all/below/bad.scenario:3: this step is not later than the one before it";
    assert!(done.stderr.contains(bad), "{}", done.stderr);
    assert!(done.stdout.contains("ok     all/good.scenario:1 good"), "{}", done.stdout);
    assert!(
        done.stdout.ends_with("1 case played, 0 failed; files and cases that can't be played: 2\n"),
        "{}",
        done.stdout
    );

    // The exit code of a failed case takes precedence.
    place.write("all/good.scenario", "at 1m\n expect raised max total");
    place.floodmark("test all -n2").run().expect(1);
    place.floodmark("test nowhere.scenario").run().expect(66);
    std::fs::create_dir_all(place.path("empty")).expect("a directory");
    place.floodmark("test empty").run().expect(66);
    place.floodmark("test").run().expect(64);

    // Files without an end are rejected.
    let pipe = place.fifo("pipe.scenario");
    for file in ["/dev/zero", pipe.to_str().expect("a path")] {
        let done = place.floodmark(&format!("test {file}")).run().expect(66);
        assert!(done.stderr.contains("is no regular file"), "{}", done.stderr);
    }
}

/// Returns the text of a document between two lines.
fn between<'a>(document: &'a str, first: &str, last: &str) -> &'a str {
    let (_, rest) = document.split_once(&format!("{first}\n")).expect(first);
    rest.split_once(&format!("\n{last}")).expect(last).0
}

#[test]
fn cases_of_the_documents_pass() {
    let readme = include_str!("../README.md");
    let page = include_str!("../docs/scenarios.md");
    let place = Place::new();
    place.write("limits.json", between(readme, "cat > limits.json <<END", "END"));
    place.write("readme.scenario", between(readme, "cat > limits.scenario <<END", "END"));
    place.write("page.scenario", between(page, "## A file\n\n```text", "```"));
    let played = place.floodmark("test .").stdout(0);
    assert!(played.ends_with("3 cases played, 0 failed\n"), "{played}");

    // The documented failure is that of a changed expectation.
    let wrong = place.read("page.scenario").replace("36000 bytes", "30000 bytes");
    place.write("limits.scenario", wrong);
    let failed = place.floodmark("test limits.scenario").stdout(1);
    let shown = between(
        page,
        "```text\nfailed limits.scenario:17 a limit that is lowered finds what is already there",
        "```",
    );
    for (shown, failed) in shown.lines().zip(failed.lines().skip(2)) {
        let shown = shown.strip_suffix('…').unwrap_or(shown);
        assert!(failed.starts_with(shown), "{failed} is not {shown}");
    }
}

/// Formats a change like `floodmark test`.
fn line(change: &Value) -> String {
    let text = |field: &str| change[field].as_str().unwrap_or_default().to_owned();
    let entity = |field: &str| change["entity"][field].as_str().unwrap_or_default().to_owned();
    let entity = match text("per").as_str() {
        "pair" => format!("{} > {}", entity("source"), entity("destination")),
        "total" => "total".to_owned(),
        per => format!("{per} {}", entity(per)),
    };
    let version = match change["effective_date"].as_str() {
        // `serde_json` writes 1e30 as 1e+30.
        Some(date) => {
            let value = change["limit_value"].to_string().replace("e+", "e");
            format!("value={value} effective_date={date}")
        }
        None => "value=null".to_owned(),
    };
    let name = match text("limit_name") {
        name if name.contains(' ') => format!("\"{name}\""),
        name => name,
    };
    format!(
        "{} {name} {entity} {} bytes {} packets reason={} window={} {version} settled={} as_of={}",
        text("event"),
        change["bytes"],
        change["packets"],
        text("reason"),
        text("window_start"),
        change["settled"],
        text("as_of"),
    )
}

/// A case with `clock replay` and a capture emits the changes of the replay of that capture.
#[test]
fn case_of_a_capture_matches_its_replay() {
    let place = Place::new();
    let random = &mut Random::new(103);
    let span_ms = 40 * 60_000;
    let packets = traffic::packets(random, 2000, span_ms);
    place.write("limits.jsonl", json_lines(&traffic::limits(random, 12, span_ms)));
    place.write("made.pcap", pcap(&packets));
    // Times are shown as dates, since the capture is far from the beginning of the case.
    let case = "clock replay\nbegin 1971-01-01\nwindow 1m\nlateness 2m\nupdates tick\ntick 2s\n\
                capture made.pcap\nlimits limits.jsonl\nat 0s\nexpect raised none total\n";
    place.write("made.scenario", case);
    for variant in ["-w1", "-w3"] {
        let test = place.floodmark(&format!("test made.scenario -v {variant}")).stdout(1);
        let mut tested: Vec<&str> =
            test.lines().filter_map(|line| line.strip_prefix("         expect ")).collect();
        let options = "--window 1m --lateness 2m --updates tick --tick 2s --limits limits.jsonl";
        let replay = place.floodmark(&format!("replay made.pcap {options} {variant}")).stdout(0);
        let changes = replay.lines().map(|line| serde_json::from_str(line).expect("an object"));
        let mut replayed: Vec<String> = changes.map(|change| line(&change)).collect();
        tested.sort();
        replayed.sort();
        assert!(replayed.len() > 100, "only {} changes", replayed.len());
        assert_same(&tested.join("\n"), &replayed.join("\n"), || {
            format!("test and replay {variant}")
        });
    }
}
