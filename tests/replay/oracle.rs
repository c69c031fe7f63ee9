//! Compares violations and totals of the program with those of plain loops over the packets of random captures.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::fold::{assert_same, fold, text};
use super::pcap::{Packet, pcap};
use super::run::Place;
use super::traffic::{self, Random, date, json_lines};

/// An address prefix, or any address.
struct Network(Option<(IpAddr, u32)>);

fn bits(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(four) => (true, u128::from(u32::from(four)) << 96),
        IpAddr::V6(six) => (false, u128::from(six)),
    }
}

impl Network {
    fn of(text: Option<&str>) -> Self {
        Network(text.map(|text| {
            let (address, length) = text.split_once('/').unwrap_or((text, "128"));
            (address.parse().expect("an address"), length.parse().expect("a length"))
        }))
    }

    fn contains(&self, address: IpAddr) -> bool {
        let Some((network, length)) = self.0 else {
            return true;
        };
        let ((family, network), (of, address)) = (bits(network), bits(address));
        let differ = (network ^ address).checked_shr(128 - length).unwrap_or(0);
        family == of && (length == 0 || differ == 0)
    }
}

/// The expected results under the options that decide about them.
pub(super) struct Oracle {
    pub(super) window_ms: u64,
    pub(super) max_gap_ms: u64,
    pub(super) sources: Vec<&'static str>,
    pub(super) destinations: Vec<&'static str>,
}

impl Oracle {
    fn counts(&self, packet: &Packet) -> bool {
        let one = |networks: &[&str], address| {
            networks.is_empty()
                || networks.iter().any(|net| Network::of(Some(net)).contains(address))
        };
        one(&self.sources, packet.source) && one(&self.destinations, packet.destination)
    }

    fn start(&self, packet: &Packet) -> u64 {
        packet.ms - packet.ms % self.window_ms
    }

    /// Returns the CSV of totals.
    pub(super) fn totals(&self, packets: &[Packet]) -> String {
        let mut rows: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for packet in packets.iter().filter(|packet| self.counts(packet)) {
            let (source, destination) = (packet.source.to_string(), packet.destination.to_string());
            let row = rows.entry((self.start(packet), source, destination)).or_default();
            row.0 += u64::from(packet.bytes);
            row.1 += 1;
        }
        let lines = rows.iter().map(|((start, source, destination), (bytes, packets))| {
            format!("{},{source},{destination},{bytes},{packets}\n", date(*start))
        });
        let header = "window_start,source,destination,bytes,packets\n".to_owned();
        std::iter::once(header).chain(lines).collect()
    }

    /// Returns the windows that exist: those with packets, and silent ones in gaps up to `max_gap_ms`.
    fn windows(&self, packets: &[Packet]) -> BTreeSet<u64> {
        let seen: BTreeSet<u64> = packets.iter().map(|packet| self.start(packet)).collect();
        let mut all = seen.clone();
        for (from, to) in seen.iter().zip(seen.iter().skip(1)) {
            if to - from <= self.max_gap_ms {
                all.extend((*from..*to).step_by(self.window_ms as usize));
            }
        }
        all
    }

    /// Returns the violations that stand at the end, a line each.
    pub(super) fn violations(&self, packets: &[Packet], rows: &[Value]) -> BTreeSet<String> {
        let names: BTreeSet<&str> =
            rows.iter().map(|row| row["limit_name"].as_str().expect("a name")).collect();
        let mut lines = BTreeSet::new();
        for start in self.windows(packets) {
            let inside: Vec<&Packet> = packets
                .iter()
                .filter(|packet| self.start(packet) == start && self.counts(packet))
                .collect();
            let end = date(start + self.window_ms);
            for name in &names {
                let versions = rows.iter().filter(|row| row["limit_name"] == **name);
                let in_force = versions
                    .filter(|row| before(row, &end))
                    .max_by_key(|row| instant(row["effective_date"].as_str().expect("a date")));
                if let Some(row) = in_force.filter(|row| !row["limit_value"].is_null()) {
                    judge(row, start, &inside, &mut lines);
                }
            }
        }
        lines
    }
}

fn instant(text: &str) -> jiff::Timestamp {
    text.parse().expect("a moment")
}

fn before(row: &Value, end: &str) -> bool {
    instant(row["effective_date"].as_str().expect("a date")) < instant(end)
}

/// Returns the entities that a packet counts for.
fn entities(row: &Value, packet: &Packet) -> Vec<Value> {
    let network = |column: &str| Network::of(row.get(column).and_then(Value::as_str));
    let (source, destination) = (packet.source, packet.destination);
    if !network("source").contains(source) || !network("destination").contains(destination) {
        return Vec::new();
    }
    match row["per"].as_str().expect("a per") {
        "pair" => vec![json!({"source": source, "destination": destination})],
        "source" => vec![json!({"source": source})],
        "destination" => vec![json!({"destination": destination})],
        "total" => vec![json!({})],
        "host" => {
            let hosts: BTreeSet<IpAddr> = [source, destination].into();
            let judged = hosts.into_iter().filter(|host| network("host").contains(*host));
            judged.map(|host| json!({"host": host})).collect()
        }
        other => panic!("per {other}"),
    }
}

fn judge(row: &Value, start: u64, inside: &[&Packet], lines: &mut BTreeSet<String>) {
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let (is_min, bytes) = (row["bound"] == "min", row["metric"] == "bytes");
    if is_min && row["per"] == "total" {
        sums.insert(json!({}).to_string(), (0, 0));
    }
    for packet in inside {
        for entity in entities(row, packet) {
            let sum = sums.entry(entity.to_string()).or_default();
            sum.0 += u64::from(packet.bytes);
            sum.1 += 1;
        }
    }
    let number = number(&row["limit_value"]);
    for (entity, sum) in sums {
        let amount = if bytes { sum.0 } else { sum.1 };
        if (is_min && (amount as f64) < number) || (!is_min && amount as f64 > number) {
            let name = row["limit_name"].as_str().expect("a name");
            lines.insert(line(name, number, &date(start), &entity, [sum.0, sum.1, amount]));
        }
    }
}

/// Parses a value. All values and sums of these tests are exact as `f64`.
fn number(value: &Value) -> f64 {
    let text = value.to_string();
    text.trim_matches('"').parse().unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn line(name: &str, value: f64, start: &str, entity: &str, sums: [u64; 3]) -> String {
    format!("{start} {name} {value} {entity} {sums:?}")
}

/// Returns the folded output in the format of [`Oracle::violations`].
pub(super) fn violation_lines(stdout: &str) -> BTreeSet<String> {
    let lines = fold(stdout).into_values().map(|violation| {
        assert_eq!(violation["settled"], true, "not settled at the end: {violation:?}");
        let sums = ["bytes", "packets", "amount"]
            .map(|field| violation[field].as_u64().expect("an amount from 0 up"));
        line(
            text(&violation, "limit_name"),
            number(&violation["limit_value"]),
            text(&violation, "window_start"),
            &violation["entity"].to_string(),
            sums,
        )
    });
    lines.collect()
}

/// Returns the packets of a capture that are no strays.
fn without_strays(packets: &[Packet], max_ahead_ms: u64) -> Vec<Packet> {
    let mut without_strays: Vec<Packet> = Vec::new();
    let mut times: Vec<u64> = Vec::new();
    for (at, packet) in packets.iter().enumerate() {
        times.sort_unstable();
        let clock = times.iter().nth_back(1).or(times.last());
        let jumps = clock.is_none_or(|clock| packet.ms > clock + max_ahead_ms);
        let next = packets.get(at + 1);
        if jumps && next.is_some_and(|next| packet.ms > next.ms + max_ahead_ms) {
            continue;
        }
        without_strays.push(*packet);
        times.push(packet.ms);
    }
    without_strays
}

fn check(seed: u64) -> usize {
    let random = &mut Random::new(seed);
    let window_s = random.pick(&[10, 60, 300]);
    let span_ms = random.pick(&[3, 8, 20]) * window_s * 1000;
    let count = random.pick(&[1, 30, 200, 600]);
    let packets = traffic::packets(random, count, span_ms);
    let rows = traffic::limits(random, 8, span_ms);
    let mut options = String::new();
    let mut networks = |option: &str, of: &[&'static str]| {
        for network in of {
            options += &format!(" {option} {network}");
        }
        of.to_vec()
    };
    let choices: [&[&'static str]; 6] =
        [&[], &[], &[], &[], &["10.0.0.0/24", "2001:db8::/48"], &["0.0.0.0/0"]];
    let oracle = Oracle {
        window_ms: window_s * 1000,
        max_gap_ms: random.pick(&[1, 3, 100]) * window_s * 1000,
        sources: networks("--source", random.pick(&choices)),
        destinations: networks("--destination", random.pick(&choices)),
    };
    let tick = random.pick(&["250ms", "1s", "7s", "10s", "1m", "5m"]);
    let workers = random.pick(&["-w1", "-w1", "-w2", "-w4", "-n2", "-n2 -w2"]);
    let updates = random.pick(&["settled", "limit", "tick"]);
    let gap = oracle.max_gap_ms / 1000;
    let max_ahead = random.pick(&[None, None, Some("500ms"), Some("1h")]);
    let max_ahead_ms = match max_ahead {
        None => oracle.max_gap_ms,
        Some("500ms") => 500,
        Some(_) => 3_600_000,
    };
    options.extend(max_ahead.map(|max_ahead| format!(" --max-ahead {max_ahead}")));

    let place = Place::new();
    place.write("traffic.pcap", pcap(&packets));
    place.write("limits.jsonl", json_lines(&rows));
    let done = place
        .floodmark(&format!(
            "replay traffic.pcap --limits limits.jsonl --window {window_s}s --max-gap {gap}s \
             --tick {tick} --updates {updates} --totals totals.csv {workers} {options}"
        ))
        .run()
        .expect(0);
    let (all, packets) = (packets.len(), without_strays(&packets, max_ahead_ms));
    let shown = |what: &str| format!("seed {seed}: {what}\n$ {}", done.command_line());
    let lines =
        |set: BTreeSet<String>| -> String { set.iter().map(|l| format!("{l}\n")).collect() };
    let expected = lines(oracle.violations(&packets, &rows));
    assert_same(&lines(violation_lines(&done.stdout)), &expected, || {
        shown("violations of the program, and of loops")
    });
    let totals = place.read("totals.csv");
    assert_same(&totals, &oracle.totals(&packets), || shown("totals of both"));
    all - packets.len()
}

#[test]
fn random_captures_are_judged_like_plain_loops() {
    let strays: usize = (1..=48).map(check).sum();
    assert!(strays > 100, "{strays} strays");
}
