//! The input files of the bench.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufWriter;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use floodmark::capture::Packet;
use floodmark::generate::{Workload, write_pcap};
use floodmark_dataflows::types::Pair;

use crate::Bench;

/// The number of networks of sources, and that of destinations.
const NETWORKS: u32 = 100;

/// The standard workload: a pair for ten packets, a quarter IPv6, in 60 minutes, as
/// `floodmark generate --packets 10M --pairs 1M` writes it.
fn standard(bench: &Bench) -> Workload {
    Workload {
        packets: bench.packets,
        pairs: (bench.packets / 10).max(1) as u32,
        start_micros: 1_767_225_600_000_000,
        span_micros: 3_600_000_000,
        seed: 1,
        ipv6: 0.25,
    }
}

/// Returns the capture of the standard workload, and its size in MB.
pub(crate) fn capture(bench: &Bench) -> (PathBuf, u64) {
    write(bench, "load.pcap", |packet| packet)
}

/// Returns the standard workload with the IPv4 addresses of each side spread over networks of 256 addresses, and its
/// size in MB.
pub(crate) fn spread(bench: &Bench) -> (PathBuf, u64) {
    write(bench, "spread.pcap", |packet| {
        let Pair::V4(source, destination) = packet.pair else { return packet };
        Packet { pair: Pair::V4(spread_over(source), spread_over(destination)), ..packet }
    })
}

fn write(bench: &Bench, name: &str, map: fn(Packet) -> Packet) -> (PathBuf, u64) {
    let packets = || standard(bench).packets().expect("the standard workload exists").map(map);
    let path = write_once(bench, name, packets);
    let bytes = fs::metadata(&path).expect("it was written").len();
    (path, bytes / 1_000_000)
}

/// Writes a capture of these packets, unless the file exists, and returns its path.
pub(crate) fn write_once<I: Iterator<Item = Packet>>(
    bench: &Bench,
    name: &str,
    packets: impl FnOnce() -> I,
) -> PathBuf {
    let path = bench.place(name);
    if !path.exists() {
        let file = BufWriter::new(File::create(&path).expect("a file for the workload"));
        write_pcap(packets(), file).expect("disk space for the workload");
    }
    path
}

/// Moves an address into one of the networks. Host numbers of the workload have at most 14 bits; the remainder by the
/// number of networks selects the network.
fn spread_over(address: Ipv4Addr) -> Ipv4Addr {
    let bits = address.to_bits();
    let (network, host) = (bits & 0xffff_0000, bits & 0xffff);
    (network | ((host % NETWORKS) << 8) | (host / NETWORKS)).into()
}

/// Writes one limit per pair.
pub(crate) fn one_limit(bench: &Bench) -> PathBuf {
    let path = bench.place("one.json");
    let row =
        "{\"limit_name\": \"max\", \"limit_value\": 1000000, \"effective_date\": \"2000-01-01\"}";
    fs::write(&path, row).expect("writing limits");
    path
}

/// Writes the same limit for each pair of networks of [`spread`], and for IPv6: 10,001 disjoint scopes, one of which
/// contains each pair.
pub(crate) fn many_limits(bench: &Bench) -> PathBuf {
    let path = bench.place("many.json");
    let mut rows = String::new();
    let mut row = |name: &str, source: &str, destination: &str| {
        writeln!(
            rows,
            "{{\"limit_name\":\"{name}\",\"limit_value\":1000000,\"effective_date\":\"2000-01-01\",\
             \"source\":\"{source}\",\"destination\":\"{destination}\"}}"
        )
        .expect("writing to a string");
    };
    for source in 0..NETWORKS {
        for destination in 0..NETWORKS {
            row(
                &format!("from-{source}-to-{destination}"),
                &format!("10.0.{source}.0/24"),
                &format!("172.16.{destination}.0/24"),
            );
        }
    }
    row("ipv6", "::/0", "::/0");
    fs::write(&path, rows).expect("writing limits");
    path
}
