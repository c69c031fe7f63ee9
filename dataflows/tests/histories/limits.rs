//! Random rows of limits, and how they change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use floodmark_dataflows::types::{Bound, LimitId, Metric, Per, Prefix, Scope, Version, VersionId};
use ipnet::IpNet;

use super::rng::Rng;
use super::traffic::{V4, V6};

/// Nanoseconds of a second.
const NS: u64 = 1_000_000_000;

/// The rows held, and all that is needed to change them.
pub(crate) struct Limits {
    /// The number of names.
    names: u32,
    /// Whether few scopes have limits, of values around totals that grow slowly.
    few_scopes: bool,
    /// The rows held, by limit and date.
    rows: BTreeMap<(LimitId, i128), Version>,
    /// Rows that were deleted, which may return.
    deleted: Vec<Version>,
    /// The number of each content that is held, or was at the tick before. A row that was deleted earlier
    /// leaves its number to the next new one: there are no more numbers than rows.
    numbers: BTreeMap<Version, VersionId>,
}

/// The surroundings that new rows fit.
pub(crate) struct Around<'a> {
    /// Milliseconds.
    pub(crate) tick: u64,
    /// Seconds.
    pub(crate) width_secs: u64,
    /// Milliseconds: the greatest event time.
    pub(crate) front: u64,
    /// Amounts that occur.
    pub(crate) amounts: &'a [i64],
}

impl Limits {
    /// None yet, of at most so many names.
    pub(crate) fn new(names: u32, few_scopes: bool) -> Self {
        let (rows, deleted, numbers) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Limits { names, few_scopes, rows, deleted, numbers }
    }

    /// Changes the rows `count` times and returns the difference that this made.
    pub(crate) fn edits(
        &mut self,
        rng: &mut Rng,
        around: &Around<'_>,
        count: u64,
    ) -> Vec<(Version, isize)> {
        let before: BTreeSet<Version> = self.rows.values().copied().collect();
        let held: BTreeSet<VersionId> = before.iter().map(|row| row.id).collect();
        self.numbers.retain(|_, number| held.contains(number));
        for _ in 0..count {
            self.edit(rng, around);
        }
        let after: BTreeSet<Version> = self.rows.values().copied().collect();
        let deleted = before.difference(&after).map(|row| (*row, -1));
        let mut edits: Vec<_> =
            deleted.chain(after.difference(&before).map(|row| (*row, 1))).collect();
        for i in (1..edits.len()).rev() {
            edits.swap(i, rng.below(i as u64 + 1) as usize);
        }
        edits
    }

    fn edit(&mut self, rng: &mut Rng, around: &Around<'_>) {
        let held: Vec<Version> = self.rows.values().copied().collect();
        if held.is_empty() || rng.percent(35) {
            let row = self.random_row(rng, around);
            return self.insert(row);
        }
        let mut row = rng.pick(&held);
        match rng.below(20) {
            // Deleted.
            0..4 => self.remove(row),
            // All versions of a name.
            4 => {
                for each in held.iter().filter(|each| each.limit == row.limit) {
                    self.remove(*each);
                }
            }
            // Back again.
            5..8 if !self.deleted.is_empty() => {
                let back = rng.pick(&self.deleted);
                self.insert(back);
            }
            // Returns the limit with another effective date.
            8..10 => {
                self.remove(row);
                row.effective = effective(rng, around);
                self.insert(row);
            }
            // A successor that differs a little: often in the same window, or soon to come.
            10..14 => {
                row.effective = match rng.percent(50) {
                    true => row.effective + i128::from(rng.next() % (around.width_secs * NS)),
                    false => soon(rng, around),
                };
                self.alter(rng, &mut row, around);
                self.insert(row);
            }
            // Another content at the same date.
            _ => {
                self.remove(row);
                self.alter(rng, &mut row, around);
                self.insert(row);
            }
        }
    }

    fn alter(&self, rng: &mut Rng, row: &mut Version, around: &Around<'_>) {
        match self.few_scopes && rng.percent(80) {
            true => simplify(rng, row, around),
            false => alter(rng, row, around),
        }
    }

    fn insert(&mut self, mut row: Version) {
        row.id = VersionId(0);
        let taken: BTreeSet<VersionId> = self.numbers.values().copied().collect();
        let free = (1..).map(VersionId).find(|number| !taken.contains(number));
        row.id = *self.numbers.entry(row).or_insert(free.expect("there are fewer rows"));
        if let Some(old) = self.rows.insert((row.limit, row.effective), row) {
            self.deleted.push(old);
        }
    }

    fn remove(&mut self, row: Version) {
        self.deleted.extend(self.rows.remove(&(row.limit, row.effective)));
    }

    fn random_row(&self, rng: &mut Rng, around: &Around<'_>) -> Version {
        let mut row = Version {
            limit: LimitId(rng.below(u64::from(self.names)) as u32),
            effective: effective(rng, around),
            id: VersionId(0),
            bound: rng.pick(&[Bound::Max, Bound::Max, Bound::Min]),
            scope: scope(rng),
            value: Some(value(rng, around)),
        };
        if self.few_scopes {
            simplify(rng, &mut row, around);
        }
        if rng.percent(10) {
            row.value = None;
        }
        row
    }
}

/// Makes a row one of few scopes, with a value around an amount that occurs, cells and octaves from it.
fn simplify(rng: &mut Rng, row: &mut Version, around: &Around<'_>) {
    row.scope = Scope { per: rng.pick(&[Per::Pair, Per::Pair, Per::Total]), ..Scope::default() };
    row.bound = rng.pick(&[Bound::Max, Bound::Max, Bound::Max, Bound::Min]);
    let amount = match around.amounts {
        [] => 1000,
        amounts => rng.pick(amounts),
    };
    let (times, parts) =
        rng.pick(&[(1, 1), (1, 1), (15, 16), (17, 16), (9, 8), (5, 4), (2, 1), (1, 2), (8, 1)]);
    // Corrections may be the amounts that occur; a limit has no negative value.
    row.value = Some((amount.saturating_mul(times) / parts).max(0));
}

/// Changes one or more columns of a row.
fn alter(rng: &mut Rng, row: &mut Version, around: &Around<'_>) {
    loop {
        match rng.below(14) {
            0..6 => row.value = Some(value(rng, around)),
            6 => row.value = None,
            7 => {
                row.bound = match row.bound {
                    Bound::Max => Bound::Min,
                    Bound::Min => Bound::Max,
                }
            }
            8 => row.scope.metric = metric(rng),
            9 => {
                row.scope.per = per(rng);
                if row.scope.per != Per::Host {
                    row.scope.host = Prefix::ANY;
                }
            }
            10 => row.scope = scope(rng),
            11 => (row.scope.source, row.scope.destination) = networks(rng),
            12 if row.scope.per == Per::Host => row.scope.host = prefix(rng, None),
            // The least change of all.
            _ => row.value = row.value.map(|value| value ^ 1),
        }
        if rng.percent(70) {
            return;
        }
    }
}

/// A date: before, within and after the windows around, also exactly at their edges, and a little
/// or far in the future.
fn effective(rng: &mut Rng, around: &Around<'_>) -> i128 {
    const MS: i128 = 1_000_000;
    let tick = i128::from(around.tick) * MS;
    let width = i128::from(around.width_secs * NS);
    let front = i128::from(around.front) * MS;
    let edge = front - front.rem_euclid(width);
    let off = [0, 0, 0, 1, -1, MS, -MS, 499_999];
    match rng.below(18) {
        0..2 => 0,
        2 => -i128::from(rng.next()),
        // Long before all windows.
        3..5 => tick - 100 * width,
        // At an edge of a window, or next to it.
        5..8 => edge + width * (i128::from(rng.below(8)) - 5) + rng.pick(&off),
        // Somewhere within.
        8..11 => edge + width * (i128::from(rng.below(7)) - 5) + i128::from(rng.next()) % width,
        // About now, which is a millisecond of which the date may be any part.
        11..13 => tick + rng.pick(&off),
        13..17 => soon(rng, around),
        // Later than anything.
        _ => tick + 1_000_000 * width,
    }
}

/// A date that comes within the next few ticks, mostly in a window that exists by then.
fn soon(rng: &mut Rng, around: &Around<'_>) -> i128 {
    let width_ns = around.width_secs * NS;
    let ahead = width_ns / rng.pick(&[8, 4, 2, 1]) * rng.pick(&[1, 1, 3]);
    i128::from(around.tick) * 1_000_000 + i128::from(rng.next() % ahead)
}

/// A value at which something changes: at powers of two, and at amounts that occur.
fn value(rng: &mut Rng, around: &Around<'_>) -> i64 {
    let beside = rng.below(3) as i64 - 1;
    match rng.below(10) {
        0 => 0,
        1 => rng.pick(&[1, 1, i64::MAX, 1 << 40]),
        2..4 => ((1_i64 << rng.below(9)) + beside).max(0),
        4..8 if !around.amounts.is_empty() => {
            rng.pick(around.amounts).saturating_add(beside).max(0)
        }
        _ => rng.below(40) as i64,
    }
}

fn metric(rng: &mut Rng) -> Metric {
    rng.pick(&[Metric::Bytes, Metric::Bytes, Metric::Packets])
}

fn per(rng: &mut Rng) -> Per {
    rng.pick(&[
        Per::Pair,
        Per::Pair,
        Per::Source,
        Per::Destination,
        Per::Host,
        Per::Host,
        Per::Total,
        Per::Total,
    ])
}

fn scope(rng: &mut Rng) -> Scope {
    let per = per(rng);
    let (source, destination) = networks(rng);
    let host = match per {
        Per::Host if rng.percent(60) => prefix(rng, None),
        _ => Prefix::ANY,
    };
    Scope { per, metric: metric(rng), source, destination, host }
}

/// Source and destination of a scope: of one family where both are given.
fn networks(rng: &mut Rng) -> (Prefix, Prefix) {
    if rng.percent(40) {
        return (Prefix::ANY, Prefix::ANY);
    }
    let v4 = rng.percent(60);
    let mut one = || match rng.percent(50) {
        true => prefix(rng, Some(v4)),
        false => Prefix::ANY,
    };
    (one(), one())
}

/// The surroundings of an address that occurs.
fn prefix(rng: &mut Rng, v4: Option<bool>) -> Prefix {
    let (address, length): (IpAddr, u8) = match v4.unwrap_or_else(|| rng.percent(60)) {
        true => (rng.pick(&V4).into(), rng.pick(&[0, 8, 24, 25, 32])),
        false => (rng.pick(&V6).into(), rng.pick(&[0, 8, 24, 25, 32, 64, 96, 128])),
    };
    Prefix::new(IpNet::new(address, length).expect("the length fits the family"))
}
