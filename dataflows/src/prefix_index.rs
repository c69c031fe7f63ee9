//! An index of many (source prefix, destination prefix) that finds those which contain a pair, without testing
//! each.
//!
//! Prefixes are grouped by their two lengths; one hash look-up a group finds those that contain a
//! pair. So the cost follows the number of different lengths in use, which is small, and the number
//! of matches, not the number of prefixes.
//!
//! Each value has a rank, and groups are sorted by their least rank. So a query for values up to a rank skips the
//! groups that have none, and stops at the first greater rank in the others.

use std::collections::BTreeMap;
use std::hash::Hash;

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use indexmap::map::Entry;
use ipnet::IpNet;

use crate::types::{Pair, Prefix};

/// A value of an index.
pub trait RankedValue: Clone {
    /// Its rank, which does not change while the index holds the value.
    fn rank(&self) -> i64 {
        i64::MIN
    }
}

impl RankedValue for u32 {}

/// One or more values by rank. There is seldom more than one, so the rest is on the heap.
struct ValuesByRank<T> {
    first: T,
    // One word if there is only one value, as nearly everywhere.
    #[allow(clippy::box_collection)]
    rest: Option<Box<Vec<T>>>,
}

impl<T: RankedValue> ValuesByRank<T> {
    fn insert(&mut self, mut value: T) {
        if value.rank() < self.first.rank() {
            std::mem::swap(&mut value, &mut self.first);
        }
        let rest = self.rest.get_or_insert_default();
        let at = rest.partition_point(|held| held.rank() < value.rank());
        rest.insert(at, value);
    }

    /// Removes the first value for which `is_match` holds. `Err` if it was the only value.
    fn remove(&mut self, is_match: impl Fn(&T) -> bool) -> Result<Option<T>, ()> {
        let Some(rest) = &mut self.rest else {
            return if is_match(&self.first) { Err(()) } else { Ok(None) };
        };
        let removed = match is_match(&self.first) {
            true => std::mem::replace(&mut self.first, rest.remove(0)),
            false => match rest.iter().position(is_match) {
                Some(at) => rest.remove(at),
                None => return Ok(None),
            },
        };
        if rest.is_empty() {
            self.rest = None;
        }
        Ok(Some(removed))
    }

    /// Visits values up to a rank.
    #[inline]
    fn visit(&self, to: i64, mut found: impl FnMut(&T)) {
        if self.first.rank() <= to {
            found(&self.first);
            let rest = self.rest.iter().flat_map(|rest| rest.iter());
            rest.take_while(|held| held.rank() <= to).for_each(found);
        }
    }
}

/// The prefixes of two lengths.
struct Group<K, T> {
    lengths: (u8, u8),
    // In the list of an `IndexMap`, whose growth takes no space for members to come: a million members take many
    // bytes.
    members: IndexMap<K, ValuesByRank<T>, RandomState>,
    /// The number of values by rank; `least` is the least of these ranks.
    ranks: BTreeMap<i64, usize>,
    least: i64,
}

/// The groups of one address family, by their least rank.
struct Groups<K, T>(Vec<Group<K, T>>);

impl<K: Eq + Hash, T: RankedValue> Groups<K, T> {
    fn insert(&mut self, lengths: (u8, u8), bits: K, value: T) {
        let at = self.0.iter().position(|group| group.lengths == lengths).unwrap_or_else(|| {
            self.0.push(Group {
                lengths,
                members: IndexMap::default(),
                ranks: BTreeMap::new(),
                least: i64::MAX,
            });
            self.0.len() - 1
        });
        let group = &mut self.0[at];
        *group.ranks.entry(value.rank()).or_default() += 1;
        match group.members.entry(bits) {
            Entry::Occupied(mut held) => held.get_mut().insert(value),
            Entry::Vacant(place) => {
                place.insert(ValuesByRank { first: value, rest: None });
            }
        }
        self.order(at);
    }

    fn remove(&mut self, lengths: (u8, u8), bits: &K, is_match: impl Fn(&T) -> bool) -> Option<T> {
        let at = self.0.iter().position(|group| group.lengths == lengths)?;
        let group = &mut self.0[at];
        let held = group.members.get_mut(bits)?;
        let removed = match held.remove(is_match) {
            Ok(removed) => removed?,
            Err(()) => group.members.swap_remove(bits)?.first,
        };
        if let Some(count) = group.ranks.get_mut(&removed.rank()) {
            *count -= 1;
            if *count == 0 {
                group.ranks.remove(&removed.rank());
            }
        }
        self.order(at);
        Some(removed)
    }

    /// Updates the least rank of a group whose members have changed, and the order of the groups; drops an empty
    /// group.
    fn order(&mut self, at: usize) {
        let group = &mut self.0[at];
        let Some((least, _)) = group.ranks.first_key_value() else {
            self.0.remove(at);
            return;
        };
        if group.least != *least {
            group.least = *least;
            self.0.sort_by_key(|group| group.least);
        }
    }

    fn least(&self) -> i64 {
        self.0.first().map_or(i64::MAX, |group| group.least)
    }

    #[inline]
    fn visit(&self, to: i64, key: impl Fn((u8, u8)) -> K, mut found: impl FnMut(&T)) {
        for group in self.0.iter().take_while(|group| group.least <= to) {
            if let Some(held) = group.members.get(&key(group.lengths)) {
                held.visit(to, &mut found);
            }
        }
    }
}

/// Values by the two prefixes that a pair must be in.
///
/// One insertion or removal costs a hash look-up, and sorts the groups if their least ranks change order. A query
/// costs a hash look-up for each two lengths in use, and its results.
pub struct PrefixIndex<T> {
    v4: Groups<u64, T>,
    v6: Groups<(u128, u128), T>,
}

impl<T> Default for PrefixIndex<T> {
    fn default() -> Self {
        PrefixIndex { v4: Groups(Vec::new()), v6: Groups(Vec::new()) }
    }
}

fn masked(bits: u128, length: u8, width: u8) -> u128 {
    match length {
        0 => 0,
        _ => bits >> (width - length),
    }
}

fn masked_pair(source: u128, destination: u128, lengths: (u8, u8), width: u8) -> (u128, u128) {
    (masked(source, lengths.0, width), masked(destination, lengths.1, width))
}

/// Length and leading bits of a prefix as one of a family; `None` if it is of the other.
fn in_family(prefix: Prefix, v4: bool) -> Option<(u8, u128)> {
    match prefix.network() {
        None => Some((0, 0)),
        Some(IpNet::V4(net)) if v4 => {
            Some((net.prefix_len(), masked(net.addr().to_bits().into(), net.prefix_len(), 32)))
        }
        Some(IpNet::V6(net)) if !v4 => {
            Some((net.prefix_len(), masked(net.addr().to_bits(), net.prefix_len(), 128)))
        }
        Some(_) => None,
    }
}

/// Returns, for each address family of which both prefixes admit addresses: whether it is IPv4, the two lengths,
/// and the leading bits.
fn places(
    source: Prefix,
    destination: Prefix,
) -> impl Iterator<Item = (bool, (u8, u8), (u128, u128))> {
    [true, false].into_iter().filter_map(move |v4| {
        let (source_len, source) = in_family(source, v4)?;
        let (destination_len, destination) = in_family(destination, v4)?;
        Some((v4, (source_len, destination_len), (source, destination)))
    })
}

/// The leading bits of two IPv4 prefixes.
fn v4_key((source, destination): (u128, u128)) -> u64 {
    (source as u64) << 32 | destination as u64
}

impl<T: RankedValue> PrefixIndex<T> {
    /// Adds a value for pairs whose source and destination are in these prefixes.
    pub fn insert(&mut self, source: Prefix, destination: Prefix, value: T) {
        for (v4, lengths, bits) in places(source, destination) {
            match v4 {
                true => self.v4.insert(lengths, v4_key(bits), value.clone()),
                false => self.v6.insert(lengths, bits, value.clone()),
            }
        }
    }

    /// Removes the first value of these prefixes for which `is_match` holds, and returns it.
    pub fn remove(
        &mut self,
        source: Prefix,
        destination: Prefix,
        is_match: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let mut removed = None;
        for (v4, lengths, bits) in places(source, destination) {
            let one = match v4 {
                true => self.v4.remove(lengths, &v4_key(bits), &is_match),
                false => self.v6.remove(lengths, &bits, &is_match),
            };
            removed = one.or(removed);
        }
        removed
    }

    /// Returns the least rank of all values; `i64::MAX` if there is no value.
    pub fn least_rank(&self) -> i64 {
        self.v4.least().min(self.v6.least())
    }

    /// Calls `found` with each value whose prefixes contain the pair.
    #[inline]
    pub fn containing(&self, pair: Pair, found: impl FnMut(&T)) {
        self.containing_to(i64::MAX, pair, found);
    }

    /// Calls `found` with each value up to a rank whose prefixes contain the pair.
    #[inline]
    pub fn containing_to(&self, to: i64, pair: Pair, found: impl FnMut(&T)) {
        match pair {
            Pair::V4(source, destination) => {
                let (source, destination) = (source.to_bits().into(), destination.to_bits().into());
                let key = |lengths| v4_key(masked_pair(source, destination, lengths, 32));
                self.v4.visit(to, key, found);
            }
            Pair::V6(source, destination) => {
                let (source, destination) = (source.to_bits(), destination.to_bits());
                let key = |lengths| masked_pair(source, destination, lengths, 128);
                self.v6.visit(to, key, found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        if text == "any" { Prefix::ANY } else { Prefix::new(text.parse().expect("a CIDR")) }
    }

    fn pair(source: &str, destination: &str) -> Pair {
        let parse = |text: &str| text.parse().expect("an address");
        Pair::new(parse(source), parse(destination)).expect("one family")
    }

    #[test]
    fn index_finds_the_values_that_a_test_of_each_prefix_finds() {
        let prefixes = [
            "any",
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.2.0/24",
            "10.1.2.3/32",
            "10.1.2.0/25",
            "::/0",
            "2001:db8::/32",
            "2001:db8::1/128",
            "::ffff:10.1.2.3/128",
        ];
        let mut index = PrefixIndex::default();
        let mut all = Vec::<(Prefix, Prefix)>::new();
        for source in prefixes {
            for destination in prefixes {
                index.insert(prefix(source), prefix(destination), all.len() as u32);
                all.push((prefix(source), prefix(destination)));
            }
        }
        let addresses = [
            "10.1.2.3",
            "10.1.2.200",
            "10.9.9.9",
            "192.0.2.1",
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "2001:db8::1",
            "2001:db8::2",
            "::ffff:10.1.2.3",
            "ffff::",
        ];
        for removed in [None, Some(0), Some(33)] {
            if let Some(value) = removed {
                let (source, destination) = all[value];
                index.remove(source, destination, |held| *held as usize == value);
            }
            for source in addresses {
                for destination in addresses {
                    let addresses = (source.parse().expect("ip"), destination.parse().expect("ip"));
                    if Pair::new(addresses.0, addresses.1).is_none() {
                        continue;
                    }
                    let mut found = Vec::new();
                    index
                        .containing(pair(source, destination), |value| found.push(*value as usize));
                    found.sort();
                    let gone = |value: usize| match removed {
                        Some(33) => value == 0 || value == 33,
                        Some(0) => value == 0,
                        _ => false,
                    };
                    let expected: Vec<usize> = (0..all.len())
                        .filter(|value| !gone(*value))
                        .filter(|value| {
                            all[*value].0.contains(addresses.0)
                                && all[*value].1.contains(addresses.1)
                        })
                        .collect();
                    assert_eq!(found, expected, "{source} to {destination}");
                }
            }
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Numbered(i64, u32);

    impl RankedValue for Numbered {
        fn rank(&self) -> i64 {
            self.0
        }
    }

    #[test]
    fn query_up_to_a_rank_finds_all_values_up_to_it_and_no_others() {
        let scopes = ["any", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "192.0.2.0/24"];
        let asked = pair("10.1.2.3", "10.9.9.9");
        let mut index = PrefixIndex::default();
        let mut held = Vec::new();
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for number in 0..400 {
            if random(3) == 0 && !held.is_empty() {
                let (scope, value) = held.swap_remove(random(held.len() as u64) as usize);
                index.remove(prefix(scope), Prefix::ANY, |at: &Numbered| *at == value);
            } else {
                let scope = scopes[random(5) as usize];
                let value = Numbered(random(6) as i64, number);
                index.insert(prefix(scope), Prefix::ANY, value);
                held.push((scope, value));
            }
            let least = held.iter().map(|(_, value)| value.0).min();
            assert_eq!(index.least_rank(), least.unwrap_or(i64::MAX));
            for to in -1..7 {
                let mut found = Vec::new();
                index.containing_to(to, asked, |value| found.push(*value));
                found.sort();
                let contains = |scope: &str| prefix(scope).contains(asked.source());
                let mut expected: Vec<Numbered> = held
                    .iter()
                    .filter(|(scope, value)| contains(scope) && value.0 <= to)
                    .map(|(_, value)| *value)
                    .collect();
                expected.sort();
                assert_eq!(found, expected, "up to {to} after {number} steps");
            }
        }
    }
}
