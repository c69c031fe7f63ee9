//! Updates of pairs folded for the rollups in use, before they are exchanged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use crate::combine::{route, route_address};
use crate::gauge::Rollup;
use crate::prefix_index::{PrefixIndex, Ranked};
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

/// A rollup in use, as its window numbers it.
#[derive(Clone, Copy, PartialEq)]
struct Slot {
    number: u32,
    per: Per,
}

impl Ranked for Slot {}

/// The rollups in use in one window, and what is to be sent to each.
#[derive(Default)]
pub(crate) struct Folds {
    /// By the prefixes that a pair must be in.
    index: PrefixIndex<Slot>,
    slots: HashMap<Rollup, Slot, RandomState>,
    rollups: HashMap<u32, Rollup, RandomState>,
    begun: u32,
    sums: HashMap<u32, RollupSums, RandomState>,
}

impl Folds {
    /// A rollup comes into use.
    pub(crate) fn begin(&mut self, rollup: Rollup) {
        let slot = Slot { number: self.begun, per: rollup.per };
        self.begun += 1;
        self.slots.insert(rollup, slot);
        self.rollups.insert(slot.number, rollup);
        self.index.insert(rollup.source, rollup.destination, slot);
    }

    /// A rollup is not used any more.
    pub(crate) fn end(&mut self, rollup: &Rollup) {
        if let Some(slot) = self.slots.remove(rollup) {
            self.rollups.remove(&slot.number);
            self.index.remove(rollup.source, rollup.destination, |held| *held == slot);
        }
    }

    /// Whether no rollup is in use.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Folds an update of a pair. Returns the number of sums it went into.
    #[inline]
    pub(crate) fn add(&mut self, pair: Pair, volume: Volume) -> usize {
        let mut matches = 0;
        self.index.containing(pair, |slot| {
            matches += 1;
            self.sums.entry(slot.number).or_default().add(slot.per, pair, volume);
        });
        matches
    }

    /// What was folded, as parcels for the workers that own the entities.
    pub(crate) fn take(&mut self, window: Window, peers: usize, parcels: &mut Vec<RollupParcel>) {
        for (number, sums) in self.sums.drain() {
            parcels.extend(sums.send(window, self.rollups[&number], peers));
        }
    }
}
