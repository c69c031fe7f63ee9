//! Other programs that make the sums which floodmark makes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Bench;
use crate::common::child::Cost;
use crate::common::table;
use crate::replay::repeated;
use crate::runs::{ReportedCost, Row, in_turn};
use crate::workload;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/peers");

pub(crate) fn measure(bench: &Bench) {
    println!(
        "{} {:>10}",
        table::head("sums of each window and pair, held to limits"),
        "violations"
    );
    let (one, many) = (workload::one_limit(bench), workload::many_limits(bench));
    let plain = (workload::capture(bench).0, "load.parquet", one, "one limit");
    let spread = (workload::spread(bench).0, "spread.parquet", many, "10 000 limits");
    for (capture, parquet, limits, which) in [plain, spread] {
        let mut rows = Vec::new();
        for words in ["--tick 1s -w 1", "--tick 5m -w 1", "--tick 5m -w 2"] {
            let mut command = bench.on_file(&format!("replay {words}"), &capture);
            command.arg("--limits").arg(&limits);
            rows.push(Row::new(&format!("floodmark {words}, {which}"), repeated(command)));
        }
        if let Some(python) = &bench.python {
            let parquet = to_parquet(bench, python, &capture, parquet);
            for (peer, name) in [("duckdb_sums.py", "DuckDB"), ("polars_sums.py", "Polars")] {
                let mut command = Command::new(python);
                command.arg(format!("{SCRIPTS}/{peer}")).arg(&parquet).arg(&limits);
                let row = Row::new(&format!("{name}, 2 threads, {which}"), repeated(command));
                rows.push(row.with_reported_cost(query_only));
            }
        }
        in_turn(bench, &mut rows);
        let ours = rows[0].violations;
        for row in &rows {
            let differs = if row.violations == ours { "" } else { "  DIFFER" };
            println!("{} {:>10}{differs}", row.line(bench.packets), row.violations);
        }
        if bench.python.is_none() {
            println!("DuckDB, Polars: not available");
        }
    }
}

/// Converts the records of a capture to Parquet, once.
fn to_parquet(bench: &Bench, python: &Path, capture: &Path, name: &str) -> PathBuf {
    let parquet = bench.place(name);
    if parquet.exists() {
        return parquet;
    }
    let messages = bench.place("messages");
    let mut records = Command::new(&bench.floodmark)
        .args(["convert", "--from"])
        .arg(capture)
        .stdout(Stdio::piped())
        .stderr(File::create(&messages).expect("a file for messages"))
        .spawn()
        .expect("starting floodmark convert");
    let status = Command::new(python)
        .arg(format!("{SCRIPTS}/to_parquet.py"))
        .arg(&parquet)
        .stdin(records.stdout.take().expect("it is piped"))
        .status();
    assert!(status.expect("starting Python").success(), "to_parquet.py failed");
    assert!(records.wait().expect("its end").success(), "floodmark convert failed");
    parquet
}

/// Returns the cost that a peer prints for its query, without loading its library; the memory is that of the process.
fn query_only(output: &str, whole: Cost) -> ReportedCost {
    let words: Vec<&str> = output.split_whitespace().collect();
    let [violations, cpu, wall] = words[..] else { panic!("a peer printed {output:?}") };
    ReportedCost {
        cost: Cost {
            cpu: cpu.parse().expect("CPU seconds"),
            wall: wall.parse().expect("seconds"),
            ..whole
        },
        violations: violations.parse().expect("a number of violations"),
    }
}
