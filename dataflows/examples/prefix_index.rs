//! The prefix index by itself: rules for (source prefix, destination prefix), and the rules that a pair falls under.
//!
//! Ten thousand rules are for networks of 16 different lengths. A query looks up one hash table for each two lengths in
//! use, and tests no rule. With a rank, here the price of a rule, a query stops at the first dearer one.
//!
//! `cargo run --release -p floodmark-dataflows --example prefix_index`

#![allow(clippy::print_stdout)]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use floodmark_dataflows::prefix_index::{PrefixIndex, RankedValue};
use floodmark_dataflows::types::{Pair, Prefix};

/// A rule, by its number, and its price.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    number: u32,
    price: i64,
}

impl RankedValue for Rule {
    fn rank(&self) -> i64 {
        self.price
    }
}

/// The network of an address.
fn network(address: Ipv4Addr, length: u8) -> Prefix {
    let network = ipnet::IpNet::new(IpAddr::V4(address), length).expect("a length up to 32");
    Prefix::new(network.trunc())
}

fn main() {
    let mut index = PrefixIndex::default();
    let mut rules = Vec::new();
    for number in 0..10_000u32 {
        // Multiplied by an odd constant, so that the networks are spread over all addresses.
        let source = Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b1));
        let prefixes = (network(source, 8 + (number % 16) as u8), Prefix::ANY);
        let rule = Rule { number, price: i64::from(number % 100) };
        index.insert(prefixes.0, prefixes.1, rule.clone());
        rules.push((prefixes, rule));
    }
    let pair = Pair::V4(Ipv4Addr::new(158, 55, 121, 177), Ipv4Addr::new(192, 0, 2, 1));
    for price in [i64::MAX, 20, 0] {
        let start = Instant::now();
        let mut found = Vec::new();
        index.containing_to(price, pair, |rule| found.push(rule.number));
        let took = start.elapsed();
        println!("{} of 10,000 rules up to price {price} match, found in {took:.1?}", found.len());
        // Testing each rule gives the same.
        let matches = |(prefixes, rule): &&((Prefix, Prefix), Rule)| {
            prefixes.0.contains(pair.source()) && rule.price <= price
        };
        found.sort_unstable();
        assert!(found.into_iter().eq(rules.iter().filter(matches).map(|(_, rule)| rule.number)));
    }
    for ((source, destination), rule) in &rules {
        assert_eq!(index.remove(*source, *destination, |held| held == rule).as_ref(), Some(rule));
    }
    assert_eq!(index.least_rank(), i64::MAX, "the index is empty");
}
