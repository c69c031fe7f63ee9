//! Small numbers for IPv6 addresses, so that tables and index are keyed by 8 bytes.
//!
//! A key names a pair or an address within one worker and never leaves it. IPv4 addresses are their
//! own numbers. An IPv6 address has a number while a table entry uses it, and until everything
//! downstream has seen the retraction that freed it: a number handed out too early would turn a late
//! retraction into one of another address.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::key::{Family, Key};
use crate::table::EntryChange;
use crate::time::Time;
use crate::types::{Entity, Pair, Per};

struct AddressSlot {
    address: u128,
    users: u32,
    /// The time since which no table uses the number.
    idle_since: Option<Time>,
}

/// The IPv6 addresses of one worker.
#[derive(Default)]
pub struct Addresses {
    numbers: HashMap<u128, u32, RandomState>,
    slots: Vec<AddressSlot>,
    free: Vec<u32>,
    idle: VecDeque<(Time, u32)>,
}

impl Addresses {
    /// The number of addresses that have a number.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether no address has a number.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    fn number(&mut self, address: u128) -> u32 {
        *self.numbers.entry(address).or_insert_with(|| {
            let slot = AddressSlot { address, users: 0, idle_since: None };
            if let Some(number) = self.free.pop() {
                self.slots[number as usize] = slot;
                number
            } else {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 IPv6 addresses held")
            }
        })
    }

    fn address(&self, number: u32) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.slots[number as usize].address)
    }

    /// The key of a pair. For IPv6 it is good until the next [`Addresses::reclaim`] unless used.
    pub fn pair_key(&mut self, pair: Pair) -> Key {
        match pair {
            Pair::V4(source, destination) => Key {
                family: Family::V4,
                id: u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits()),
            },
            Pair::V6(source, destination) => {
                let source = self.number(source.to_bits());
                let destination = self.number(destination.to_bits());
                Key { family: Family::V6, id: u64::from(source) << 32 | u64::from(destination) }
            }
        }
    }

    /// The key of an address.
    pub fn address_key(&mut self, address: IpAddr) -> Key {
        match address {
            IpAddr::V4(address) => Key { family: Family::V4, id: address.to_bits().into() },
            IpAddr::V6(address) => {
                Key { family: Family::V6, id: self.number(address.to_bits()).into() }
            }
        }
    }

    /// The key of a pair that a table may hold; `None`: no table does. No address gets a number by this.
    pub fn known_pair_key(&self, pair: Pair) -> Option<Key> {
        let halves =
            |source: u32, destination: u32| u64::from(source) << 32 | u64::from(destination);
        Some(match pair {
            Pair::V4(source, destination) => {
                Key { family: Family::V4, id: halves(source.to_bits(), destination.to_bits()) }
            }
            Pair::V6(source, destination) => {
                let number = |address: Ipv6Addr| self.numbers.get(&address.to_bits()).copied();
                Key { family: Family::V6, id: halves(number(source)?, number(destination)?) }
            }
        })
    }

    /// The key of an address that a table may hold; `None`: no table does. The address gets no number by this.
    pub fn known_address_key(&self, address: IpAddr) -> Option<Key> {
        Some(match address {
            IpAddr::V4(address) => Key { family: Family::V4, id: address.to_bits().into() },
            IpAddr::V6(address) => {
                let number = *self.numbers.get(&address.to_bits())?;
                Key { family: Family::V6, id: number.into() }
            }
        })
    }

    /// The pair behind a key of a pair table.
    pub fn pair(&self, key: Key) -> Pair {
        let (source, destination) = key.halves();
        match key.family {
            Family::V4 => Pair::V4(Ipv4Addr::from_bits(source), Ipv4Addr::from_bits(destination)),
            Family::V6 => Pair::V6(self.address(source), self.address(destination)),
        }
    }

    /// The address behind a key of an address table.
    pub fn ip(&self, key: Key) -> IpAddr {
        let (_, number) = key.halves();
        match key.family {
            Family::V4 => Ipv4Addr::from_bits(number).into(),
            Family::V6 => self.address(number).into(),
        }
    }

    /// The entity behind a key of a table of `per`.
    pub fn entity(&self, per: Per, key: Key) -> Entity {
        match per {
            Per::Pair => Entity::Pair(self.pair(key)),
            Per::Source => Entity::Source(self.ip(key)),
            Per::Destination => Entity::Destination(self.ip(key)),
            Per::Host => Entity::Host(self.ip(key)),
            Per::Total => Entity::Total,
        }
    }

    fn numbers(per: Per, key: Key) -> impl Iterator<Item = u32> {
        let (upper, lower) = key.halves();
        let used = match (key.family, per) {
            (Family::V4, _) | (_, Per::Total) => [None, None],
            (Family::V6, Per::Pair) => [Some(upper), Some(lower)],
            (Family::V6, _) => [Some(lower), None],
        };
        used.into_iter().flatten()
    }

    /// Counts a new entry under `key` in a table of `per`: its addresses keep their numbers.
    pub fn hold(&mut self, per: Per, key: Key) {
        for number in Self::numbers(per, key) {
            let slot = &mut self.slots[number as usize];
            slot.users += 1;
            slot.idle_since = None;
        }
    }

    /// Counts out an entry under `key` that a table of `per` has removed at `time`.
    pub fn release(&mut self, per: Per, key: Key, time: Time) {
        for number in Self::numbers(per, key) {
            let slot = &mut self.slots[number as usize];
            slot.users -= 1;
            if slot.users == 0 {
                slot.idle_since = Some(time);
                self.idle.push_back((time, number));
            }
        }
    }

    /// Holds or releases addresses by the effect of an update on the entry under `key` in a table of `per`.
    pub(crate) fn follow(&mut self, per: Per, key: Key, entry: EntryChange, time: Time) {
        match entry {
            EntryChange::Added => self.hold(per, key),
            EntryChange::Removed => self.release(per, key, time),
            EntryChange::Kept => {}
            // The key was made for an update of nothing.
            EntryChange::Absent => {
                self.hold(per, key);
                self.release(per, key, time);
            }
        }
    }

    /// Frees the numbers that no table has used since a time for which `done` returns that it is past downstream.
    pub fn reclaim(&mut self, done: impl Fn(&Time) -> bool) {
        while let Some((time, number)) = self.idle.front().copied().filter(|(time, _)| done(time)) {
            self.idle.pop_front();
            let slot = &self.slots[number as usize];
            // A number used again in between is idle since a later time, or not at all.
            if slot.idle_since == Some(time) {
                self.numbers.remove(&slot.address);
                self.slots[number as usize].idle_since = None;
                self.free.push(number);
            }
        }
        // The slots of a past peak would stay allocated, though no address may ever need them again.
        if self.numbers.is_empty() && self.idle.is_empty() && !self.slots.is_empty() {
            *self = Addresses::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(n: u128) -> Pair {
        Pair::V6(Ipv6Addr::from_bits(n), Ipv6Addr::from_bits(n + 1))
    }

    #[test]
    fn number_is_reused_only_after_its_release_is_done_downstream() {
        let mut addresses = Addresses::default();
        let first = addresses.pair_key(pair(10));
        addresses.hold(Per::Pair, first);
        addresses.release(Per::Pair, first, Time::start(5));
        addresses.reclaim(|time| *time < Time::start(5));
        assert_eq!(addresses.pair(first), pair(10), "still readable before tick 5 is done");
        addresses.reclaim(|time| *time <= Time::start(5));
        assert!(addresses.is_empty());
        let second = addresses.pair_key(pair(20));
        assert_eq!(addresses.pair(second), pair(20));
        assert_eq!(addresses.slots.len(), 2, "both numbers were used again");
    }

    #[test]
    fn address_that_returns_while_idle_keeps_its_number() {
        let mut addresses = Addresses::default();
        let key = addresses.pair_key(pair(1));
        addresses.hold(Per::Pair, key);
        addresses.release(Per::Pair, key, Time::start(1));
        assert_eq!(addresses.pair_key(pair(1)), key);
        addresses.hold(Per::Pair, key);
        addresses.release(Per::Pair, key, Time::start(3));
        addresses.reclaim(|time| *time < Time::start(3));
        assert_eq!(addresses.pair(key), pair(1));
        addresses.reclaim(|_| true);
        assert!(addresses.is_empty());
    }
}
