//! Edits and comparisons of files.

use std::fs;

use super::Bench;
use crate::replay::run::Place;

#[test]
fn edit_keeps_all_other_text_of_the_file() {
    let place = Place::new();
    let text = "[\n  {\"limit_name\": \"a\",  \"limit_value\": 1.50, \"effective_date\": \"2024-05-01\"},\n\
                \n  {\"limit_name\": \"b\", \"limit_value\": 1, \"effective_date\": \"2024-05-01\",\n   \
                \"sorce\": \"x\"},\n  {\"limit_name\": \"a\", \"limit_value\": null, \
                \"effective_date\": \"2025-05-01\"}\n]\n";
    place.write("limits.json", text);
    let set = place.floodmark("limits set a 7 --effective 2024-06-01 --per total");
    let output = set.env("FLOODMARK_LIMITS", "limits.json").stdout(0);
    assert_eq!(
        output,
        "\"a\" from 2024-06-01T00:00:00Z: max 7 bytes per total\n  \
         until then: max 1.50 bytes per pair (since 2024-05-01T00:00:00Z)\n  \
         from 2025-05-01T00:00:00Z: no limit\n"
    );
    let new = "{\"limit_name\":\"a\",\"limit_value\":7,\
               \"effective_date\":\"2024-06-01T00:00:00Z\",\"per\":\"total\"}";
    assert_eq!(place.read("limits.json"), text.replace("}\n]", &format!("}},\n\n  {new}\n]")));
    let set = "limits set a 8 --effective 2024-06-01T00:00:00Z --limits limits.json";
    place.floodmark(set).stdout(0);
    let newer = new.replace('7', "8");
    assert_eq!(place.read("limits.json"), text.replace("}\n]", &format!("}},\n\n  {newer}\n]")));
    place.floodmark("limits delete a --effective 2024-06-01 --limits limits.json").stdout(0);
    assert_eq!(place.read("limits.json"), text);
    // A rejected row is deleted by its name and date.
    let delete = "limits delete b --effective 2024-05-01 --limits limits.json";
    let output = place.floodmark(delete).stdout(0);
    assert!(output.contains("a row that was refused"), "{output}");
    assert!(!place.read("limits.json").contains("sorce"));
    let files = fs::read_dir(place.path(".")).expect("a directory");
    let names = files.map(|file| file.expect("a file").file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".floodmark")));
}

#[test]
fn unreadable_or_missing_file_is_left_unchanged() {
    let place = Place::new();
    place.write("cut.json", "[{");
    let set = |file: &str| place.floodmark(&format!("limits set a 1 --limits {file}")).run();
    set("cut.json").expect(78).assert_stderr(&[
        "reading limits from",
        "cut.json",
        "line 1, column",
    ]);
    assert_eq!(place.read("cut.json"), "[{");
    set("none.json").expect(66).assert_stderr(&["none.json"]);
    assert!(!place.path("none.json").exists());
    set("-").expect(64).assert_stderr(&["standard input can't be changed"]);
    place.write("empty.json", "");
    set("empty.json --effective 2024-05-01").expect(0);
    assert_eq!(
        place.read("empty.json"),
        "{\"limit_name\":\"a\",\"limit_value\":1,\"effective_date\":\"2024-05-01T00:00:00Z\"}\n"
    );
}

/// Changes contain names and values, and Kafka rejects messages above a megabyte.
#[test]
fn row_with_a_long_text_is_rejected_alone_in_files_and_tables() {
    let bench = Bench::new();
    let row = |name: &str, value: &str| {
        format!(
            "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\"effective_date\":\"2024-05-01\"}}\n"
        )
    };
    let (longest, digits) = ("\u{20ac}".repeat(4096), "1".repeat(4097));
    let rows = [
        row(&"x".repeat(1_100_000), "1"),
        row("digits", &digits),
        row("text", &format!("\"{digits}\"")),
        row(&longest, "1"),
        row("good", "1"),
    ];
    bench.place.write("limits.json", rows.concat());
    bench.database.sql(crate::feeds::PLAIN);
    bench.database.sql(&format!(
        "insert into traffic_limits values (repeat('x', 1100000), 1, '2024-05-01'),
            ('digits', repeat('1', 4097)::numeric, '2024-05-01'), ('good', 1, '2024-05-01'),
            ('{longest}', 1, '2024-05-01')"
    ));
    for (place, refused) in [("limits.json", 3), ("READER", 2)] {
        let check = bench.run(&format!("check {place} --format json")).stdout(65);
        assert_eq!(check.matches("has more than 4096 characters").count(), refused, "{check}");
        assert_eq!(check.matches("\"status\":\"holds\"").count(), 2);
        assert!(check.len() < 40_000, "{}", check.len());
        let list = bench.run(&format!("list {place}")).run().expect(0);
        assert_eq!(list.stdout.lines().count(), 3, "{}", list.stdout);
        list.assert_stderr(&["limit_name has more than 4096", "limit_value has more than 4096"]);
    }
    assert_eq!(bench.run("diff limits.json READER").stdout(0), "no difference\n");
    let import = bench.run("import limits.json URI").run().expect(65);
    import.assert_stderr(&["limit_name has more than 4096 characters", "nothing is written"]);
    let name = "x".repeat(4097);
    let set = bench.run(&format!("set {name} 1 --limits limits.json")).run().expect(64);
    set.assert_stderr(&["limit_name has more than 4096 characters; shorten it"]);
    let made = Bench::with_table();
    let refused = made
        .database
        .session("floodmark")
        .try_sql("insert into traffic_limits values (repeat('x', 4097), 1, '2024-05-01')");
    assert!(refused.expect_err("too long").contains("limit_name_4096"));
}

#[test]
fn concurrent_edits_of_a_file_all_apply() {
    let place = Place::new();
    place.write("limits.json", "[]\n");
    let set = |number: usize| {
        place.floodmark(&format!("limits set n{number} 1 --limits limits.json")).start()
    };
    let running: Vec<_> = (0..8).map(set).collect();
    running.into_iter().for_each(|run| drop(run.finish().expect(0)));
    let listed = place.floodmark("limits list limits.json").stdout(0);
    assert_eq!(listed.lines().count(), 9, "{listed}");
}

#[test]
fn diff_compares_sets_in_files_and_tables() {
    let bench = Bench::with_table();
    bench.run("init URI --limits-table next").stdout(0);
    let row = |name: &str, value: u32| {
        format!(
            "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\"effective_date\":\"2024-05-01\"}}\n"
        )
    };
    bench.place.write("old.json", row("a", 1) + &row("b", 1) + &row("c", 1));
    bench.place.write("new.json", row("a", 1) + &row("b", 2) + &row("d", 1) + "7\n");
    bench.run("import old.json URI").stdout(0);
    let run = bench.run("diff old.json new.json").run().expect(0);
    assert!(run.stdout.ends_with("3 differences: 1 added, 1 removed, 1 changed\n"));
    let output = run.stdout.clone();
    run.assert_stderr(&["new limits: row 4 (line 4): the row is a number"]);
    assert_eq!(bench.run("diff URI new.json").stdout(0), output);
    bench.run("diff URI new.json --exit-code").stdout(1);
    assert_eq!(bench.run("diff URI old.json --exit-code").stdout(0), "no difference\n");
    let from_next = bench.run("diff URI#next URI --format json").stdout(0);
    assert_eq!(from_next.matches("\"change\":\"added\"").count(), 3);
    let to_next = bench.run("diff URI URI#next --exit-code").stdout(1);
    assert!(to_next.ends_with("3 differences: 0 added, 3 removed, 0 changed\n"), "{to_next}");
    bench.run("diff URI URI#no-name").run().expect(64);
    bench.run("diff - -").run().expect(64).assert_stderr(&["not both"]);
    bench.run("diff old.json none.json").run().expect(66);
}
