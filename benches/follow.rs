//! Latency from an edit of limits, in a database and in a file, to the alerts.
//!
//! `common/edits.rs` has the load and the edits. The median should be under 20 ms, and the worst of 200 under 150 ms.
//!
//! `scripts/bench follow` calls `cargo bench --bench follow -- FLOODMARK BROKER DATABASE CHANGES`.

// The table is the result.
#![allow(clippy::print_stdout)]

mod common;

use common::edits::{Edited, LimitsFile, Run, Table};

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [floodmark, broker, database, changes] = &arguments[..] else {
        panic!("give the program, a broker, a database, and a number of changes")
    };
    let changes: usize = changes.parse().expect("a number of changes");
    let place = tempfile::tempdir().expect("a directory");
    let table = Table::new(floodmark, database);
    let file = LimitsFile(place.path().join("limits.json"));
    let file_name = file.0.display().to_string();
    println!("limit to alert, ms, of {changes} changes     median      99 %     worst");
    let of_table = Run { floodmark, broker, limits: database, name: "table", state: None };
    print("SQL COMMIT", &of_table.measure(changes, &|broken| table.write(broken)));
    file.write(false);
    let of_file = Run { floodmark, broker, limits: &file_name, name: "file", state: None };
    print("file renamed", &of_file.measure(changes, &|broken| file.write(broken)));
}

fn print(what: &str, edited: &Edited) {
    let Edited { latencies: [median, most, worst], records_per_second, totals, cores, .. } = edited;
    println!("{what:<36} {median:>9.2} {most:>9.2} {worst:>9.2}");
    println!(
        "    meanwhile {records_per_second:.0} records/s, {totals:.0} totals held, {:.0} % of a core",
        100.0 * cores,
    );
}
