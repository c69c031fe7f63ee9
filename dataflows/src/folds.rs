//! Updates of pairs folded for the rollups in use, before they are exchanged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use crate::combine::{route, route_address};
use crate::gauge::Rollup;
use crate::prefix_index::{PrefixIndex, Ranked};
use crate::ranges::WindowRange;
use crate::time::Window;
use crate::types::{Pair, Per, Volume};

/// Updates of one rollup in one window, for one worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RollupParcel {
    pub(crate) to: u64,
    pub(crate) window: Window,
    pub(crate) rollup: Rollup,
    pub(crate) sums: Vec<(IpAddr, Volume)>,
}

/// Which worker owns the totals of a window. It is one for all rollups, since a limit may go from one
/// to another, and what becomes of its violation is told where both are seen.
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
    fn add(&mut self, per: Per, pair: Pair, volume: Volume) {
        let (source, destination) = (pair.source(), pair.destination());
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

    /// The sums as parcels for the workers that own the entities.
    fn send(
        self,
        window: Window,
        rollup: Rollup,
        peers: usize,
    ) -> impl Iterator<Item = RollupParcel> {
        let mut parcels: Vec<RollupParcel> = (0..peers as u64)
            .map(|to| RollupParcel { to, window, rollup, sums: Vec::new() })
            .collect();
        let v4 = self.v4.into_iter().map(|(address, volume)| (IpAddr::V4(address), volume));
        let v6 = self.v6.into_iter().map(|(address, volume)| (IpAddr::V6(address), volume));
        for (address, volume) in v4.chain(v6).chain(self.full) {
            let to = match rollup.per {
                Per::Total => owner(window, peers),
                _ => route_address(address, peers),
            };
            parcels[to as usize].sums.push((address, volume));
        }
        parcels.into_iter().filter(|parcel| !parcel.sums.is_empty())
    }
}

/// A rollup in use, in a range of windows.
#[derive(Clone, Copy)]
struct Slot {
    number: u64,
    per: Per,
    windows: WindowRange,
}

impl Ranked for Slot {}

/// The rollups that a pair is folded for, in which windows.
#[derive(Default)]
pub(crate) struct FoldIndex {
    /// By the prefixes that a pair must be in.
    index: PrefixIndex<Slot>,
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
            let is_it = |slot: &Slot| slot.number == number;
            while self.index.remove(source, destination, is_it).is_some() {}
        }
        if windows.is_empty() {
            return;
        }
        let number = self.numbered;
        self.numbered += 1;
        self.numbers.insert(rollup, number);
        self.rollups.insert(number, rollup);
        for &windows in windows {
            self.index.insert(source, destination, Slot { number, per, windows });
        }
    }
}

/// Updates of the pairs of one window folded for rollups.
#[derive(Default)]
pub(crate) struct Folds {
    sums: HashMap<u64, RollupSums, RandomState>,
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
                self.sums.entry(slot.number).or_default().add(slot.per, pair, volume);
            }
        });
        matches
    }

    /// What was folded, as parcels for the workers that own the entities.
    pub(crate) fn take(
        &mut self,
        index: &FoldIndex,
        window: Window,
        peers: usize,
        parcels: &mut Vec<RollupParcel>,
    ) {
        for (number, sums) in self.sums.drain() {
            parcels.extend(sums.send(window, index.rollups[&number], peers));
        }
    }
}
