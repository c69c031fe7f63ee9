//! Which of many (source prefix, destination prefix) contain a pair, without looking at each.
//!
//! Prefixes are grouped by their two lengths; one hash look-up a group finds those that contain a
//! pair. So the cost follows the number of different lengths in use, which is small, and the number
//! of matches, not the number of prefixes.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use ipnet::IpNet;

use crate::types::{Pair, Prefix};

struct Group<T> {
    lengths: (u8, u8),
    members: HashMap<(u128, u128), Vec<T>, RandomState>,
}

/// Values by the two prefixes that a pair must be in.
pub(crate) struct PrefixIndex<T> {
    v4: Vec<Group<T>>,
    v6: Vec<Group<T>>,
}

impl<T> Default for PrefixIndex<T> {
    fn default() -> Self {
        PrefixIndex { v4: Vec::new(), v6: Vec::new() }
    }
}

fn masked(bits: u128, length: u8, width: u8) -> u128 {
    match length {
        0 => 0,
        _ => bits >> (width - length),
    }
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

/// Where two prefixes are kept, among the pairs of each family that they admit: whether that is IPv4,
/// their lengths, and their bits.
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

impl<T: Copy + PartialEq> PrefixIndex<T> {
    fn groups(&mut self, v4: bool) -> &mut Vec<Group<T>> {
        if v4 { &mut self.v4 } else { &mut self.v6 }
    }

    pub(crate) fn insert(&mut self, source: Prefix, destination: Prefix, value: T) {
        for (v4, lengths, bits) in places(source, destination) {
            let groups = self.groups(v4);
            let at =
                groups.iter().position(|group| group.lengths == lengths).unwrap_or_else(|| {
                    groups.push(Group { lengths, members: HashMap::default() });
                    groups.len() - 1
                });
            groups[at].members.entry(bits).or_default().push(value);
        }
    }

    pub(crate) fn remove(&mut self, source: Prefix, destination: Prefix, value: T) {
        for (v4, lengths, bits) in places(source, destination) {
            let groups = self.groups(v4);
            let Some(at) = groups.iter().position(|group| group.lengths == lengths) else {
                continue;
            };
            let members = &mut groups[at].members;
            if let Some(values) = members.get_mut(&bits) {
                values.retain(|held| *held != value);
                if values.is_empty() {
                    members.remove(&bits);
                }
            }
            if members.is_empty() {
                groups.swap_remove(at);
            }
        }
    }

    /// Calls `found` with each value whose prefixes contain the pair.
    #[inline]
    pub(crate) fn containing(&self, pair: Pair, mut found: impl FnMut(T)) {
        let (groups, source, destination, width) = match pair {
            Pair::V4(source, destination) => {
                (&self.v4, source.to_bits().into(), destination.to_bits().into(), 32)
            }
            Pair::V6(source, destination) => {
                (&self.v6, source.to_bits(), destination.to_bits(), 128)
            }
        };
        for group in groups {
            let (source_len, destination_len) = group.lengths;
            let key =
                (masked(source, source_len, width), masked(destination, destination_len, width));
            for value in group.members.get(&key).into_iter().flatten() {
                found(*value);
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
    fn agrees_with_asking_each_prefix() {
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
        let mut all = Vec::new();
        for source in prefixes {
            for destination in prefixes {
                index.insert(prefix(source), prefix(destination), all.len());
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
                index.remove(source, destination, value);
            }
            for source in addresses {
                for destination in addresses {
                    let addresses = (source.parse().expect("ip"), destination.parse().expect("ip"));
                    if Pair::new(addresses.0, addresses.1).is_none() {
                        continue;
                    }
                    let mut found = Vec::new();
                    index.containing(pair(source, destination), |value| found.push(value));
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
}
