//! `floodmark limits check`, as a command.

use super::fold::objects;
use super::run::Place;

const GOOD: &str = r#"{"limit_name":"max","limit_value":1000000,"effective_date":"2024-05-01"}
{"limit_name":"max","limit_value":2e6,"effective_date":"2024-06-01","per":"total"}
{"limit_name":"quiet","limit_value":null,"effective_date":"2024-05-01"}
"#;

#[test]
fn accepted_rows_are_listed_with_their_state() {
    let place = Place::new();
    place.write("limits.jsonl", GOOD);
    let done = place.floodmark("limits check limits.jsonl --at 2024-05-10").run().expect(0);
    assert_eq!(done.stderr, "");
    insta::assert_snapshot!(done.stdout);
    // These rows as a JSON array on standard input.
    let rows: Vec<&str> = GOOD.lines().collect();
    let array = format!("[\n{}\n]", rows.join(",\n"));
    let run = place.floodmark("limits check - --at 2024-05-10T00:00:00Z").stdin(array);
    let last = |text: &str| text.lines().last().map(str::to_owned);
    assert_eq!(last(&run.stdout(0)), last(&done.stdout));
}

#[test]
fn rejected_rows_are_listed_with_their_reason() {
    let place = Place::new();
    place.write(
        "limits.jsonl",
        format!(
            "{GOOD}{}",
            r#"{"limit_name":"a","limit_value":"NaN","effective_date":"2024-05-01"}
{"limit_name":"b","limit_value":1,"effective_date":"2024-05-01","host":"10.0.0.0/8"}
{"limit_name":"c","limit_value":1,"effective_date":"2024-13-01"}
{"limit_name":"d","limit_value":1,"effective_date":"2024-05-01","source":"10.0.0.256"}
{"limit_name":"max","limit_value":1000000,"effective_date":"2024-05-01T00:00:00Z"}
"#
        ),
    );
    let done = place.floodmark("limits check limits.jsonl --at 2024-05-10").run().expect(65);
    insta::assert_snapshot!(done.stdout);
    let line = "limits check limits.jsonl --at 2024-05-10 --format json";
    let rows = objects(&place.floodmark(line).stdout(65));
    let status: Vec<_> = rows.iter().map(|row| row["status"].as_str().expect("a status")).collect();
    let (holds, refused) = ("holds", "refused");
    assert_eq!(status, [holds, holds, holds, refused, refused, refused, refused, "duplicate"]);
    assert_eq!(rows[0]["state"], "now");
    assert_eq!(rows[1]["state"], "next");
}

#[test]
fn state_of_a_row_is_that_of_now_or_of_at() {
    let place = Place::new();
    place.write(
        "limits.jsonl",
        r#"{"limit_name":"old","limit_value":1,"effective_date":"2001-01-01"}
{"limit_name":"new","limit_value":1,"effective_date":"2999-01-01"}
"#,
    );
    let states = |line: &str| -> Vec<String> {
        let rows = objects(&place.floodmark(line).stdout(0));
        rows.iter().map(|row| row["state"].as_str().expect("a state").to_owned()).collect()
    };
    assert_eq!(states("limits check limits.jsonl --format json"), ["now", "next"]);
    assert_eq!(states("limits check limits.jsonl --format json --at 2000-01-01"), ["next", "next"]);
    assert_eq!(states("limits check limits.jsonl --format json --at 3000-01-01"), ["now", "now"]);
}

#[test]
fn unreadable_files_and_arguments_have_distinct_exit_codes() {
    let place = Place::new();
    place.write("bad.jsonl", "{\"limit_name\":");
    place.floodmark("limits check none.jsonl").run().expect(66).assert_stderr(&["none.jsonl"]);
    place
        .floodmark("limits check bad.jsonl")
        .run()
        .expect(78)
        .assert_stderr(&["bad.jsonl", "line 1"]);
    place.floodmark("limits check").run().expect(64).assert_stderr(&["<FILE|URI>"]);
    place.floodmark("limits").run().expect(64);
    let line = "limits check bad.jsonl --at infinity";
    place.floodmark(line).run().expect(64).assert_stderr(&["--at", "infinity"]);
}

#[test]
fn closed_stdout_ends_silently() {
    let place = Place::new();
    place.write("limits.jsonl", GOOD.repeat(3));
    let done = place.floodmark("limits check limits.jsonl").stdout_closed().run();
    assert_eq!(done.expect(0).stderr, "");
}
