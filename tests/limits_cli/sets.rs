//! Whole sets, from JSON to a table and back.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::Bench;
use crate::common::Random;

/// Returns a random row as JSON, of any kind that a table can hold.
fn row(random: &mut Random, name: &str, date: &str) -> String {
    let value = match random.below(6) {
        0 => "null".to_owned(),
        1 => "\"0.000\"".to_owned(),
        2 => format!("{}e{}", random.below(1000), random.below(40) as i64 - 20),
        3 => format!("{}{:018}.{}", 1 + random.below(9), random.below(1 << 50), random.below(1000)),
        4 => format!("\"{}\"", random.below(100)),
        _ => random.below(1 << 40).to_string(),
    };
    let quoted = serde_json::to_string(name).expect("a text");
    let mut row =
        format!("{{\"limit_name\":{quoted},\"limit_value\":{value},\"effective_date\":\"{date}\"");
    let mut also = |column: &str, words: &[&str]| {
        let chosen = random.below(words.len() + 2);
        if let Some(word) = words.get(chosen) {
            write!(row, ",\"{column}\":\"{word}\"").expect("memory");
        }
        words.get(chosen).map_or(String::new(), |word| (*word).to_owned())
    };
    also("bound", &["max", "min"]);
    also("metric", &["bytes", "packets"]);
    let per = also("per", &["pair", "source", "destination", "host", "total"]);
    if per == "host" {
        also("host", &["10.0.0.0/8", "any", "", "2001:db8::1", "192.0.2.77/24"]);
    }
    also("source", &["10.0.0.0/8", "10.9.8.7", "0.0.0.0/0", "any", ""]);
    also("destination", &["192.0.2.0/24", "10.9.8.7/9", "any"]);
    row + "}"
}

fn rows(random: &mut Random) -> Vec<String> {
    let names = ["max", "min", "min-dns", "größe", "a b\t\"c\"", "'; drop table x; --", "🙂"];
    let mut dates = BTreeSet::new();
    let mut rows = Vec::new();
    for _ in 0..random.below(60) {
        let name = names[random.below(names.len())];
        let date = match random.below(4) {
            0 => format!("{:04}-0{}-11", 1 + random.below(9999), 1 + random.below(9)),
            1 => format!("2024-05-01T12:00:00.{:06}Z", random.below(1_000_000)),
            2 => format!("2024-10-27 0{}:30:00", random.below(4)),
            _ => format!("2024-03-31T0{}:30:00+02:00", random.below(9)),
        };
        let nanos = floodmark::base::date::parse(&date).expect("a date");
        if dates.insert((name, nanos)) {
            rows.push(row(random, name, &date));
        }
    }
    rows
}

#[test]
fn exported_rows_equal_the_imported_ones() {
    let seed = 20_240_501;
    println!("seed {seed}");
    let mut random = Random(seed);
    let bench = Bench::with_table();
    for turn in 0..12 {
        let rows = rows(&mut random);
        let text = match turn % 2 {
            0 => format!("[{}]", rows.join(",")),
            _ => rows.join("\n"),
        };
        bench.place.write("in.json", text);
        let output = bench.run("import in.json URI --replace").stdout(0);
        println!("turn {turn}: {}", output.trim_end());
        bench.run("export URI out.json").stdout(0);
        for pair in ["in.json out.json", "URI out.json", "in.json URI"] {
            for per in ["pair", "total"] {
                let diff = bench.run(&format!("diff {pair} --exit-code --limits-per {per}")).run();
                let diff = diff.expect(0);
                assert_eq!((diff.stdout.as_str(), diff.stderr.as_str()), ("no difference\n", ""));
            }
        }
        let again = bench.run("import out.json URI").stdout(0);
        assert!(again.contains(&format!("0 added, 0 changed, {} unchanged", rows.len())));
        assert_eq!(bench.export(), bench.place.read("out.json"));
    }
}

#[test]
fn import_writes_all_rows_or_none() {
    let bench = Bench::with_table();
    let good = "{\"limit_name\":\"a\",\"limit_value\":1,\"effective_date\":\"2024-05-01\"}\n";
    bench.place.write("good.json", good);
    bench.run("import good.json URI").stdout(0);
    let before = bench.export();
    for (row, expected) in [
        ("7", "the row is a number"),
        (
            "{\"limit_name\":\"b\",\"limit_value\":1,\"effective_date\":\"2024-05-01T00:00:00.0000001Z\"}",
            "\"b\" of 2024-05-01T00:00:00.0000001Z: effective_date",
        ),
        (
            "{\"limit_name\":\"b\",\"limit_value\":1e2000,\"effective_date\":\"2024-05-01\"}",
            "more than 2000 digits",
        ),
        (
            "{\"limit_name\":\"b\\u0000\",\"limit_value\":1,\"effective_date\":\"2024-05-01\"}",
            "NUL character",
        ),
    ] {
        let new = good.replace("\"a\"", "\"new\"");
        let run = bench.run("import - URI --replace").stdin(format!("{new}{row}\n")).run();
        run.expect(65).assert_stderr(&[expected, "nothing is written"]);
        assert_eq!(bench.export(), before);
    }
    // The server rejects a row in the middle of the import.
    bench
        .database
        .sql("alter table traffic_limits add constraint small check (limit_value < 10000)");
    let rows: String = (0..10_001)
        .map(|n| good.replace("\"a\"", &format!("\"n{n}\"")).replace(":1,", &format!(":{n},")))
        .collect();
    bench.place.write("many.json", &rows);
    let run = bench.run("import many.json URI --replace").run().expect(78);
    run.assert_stderr(&["adding rows", "\"small\""]);
    assert_eq!(bench.export(), before);
    bench.database.sql("alter table traffic_limits drop constraint small");
    let output = bench.run("import many.json URI --replace").stdout(0);
    assert_eq!(
        output,
        "10001 rows: 10001 added, 0 changed, 0 unchanged; 1 row deleted from the table\n"
    );
    bench.place.write("changed.json", rows.replace(":1,", ":2,"));
    let output = bench.run("import changed.json URI").stdout(0);
    assert_eq!(output, "10001 rows: 0 added, 1 changed, 10000 unchanged\n");
    bench.run("import many.json many.json").run().expect(64).assert_stderr(&["works on a table"]);
}
