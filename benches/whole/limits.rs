//! Ten thousand limits compared with one.

use crate::Bench;
use crate::common::table;
use crate::replay::repeated;
use crate::runs::{Row, in_turn};
use crate::workload;

pub(crate) fn measure(bench: &Bench) {
    let (load, _) = workload::spread(bench);
    let files = [workload::one_limit(bench), workload::many_limits(bench)];
    let mut rows = Vec::new();
    for workers in [1, 2] {
        for tick in ["1s", "10s", "5m"] {
            for (limits, many) in files.iter().zip(["one limit", "10 000 limits"]) {
                let words = format!("--tick {tick} -w {workers}");
                let mut command = bench.on_file(&format!("replay {words}"), &load);
                command.arg("--limits").arg(limits);
                rows.push(Row::new(&format!("replay {words}, {many}"), repeated(command)));
            }
        }
    }
    in_turn(bench, &mut rows);
    println!(
        "{} {:>10} {:>8}",
        table::head("10 000 disjoint /24 pairs, all traffic in one"),
        "violations",
        "CPU more"
    );
    for pair in rows.chunks(2) {
        let [one, many] = pair else { continue };
        println!("{} {:>10}", one.line(bench.packets), one.violations);
        println!(
            "{} {:>10} {:>6.0} %",
            many.line(bench.packets),
            many.violations,
            100.0 * (many.median().cpu / one.median().cpu - 1.0)
        );
    }
}
