//! Updates of pairs folded for the rollups in use, before they are exchanged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;
use hashbrown::{HashMap, hash_map};
use serde::{Deserialize, Serialize};

use crate::combine::{BATCH_UPDATES, route, route_address};
use crate::monitored::Rollup;
use crate::pending::{EMIT_COST, Fuel};
use crate::prefix_index::{PrefixIndex, RankedValue};
use crate::time::{Time, Timed, Window, WindowRange};
use crate::types::{Pair, Per, Volume};

/// Upper bound on the sums that a worker folds for one window before it sends them, beside those of one batch.
pub(crate) const SUMS_MAX: usize = 1 << 16;

/// Updates of one rollup in one window, for one worker: at most [`BATCH_UPDATES`], so that no operator works
/// long on one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RollupBatch {
    pub(crate) to: u64,
    pub(crate) window: Window,
    pub(crate) rollup: Rollup,
    pub(crate) sums: Vec<(IpAddr, Volume)>,
}

/// The batches that take the sums of a window to the workers that own the entities.
pub(crate) struct Outgoing<'a> {
    pub(crate) time: Time,
    pub(crate) window: Window,
    pub(crate) peers: usize,
    pub(crate) batches: &'a mut Vec<Timed<RollupBatch>>,
}

/// Returns the worker that owns the totals of a window. All rollups have the same owner: a limit may move from one
/// rollup to another, and the worker that publishes the changes of its violation must see both.
pub(crate) fn owner(window: Window, peers: usize) -> u64 {
    route(window.0.into(), peers)
}

/// The address under which a total travels.
pub(crate) const TOTAL: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Updates of pairs folded for one rollup.
#[derive(Default)]
struct RollupSums {
    v4: HashMap<Ipv4Addr, Volume, RandomState>,
    v6: HashMap<Ipv6Addr, Volume, RandomState>,
    /// Sums that the next update would have taken beyond 64 bits. A part is never clamped: only the
    /// worker that owns the entity sees the whole.
    full: Vec<(IpAddr, Volume)>,
}

impl RollupSums {
    /// Adds an update of a pair. Returns the number of sums that are new.
    fn add(&mut self, per: Per, pair: Pair, volume: Volume) -> usize {
        let (source, destination) = (pair.source(), pair.destination());
        let before = self.len();
        match per {
            Per::Total => self.add_to(TOTAL.into(), volume),
            Per::Source => self.add_to(source, volume),
            Per::Destination => self.add_to(destination, volume),
            Per::Host => {
                self.add_to(source, volume);
                if source != destination {
                    self.add_to(destination, volume);
                }
            }
            Per::Pair => unreachable!("pairs are not rolled up"),
        }
        self.len() - before
    }

    fn len(&self) -> usize {
        self.v4.len() + self.v6.len() + self.full.len()
    }

    fn add_to(&mut self, address: IpAddr, volume: Volume) {
        let sum = match address {
            IpAddr::V4(address) => self.v4.entry(address).or_default(),
            IpAddr::V6(address) => self.v6.entry(address).or_default(),
        };
        match sum.checked_add(volume) {
            Some(whole) => *sum = whole,
            None => self.full.push((address, std::mem::replace(sum, volume))),
        }
    }
}

/// The sums of one rollup on their way to the workers that own the entities.
struct RollupDrain {
    rollup: Rollup,
    v4: hash_map::IntoIter<Ipv4Addr, Volume>,
    v6: hash_map::IntoIter<Ipv6Addr, Volume>,
    full: std::vec::IntoIter<(IpAddr, Volume)>,
}

impl RollupDrain {
    fn new(rollup: Rollup, sums: RollupSums) -> Self {
        let RollupSums { v4, v6, full } = sums;
        RollupDrain { rollup, v4: v4.into_iter(), v6: v6.into_iter(), full: full.into_iter() }
    }

    /// Sends the next [`BATCH_UPDATES`] sums. Returns their number.
    fn send(&mut self, outgoing: &mut Outgoing<'_>) -> usize {
        let Outgoing { time, window, peers, .. } = *outgoing;
        let rollup = self.rollup;
        let new = |to| RollupBatch { to, window, rollup, sums: Vec::new() };
        let mut shares: Vec<RollupBatch> = (0..peers as u64).map(new).collect();
        let mut sent = 0;
        for (address, volume) in self.by_ref().take(BATCH_UPDATES) {
            let to = match rollup.per {
                Per::Total => owner(window, peers),
                _ => route_address(address, peers),
            };
            shares[to as usize].sums.push((address, volume));
            sent += 1;
        }
        let batches = shares.into_iter().filter(|batch| !batch.sums.is_empty());
        outgoing.batches.extend(batches.map(|batch| (batch, time)));
        sent
    }
}

impl Iterator for RollupDrain {
    type Item = (IpAddr, Volume);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let v4 = self.v4.next().map(|(address, volume)| (IpAddr::V4(address), volume));
        let v6 = || self.v6.next().map(|(address, volume)| (IpAddr::V6(address), volume));
        v4.or_else(v6).or_else(|| self.full.next())
    }
}

/// A rollup in use, in a range of windows.
#[derive(Clone, Copy)]
struct FoldedRollup {
    number: u64,
    per: Per,
    windows: WindowRange,
}

impl RankedValue for FoldedRollup {}

/// The rollups that a pair is folded for, in which windows.
#[derive(Default)]
pub(crate) struct FoldIndex {
    /// By the prefixes that a pair must be in.
    index: PrefixIndex<FoldedRollup>,
    numbers: HashMap<Rollup, u64, RandomState>,
    rollups: HashMap<u64, Rollup, RandomState>,
    numbered: u64,
}

impl FoldIndex {
    /// Whether no rollup is in use.
    pub(crate) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Sets the windows in which a rollup is in use, as ranges that do not touch.
    pub(crate) fn set(&mut self, rollup: Rollup, windows: &[WindowRange]) {
        let Rollup { per, source, destination } = rollup;
        if let Some(number) = self.numbers.remove(&rollup) {
            self.rollups.remove(&number);
            let is_match = |slot: &FoldedRollup| slot.number == number;
            while self.index.remove(source, destination, is_match).is_some() {}
        }
        if windows.is_empty() {
            return;
        }
        let number = self.numbered;
        self.numbered += 1;
        self.numbers.insert(rollup, number);
        self.rollups.insert(number, rollup);
        for &windows in windows {
            self.index.insert(source, destination, FoldedRollup { number, per, windows });
        }
    }
}

/// Updates of the pairs of one window folded for rollups.
#[derive(Default)]
pub(crate) struct Folds {
    sums: HashMap<u64, RollupSums, RandomState>,
    /// The number of sums that were folded and are not being sent.
    folded: usize,
    /// Sums that are being sent: those of one rollup, and those of others.
    draining: Option<RollupDrain>,
    next: hash_map::IntoIter<u64, RollupSums>,
}

impl Folds {
    /// Folds an update of a pair. Returns the number of sums it went into.
    #[inline]
    pub(crate) fn add(
        &mut self,
        index: &FoldIndex,
        window: Window,
        pair: Pair,
        volume: Volume,
    ) -> usize {
        let mut matches = 0;
        index.index.containing(pair, |slot| {
            if slot.windows.contains(window) {
                matches += 1;
                let sums = self.sums.entry(slot.number).or_default();
                self.folded += sums.add(slot.per, pair, volume);
            }
        });
        matches
    }

    /// Whether so many sums are folded that they must be sent before more updates are folded.
    pub(crate) fn is_full(&self) -> bool {
        self.folded >= SUMS_MAX
    }

    /// Whether sums are being sent.
    pub(crate) fn is_sending(&self) -> bool {
        self.draining.is_some() || self.next.len() > 0
    }

    /// Whether nothing is left to be sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.folded == 0 && !self.is_sending()
    }

    /// Sends what was folded to the workers that own the entities, in batches of bounded size, until all is
    /// sent, and then is `true`, or until the fuel is spent. Nothing may be folded in between.
    pub(crate) fn send(
        &mut self,
        index: &FoldIndex,
        mut outgoing: Outgoing<'_>,
        fuel: &mut Fuel,
    ) -> bool {
        while !self.is_sent() {
            if fuel.is_spent() {
                return false;
            }
            let Some(draining) = &mut self.draining else {
                if self.next.len() == 0 {
                    self.next = std::mem::take(&mut self.sums).into_iter();
                    self.folded = 0;
                }
                let next = self.next.next();
                self.draining =
                    next.map(|(number, sums)| RollupDrain::new(index.rollups[&number], sums));
                continue;
            };
            let sent = draining.send(&mut outgoing);
            fuel.spend(EMIT_COST * (1 + sent));
            if sent < BATCH_UPDATES {
                self.draining = None;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::types::Scope;

    fn pair(number: u32) -> Pair {
        match number.is_multiple_of(3) {
            true => Pair::V6(
                Ipv6Addr::from_bits((number / 2).into()),
                Ipv6Addr::from_bits((number % 7).into()),
            ),
            false => Pair::V4(Ipv4Addr::from_bits(number / 2), Ipv4Addr::from_bits(number % 7)),
        }
    }

    /// Each step sends about as much as its fuel, and no batch is larger than another operator may have
    /// to work on at once.
    #[test]
    fn sums_of_a_tick_are_sent_in_batches_of_bounded_size() {
        const PAIRS: u32 = 100_000;
        for peers in [1, 3] {
            let (mut folds, mut index) = (Folds::default(), FoldIndex::default());
            let pers = [Per::Source, Per::Destination, Per::Host, Per::Total];
            for per in pers {
                let scope = Scope { per, ..Scope::default() };
                index.set(Rollup::of(&scope).expect("not pairs"), &[WindowRange::ALL]);
            }
            let mut expected = BTreeMap::<(Per, IpAddr), i64>::new();
            for number in 0..PAIRS {
                let pair = pair(number);
                assert_eq!(
                    folds.add(&index, Window(0), pair, Volume::new(number.into(), 1)),
                    pers.len()
                );
                let mut add = |per, address| {
                    *expected.entry((per, address)).or_default() += i64::from(number);
                };
                let (source, destination) = (pair.source(), pair.destination());
                add(Per::Source, source);
                add(Per::Destination, destination);
                add(Per::Total, TOTAL.into());
                add(Per::Host, source);
                if source != destination {
                    add(Per::Host, destination);
                }
            }
            assert!(folds.is_full());
            let (mut sent, mut steps) = (BTreeMap::new(), 0);
            loop {
                let mut batches = Vec::new();
                let mut fuel = Fuel::new(10 * EMIT_COST * BATCH_UPDATES / 4);
                let outgoing = Outgoing {
                    time: Time::start(7),
                    window: Window(0),
                    peers,
                    batches: &mut batches,
                };
                let done = folds.send(&index, outgoing, &mut fuel);
                let sums: usize = batches.iter().map(|(batch, _)| batch.sums.len()).sum();
                assert!(sums <= 4 * BATCH_UPDATES, "{sums} sums in one step");
                for (RollupBatch { to, window, rollup, sums }, time) in batches {
                    assert_eq!(time, Time::start(7));
                    assert!((1..=BATCH_UPDATES).contains(&sums.len()), "{}", sums.len());
                    for (address, volume) in sums {
                        let owned = match rollup.per {
                            Per::Total => owner(window, peers),
                            _ => route_address(address, peers),
                        };
                        assert_eq!(to, owned);
                        assert_eq!(sent.insert((rollup.per, address), volume.bytes), None);
                    }
                }
                steps += 1;
                if done {
                    break;
                }
            }
            assert!(steps > 4 && folds.is_sent() && !folds.is_full(), "{steps} steps");
            assert_eq!(sent, expected);
        }
    }
}
