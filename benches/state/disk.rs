//! The state on disk.

use std::fs;
use std::io::{BufWriter, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::live::{Children, Load, wait_until};
use crate::common::table::{median, spread};
use crate::common::{free_address, scrape};
use crate::{Bench, Checkpoint, PACKETS_PER_TOTAL, count};

/// Measures the state on disk, for each total of IPv4.
///
/// The addresses of generated traffic are those of few networks. Random ones, which hardly share a byte, are the worst
/// case.
pub(crate) fn measure(bench: &Bench<'_>, runs: usize, totals: u64) {
    println!(
        "{:<44} {:>9} {:>14} {:>8}  wanted",
        "state on disk, IPv4, one window", "B/total", "least-most", "totals"
    );
    row(bench, runs, totals, "generated traffic", &|flows, seed| {
        let packets = totals * PACKETS_PER_TOTAL;
        let load = Load {
            packets,
            pairs: &packets.to_string(),
            seconds: 60,
            from_now: -60,
            speed: "max",
            seed,
            format: "packed",
            ipv6: 0.0,
        };
        load.send_all(bench.floodmark, flows);
    });
    row(bench, runs, totals, "random addresses", &|flows, seed| {
        send_random_pairs(bench, flows, seed, totals);
    });
}

/// Prints the row of the traffic that `send` sends, of another seed for each run.
fn row(bench: &Bench<'_>, runs: usize, totals: u64, name: &str, send: &dyn Fn(&str, u64)) {
    let saved: Vec<Checkpoint> =
        (1..=runs as u64).map(|seed| saved(bench, totals, &|flows| send(flows, seed))).collect();
    let each = |saved: &Checkpoint| saved.bytes / saved.totals;
    println!(
        "{name:<44} {:>9.1} {:>14} {:>8}  at most 20",
        median(saved.iter().map(each)),
        spread(saved.iter().map(each)),
        count(median(saved.iter().map(|saved| saved.totals))),
    );
}

/// Runs over what `send` sends until all is saved, and returns the checkpoint.
fn saved(bench: &Bench<'_>, totals: u64, send: &dyn Fn(&str)) -> Checkpoint {
    let flows = bench.flows();
    send(&flows);
    let (mut command, state) = bench.run(&flows, Some(Duration::from_secs(1)));
    let http = free_address();
    command.args(["--window", "1d", "--http", &http, "--log-level", "error"]);
    let run = Children(vec![command.spawn().expect("starting floodmark run")]);
    wait_until("the totals to be saved", || {
        scrape(&http, "floodmark_kafka_lag_messages") == Some(0.0)
            && scrape(&http, "floodmark_state_totals").is_some_and(|n| n >= totals as f64)
    });
    drop(run);
    let saved = bench.newest(&state);
    let _ = fs::remove_dir_all(&state);
    saved
}

/// Sends a record for each of so many pairs of random addresses.
fn send_random_pairs(bench: &Bench<'_>, flows: &str, seed: u64, pairs: u64) {
    let mut convert = Command::new(bench.floodmark)
        .args(["convert", "--from", "-", "--to", flows, "--log-level", "error"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("starting floodmark convert");
    let mut lines = BufWriter::new(convert.stdin.take().expect("it is piped"));
    let time = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
    for pair in 0..pairs {
        let [addresses, bytes] = [0, 1].map(|turn| splitmix(splitmix(seed) ^ (2 * pair + turn)));
        let (source, destination) =
            (Ipv4Addr::from_bits(addresses as u32), Ipv4Addr::from_bits((addresses >> 32) as u32));
        let bytes = 64 + bytes % 1_000_000;
        writeln!(
            lines,
            r#"{{"time":{time},"source":"{source}","destination":"{destination}","bytes":{bytes}}}"#
        )
        .expect("floodmark convert reads");
    }
    drop(lines);
    assert!(convert.wait().expect("its end").success(), "the records were not sent");
}

/// Returns the random number of a seed, by SplitMix64.
fn splitmix(seed: u64) -> u64 {
    let mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
