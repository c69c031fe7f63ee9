//! Random records, and their sums.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::{Pair, Volume};

use super::rng::Rng;

/// Few addresses, in nested networks, so that they meet.
pub(crate) const V4: [Ipv4Addr; 6] = [
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv4Addr::new(10, 0, 0, 2),
    Ipv4Addr::new(10, 0, 0, 129),
    Ipv4Addr::new(10, 0, 1, 1),
    Ipv4Addr::new(10, 1, 0, 1),
    Ipv4Addr::new(192, 168, 0, 1),
];

/// The addresses of the other family. `::ffff:10.0.0.1` is not `10.0.0.1`.
pub(crate) const V6: [Ipv6Addr; 6] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdc0, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x0a00, 1),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
];

/// The traffic counted so far.
#[derive(Default)]
pub(crate) struct Traffic {
    /// The sums of records that came in time.
    sums: BTreeMap<Window, BTreeMap<Pair, Volume>>,
    /// Only this many of the addresses of each family occur.
    addresses: usize,
    /// The percentage of pairs that are IPv4.
    v4: u64,
    /// The percentage of records that are corrections.
    corrections: u64,
    /// Whether sums go beyond 64 bits. Nothing is corrected then.
    heavy: bool,
    /// Whether totals begin large and grow by little.
    grows: bool,
}

impl Traffic {
    /// None yet, of a random kind.
    pub(crate) fn new(rng: &mut Rng, grows: bool) -> Self {
        let heavy = !grows && rng.percent(15);
        Traffic {
            sums: BTreeMap::new(),
            addresses: if grows { 1 } else { rng.pick(&[1, 2, 3, 6, 6]) },
            v4: rng.pick(&[0, 50, 70, 100]),
            corrections: match (heavy, grows) {
                (true, _) => 0,
                (_, true) => rng.pick(&[0, 0, 5]),
                _ => rng.pick(&[0, 5, 15, 35]),
            },
            heavy,
            grows,
        }
    }

    /// A record of a window.
    pub(crate) fn record(&mut self, rng: &mut Rng, window: Window) -> (Window, Pair, Volume) {
        if rng.percent(self.corrections)
            && let Some(correction) = self.correction(rng, window)
        {
            return correction;
        }
        let bytes = match rng.below(8) {
            0 => 0,
            _ if self.grows && self.sums.contains_key(&window) => rng.between(1, 40),
            _ if self.grows => rng.between(500, 3000),
            1..4 => 1 << rng.below(8),
            4 => 1 << rng.pick(&[16, 32, 40]),
            _ => rng.between(1, 60),
        };
        let mut volume = Volume::new(bytes as i64, rng.pick(&[1, 1, 1, 2, 4]));
        if self.heavy && rng.percent(30) {
            let part = [1 << 61, 1 << 62, i64::MAX - 70, i64::MAX - 1, i64::MAX];
            match rng.below(4) {
                0 => volume.packets = rng.pick(&part),
                _ => volume.bytes = rng.pick(&part),
            }
        }
        (window, self.pair(rng), volume)
    }

    /// Returns a correction of all or a part of a sum, of this window if it has one.
    fn correction(&self, rng: &mut Rng, window: Window) -> Option<(Window, Pair, Volume)> {
        let sums = || self.sums.iter().filter(|(_, table)| !table.is_empty());
        let count = sums().count() as u64;
        if count == 0 {
            return None;
        }
        let other = rng.below(count) as usize;
        let (window, table) = sums().find(|(w, _)| **w == window).or(sums().nth(other))?;
        let (pair, sum) = table.iter().nth(rng.below(table.len() as u64) as usize)?;
        let volume = match rng.below(8) {
            // To zero, so that the entry leaves.
            0..4 => Volume::new(-sum.bytes, -sum.packets),
            // Packets to zero and bytes not, and the other way round.
            4 => Volume::new(0, -sum.packets),
            5 => Volume::new(-sum.bytes, 0),
            // To less than nothing.
            6 => Volume::new(-sum.bytes - 5, -1),
            _ => Volume::new(-(sum.bytes / 2), -(sum.packets / 2)),
        };
        Some((*window, *pair, volume))
    }

    fn pair(&self, rng: &mut Rng) -> Pair {
        let mut one = || rng.below(self.addresses as u64) as usize;
        let (source, destination) = (one(), one());
        match rng.percent(self.v4) {
            true => Pair::V4(V4[source], V4[destination]),
            false => Pair::V6(V6[source], V6[destination]),
        }
    }

    /// Adds a record that came in time.
    pub(crate) fn count(&mut self, (window, pair, volume): (Window, Pair, Volume)) {
        let table = self.sums.entry(window).or_default();
        let sum = table.entry(pair).or_default();
        *sum = sum.saturating_add(volume);
        if *sum == Volume::default() {
            table.remove(&pair);
        }
    }

    /// Amounts at which a limit may be set: of pairs, sources, destinations and all together.
    pub(crate) fn amounts(&self) -> Vec<i64> {
        let mut amounts = Vec::new();
        for table in self.sums.values().rev().take(5) {
            let mut rollups: BTreeMap<_, Volume> = BTreeMap::new();
            for (pair, volume) in table {
                let keys = [
                    (Some(pair.source()), Some(pair.destination())),
                    (Some(pair.source()), None),
                    (None, Some(pair.destination())),
                    (None, None),
                ];
                for key in keys {
                    let sum = rollups.entry(key).or_default();
                    *sum = sum.saturating_add(*volume);
                }
            }
            amounts.extend(rollups.values().flat_map(|v| [v.bytes, v.packets]));
        }
        amounts
    }
}
