//! The cost of the whole program, from a capture file to violations, and that of other programs for the same sums.
//!
//! The bench runs each process several times, those of one table in turn, so that other load of the machine
//! affects all of them. It prints the median of each figure, and the range of the CPU seconds. Sections:
//!
//! - `replay`: the standard workload at three ticks, with one worker and with two. A second worker
//!   should make it 1.6 times as fast. One worker has a thread beside it that reads, so it uses up to two
//!   cores: it is shown on one core alone, too.
//! - `limits`: the same packets under 10,000 limits of disjoint pairs of networks, which an index looks up: at
//!   most a third more CPU than with one.
//! - `memory`: memory of a live total, and whether a replay that is ten times as long takes more.
//! - `limits-by-windows`: thousands of limits, windows far apart, many violations, many workers; beside
//!   another build of floodmark if `--baseline` names one.
//! - `peers`: DuckDB and Polars sum the same records from Parquet, with two threads, and join the sums
//!   with the limits. They return the final violations only.
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

/// The programs, files and settings of the bench.
pub(crate) struct Bench {
    pub(crate) floodmark: PathBuf,
    /// The bench that only reads.
    pub(crate) decode: PathBuf,
    /// A Python with DuckDB and Polars.
    pub(crate) python: Option<PathBuf>,
    /// Another build of floodmark to compare with.
    pub(crate) baseline: Option<PathBuf>,
    /// A broker, for rows about topics.
    pub(crate) brokers: Option<String>,
    /// The directory for files, of about 2.5 GB.
    pub(crate) work: PathBuf,
    /// The number of packets of the standard workload.
    pub(crate) packets: u64,
    pub(crate) runs: usize,
    pub(crate) quick: bool,
}

impl Bench {
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// Returns the command `floodmark` with these words, and a path after the first.
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
            // Cargo passes this argument.
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
