//! Random traffic and random limits from a seed, the same on every platform.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::pcap::Packet;
use crate::common;

/// Pseudo-random numbers from a seed.
pub(crate) struct Random(common::Random);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(common::Random(seed))
    }

    /// Returns a number below `n`, which must not be 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0.below(n as usize) as u64
    }

    /// Returns true with a probability of `chance` percent.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// Returns one of the values.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// The start of random traffic: 2024-05-01T12:00:00Z, a multiple of every window used.
pub(crate) const BEGIN_MS: u64 = 1_714_564_800_000;

/// Formats a time as in limits.
pub(crate) fn date(ms: u64) -> String {
    let stamp = jiff::Timestamp::from_millisecond(i64::try_from(ms).expect("a time of our age"));
    stamp.expect("a time of our age").to_string()
}

/// Returns an address of a small set: IPv4, IPv6, or IPv4 mapped into IPv6, which is an address of its own.
fn address(random: &mut Random, six: bool) -> IpAddr {
    let last = random.below(7) as u8;
    let net = random.below(2) as u8;
    if !six {
        return Ipv4Addr::new(10, 0, net, last).into();
    }
    match random.below(4) {
        0 => Ipv4Addr::new(10, 0, net, last).to_ipv6_mapped().into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, net.into(), 0, 0, 0, 0, last.into()).into(),
    }
}

/// Returns `count` packets over `span_ms`: mostly in order of time, with silences in between.
pub(crate) fn packets(random: &mut Random, count: usize, span_ms: u64) -> Vec<Packet> {
    let step = 2 * span_ms / count as u64 + 1;
    let mut ms = BEGIN_MS + random.below(span_ms / 4 + 1);
    let mut packets = Vec::new();
    for _ in 0..count {
        ms += match random.below(100) {
            0 => span_ms / 3,
            _ => random.below(step),
        };
        let back = match random.below(20) {
            0 => random.below(span_ms / 2 + 1),
            1..5 => random.below(step * 4),
            _ => 0,
        };
        let six = random.percent(40);
        let least = if six { 40 } else { 20 };
        let most = if random.percent(10) { 60_000 } else { 1400 };
        let bytes = least + random.below(most) as u32;
        packets.push(Packet {
            ms: ms.saturating_sub(back).max(BEGIN_MS),
            source: address(random, six),
            destination: address(random, six),
            bytes,
        });
    }
    packets
}

const NETWORKS: [&str; 8] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/24",
    "10.0.1.3",
    "10.0.0.0/30",
    "2001:db8::/48",
    "2001:db8:1::4/126",
    "::ffff:10.0.0.0/120",
];

/// Returns rows of limits; names may have several versions, dated before, during and after the traffic.
pub(crate) fn limits(random: &mut Random, names: usize, span_ms: u64) -> Vec<Value> {
    let mut rows = Vec::new();
    for name in 0..names {
        for version in 0..random.pick(&[1, 1, 2, 3, 4]) {
            let per = random.pick(&["pair", "source", "destination", "host", "total"]);
            let bound = random.pick(&["max", "max", "min"]);
            let metric = random.pick(&["bytes", "packets"]);
            let scale = if metric == "bytes" { 4000 } else { 6 };
            let scale = if per == "total" { scale * 8 } else { scale };
            let value = match random.below(12) {
                0 => json!(null),
                1 => json!(0),
                2 => json!("2.5"),
                3 => json!("1e30"),
                _ => json!(random.below(scale)),
            };
            // Versions of a name differ in their milliseconds, so that no two share a date.
            let effective = BEGIN_MS - span_ms / 4 + random.below(2 * span_ms) / 16 * 16 + version;
            let mut row = json!({
                "limit_name": format!("limit {name}"),
                "limit_value": value,
                "effective_date": date(effective),
                "bound": bound,
                "metric": metric,
                "per": per,
            });
            // All networks of a row are of one family, since every pair is.
            let family = random.percent(50);
            let networks: Vec<&str> =
                NETWORKS.into_iter().filter(|network| network.contains(':') == family).collect();
            let columns: &[&str] = match per {
                "host" => &["source", "destination", "host"],
                _ => &["source", "destination"],
            };
            for column in columns {
                if random.percent(30) {
                    row[column] = json!(random.pick(&networks));
                }
            }
            rows.push(row);
        }
    }
    rows
}

/// Returns rows as a file of limits, one a line.
pub(crate) fn json_lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}
