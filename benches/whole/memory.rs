//! Memory of the whole program by live total, and whether it grows with the length of a replay.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::Bench;
use crate::common::child::{self, Cost, Sample};
use crate::workload;

/// A workload of which no window retires.
struct Shape {
    name: &'static str,
    packets: &'static str,
    pairs: &'static str,
    ipv6: &'static str,
}

const SHAPES: [Shape; 4] = [
    Shape { name: "IPv4, about 1 M totals", packets: "4M", pairs: "1M", ipv6: "0" },
    Shape { name: "IPv6, about 1 M totals", packets: "4M", pairs: "1M", ipv6: "1" },
    Shape { name: "IPv4, about 4 M totals", packets: "16M", pairs: "3M", ipv6: "0" },
    Shape { name: "IPv6, about 4 M totals", packets: "16M", pairs: "3M", ipv6: "1" },
];

pub(crate) fn measure(bench: &Bench) {
    println!(
        "{:<40} {:>10} {:>8} {:>12}",
        "memory of the whole program", "totals", "peak MB", "bytes/total"
    );
    for shape in &SHAPES[..if bench.quick { 2 } else { 4 }] {
        let totals = totals(bench, shape);
        let mut generator = generate(bench, shape.packets, shape.pairs, "60m", shape.ipv6);
        let cost = child::run(&mut replay(bench, "-", &mut generator, &[]));
        end(generator);
        println!(
            "{:<40} {totals:>10} {:>8.0} {:>12.0}",
            shape.name,
            cost.peak_mb,
            cost.peak_mb * 1e6 / totals as f64
        );
    }
    println!();
    println!(
        "{:<40} {:>6} {:>6} {:>6} {:>6} {:>8} {:>7} {:>8}",
        "memory, --lateness 1m --retention 15m",
        "1/4 MB",
        "2/4",
        "3/4",
        "end",
        "peak MB",
        "CPU s",
        "wall s"
    );
    let (packets, longer) = if bench.quick { (1, [1, 10]) } else { (10, [1, 10]) };
    for times in longer {
        let count = format!("{}M", packets * times);
        let pairs = format!("{}k", packets * 100);
        let span = format!("{}m", 60 * times);
        let mut generator = generate(bench, &count, &pairs, &span, "0.25");
        let options = ["--lateness", "1m", "--retention", "15m"];
        let mut command = replay(bench, "-", &mut generator, &options);
        let (Cost { wall, cpu, peak_mb }, samples) = child::run_watched(&mut command);
        end(generator);
        let [a, b, c, d] = quarters(&samples);
        println!(
            "{:<40} {a:>6.0} {b:>6.0} {c:>6.0} {d:>6.0} {peak_mb:>8.0} {cpu:>7.2} {wall:>8.2}",
            format!("{} minutes, {count} packets of {pairs} pairs", 60 * times)
        );
    }
}

/// Starts to generate a workload into a pipe.
fn generate(bench: &Bench, packets: &str, pairs: &str, span: &str, ipv6: &str) -> Child {
    Command::new(&bench.floodmark)
        .args(["generate", "--packets", packets, "--pairs", pairs, "--span", span])
        .args(["--ipv6", ipv6, "-"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting floodmark generate")
}

fn replay(bench: &Bench, file: &str, generator: &mut Child, options: &[&str]) -> Command {
    let mut command = Command::new(&bench.floodmark);
    command
        .args(["replay", file, "--limits"])
        .arg(workload::one_limit(bench))
        .args(options)
        .stdin(generator.stdout.take().expect("it is piped"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn end(mut generator: Child) {
    assert!(generator.wait().expect("its end").success(), "floodmark generate failed");
}

/// Returns the number of totals, by the rows of `--totals`.
fn totals(bench: &Bench, shape: &Shape) -> u64 {
    let mut generator = generate(bench, shape.packets, shape.pairs, "60m", shape.ipv6);
    let options = ["--totals", "-", "--changes", "/dev/null"];
    let mut replay = replay(bench, "-", &mut generator, &options)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting floodmark replay");
    let mut rows = BufReader::with_capacity(1 << 16, replay.stdout.take().expect("it is piped"));
    let mut lines = 0;
    loop {
        let bytes = rows.fill_buf().expect("the rows of totals");
        if bytes.is_empty() {
            break;
        }
        lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        let read = bytes.len();
        rows.consume(read);
    }
    assert!(replay.wait().expect("its end").success(), "floodmark replay failed");
    end(generator);
    // The first line is the header.
    lines.saturating_sub(1)
}

/// Returns the memory after each quarter of the input.
fn quarters(samples: &[Sample]) -> [f64; 4] {
    let all = samples.last().expect("a sample").read;
    [1, 2, 3, 4].map(|quarter| {
        let there = samples.iter().find(|sample| sample.read >= all / 4 * quarter);
        there.map_or(0.0, |sample| sample.resident_mb)
    })
}
