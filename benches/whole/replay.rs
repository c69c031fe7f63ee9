//! The standard workload, from a capture file to violations.

use std::ffi::OsStr;
use std::process::Command;

use crate::Bench;
use crate::common::table;
use crate::runs::{Row, in_turn};
use crate::workload;

pub(crate) fn measure(bench: &Bench) {
    let (load, size_mb) = workload::capture(bench);
    let limits = workload::one_limit(bench);
    let replay = |words: &str| {
        let mut command = bench.on_file(&format!("replay {words}"), &load);
        command.arg("--limits").arg(&limits);
        command
    };

    let decode = {
        let (program, load) = (bench.decode.clone(), load.clone());
        move || {
            let mut command = Command::new(&program);
            command.arg("--quiet").arg(&load);
            command
        }
    };
    let mut rows = vec![Row::new("read and decoded only", decode)];
    for workers in [1, 2] {
        for tick in ["1s", "10s", "5m"] {
            let words = format!("--tick {tick} -w {workers}");
            rows.push(Row::new(&format!("replay {words}"), repeated(replay(&words))));
        }
    }
    let has_taskset = Command::new("taskset").arg("--version").output().is_ok();
    let pinned = has_taskset.then(|| {
        [("0", "-w 1"), ("0,1", "-w 2")].map(|(cores, words)| {
            let command = on_cores(cores, &replay(words));
            let name = format!("replay --tick 1s {words}, on core {cores} only");
            rows.push(Row::new(&name, command));
            rows.len() - 1
        })
    });
    let totals = replay(&format!("--totals {}", bench.place("totals.csv").display()));
    rows.push(Row::new("replay --tick 1s -w 1 --totals", repeated(totals)));

    in_turn(bench, &mut rows);
    let title = format!("{} M packets, {size_mb} MB, one limit", bench.packets as f64 / 1e6);
    println!("{}", table::head(&title));
    for row in &rows {
        println!("{}", row.line(bench.packets));
    }
    let wall = |at: usize| rows[at].median().wall;
    println!(
        "two workers, wall: {:.2} times as fast as one (which has a thread beside it that reads)",
        wall(1) / wall(4)
    );
    match pinned {
        Some([one, two]) => println!("on as many cores: {:.2} times", wall(one) / wall(two)),
        None => println!("on as many cores: not available, there is no taskset"),
    }
}

/// Returns a function that builds the same command each time.
pub(crate) fn repeated(command: Command) -> impl Fn() -> Command {
    let all = words(&command);
    move || {
        let mut again = Command::new(&all[0]);
        again.args(&all[1..]);
        again
    }
}

/// Like [`repeated`], pinned to these cores.
fn on_cores(cores: &str, command: &Command) -> impl Fn() -> Command + use<> {
    let mut taskset = Command::new("taskset");
    taskset.args(["-c", cores]).args(words(command));
    repeated(taskset)
}

fn words(command: &Command) -> Vec<std::ffi::OsString> {
    std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_owned).collect()
}
