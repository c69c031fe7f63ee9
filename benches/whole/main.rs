//! What does the whole program cost, from a capture file to violations, and what do others take for the
//! same sums?
//!
//! Processes are run several times, those of one table in turn, so that whatever else the machine does
//! falls on all of them. Of each figure the median counts; how far the CPU seconds of the runs lie apart
//! is beside it. Sections:
//!
//! - `replay`: the standard workload at three ticks, with one worker and with two. A second worker
//!   should make it 1.6 times as fast. One worker has a thread beside it that reads, so it uses up to two
//!   cores: it is shown on one core alone, too.
//! - `limits`: the same packets held to 10,000 limits of disjoint pairs of networks, which are found by an
//!   index: at most a third more CPU than with one.
//! - `memory`: what a live total takes, and whether a replay that is ten times as long takes more.
//! - `limits-by-windows`: thousands of limits, windows far apart, many violations, many workers; beside
//!   another build of floodmark if `--baseline` names one.
//! - `peers`: DuckDB and Polars sum the same records from Parquet, with two threads, and join the sums
//!   with the limits. They say what holds at the end and nothing before.
//!
//! `scripts/bench` calls `cargo bench --bench whole -- [--quick] --packets N --floodmark PROGRAM --decode
//! PROGRAM --work DIRECTORY [--python PROGRAM] [--baseline PROGRAM] [--brokers HOST:PORT] SECTION...`.

// The tables are the result.
#![allow(clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;
mod limits;
mod memory;
mod peers;
mod replay;
mod runs;
mod windows;
mod windows_live;
mod workload;

use std::path::{Path, PathBuf};
use std::process::Command;

/// What is measured, and with what.
pub(crate) struct Bench {
    pub(crate) floodmark: PathBuf,
    /// The bench that only reads.
    pub(crate) decode: PathBuf,
    /// A Python that has the peers.
    pub(crate) python: Option<PathBuf>,
    /// Another build of floodmark, to be run beside.
    pub(crate) baseline: Option<PathBuf>,
    /// A broker, for rows about topics.
    pub(crate) brokers: Option<String>,
    /// The directory for files, of about 2.5 GB.
    pub(crate) work: PathBuf,
    /// Of the standard workload.
    pub(crate) packets: u64,
    pub(crate) runs: usize,
    pub(crate) quick: bool,
}

impl Bench {
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// `floodmark` with these words, and a path after the first.
    pub(crate) fn on_file(&self, words: &str, file: &Path) -> Command {
        let mut words = words.split_whitespace();
        let mut command = Command::new(&self.floodmark);
        command.args(words.next()).arg(file).args(words);
        command
    }
}

fn main() {
    let mut bench = Bench {
        floodmark: PathBuf::new(),
        decode: PathBuf::new(),
        python: None,
        baseline: None,
        brokers: None,
        work: PathBuf::new(),
        packets: 10_000_000,
        runs: 5,
        quick: false,
    };
    let mut sections = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match &*argument {
            // Cargo says so.
            "--bench" => {}
            "--quick" => (bench.quick, bench.runs) = (true, 3),
            "--packets" => bench.packets = value().parse().expect("a number of packets"),
            "--floodmark" => bench.floodmark = value().into(),
            "--decode" => bench.decode = value().into(),
            "--python" => bench.python = Some(value().into()),
            "--baseline" => bench.baseline = Some(value().into()),
            "--brokers" => bench.brokers = Some(value()),
            "--work" => bench.work = value().into(),
            _ => sections.push(argument),
        }
    }
    for (at, section) in sections.iter().enumerate() {
        if at > 0 {
            println!();
        }
        match &**section {
            "replay" => replay::measure(&bench),
            "limits" => limits::measure(&bench),
            "memory" => memory::measure(&bench),
            "limits-by-windows" => windows::measure(&bench),
            "peers" => peers::measure(&bench),
            _ => panic!("no section \"{section}\""),
        }
    }
}
