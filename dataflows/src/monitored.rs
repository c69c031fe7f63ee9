//! Monitored scopes: the totals that limits of one scope and bound judge, and the emit bound within which no total
//! breaks a limit.
//!
//! A limit can only be broken by totals on one side of its value. So of each table only the totals
//! beyond an *emit bound* are emitted: above a floor for `max`, below a ceiling for `min`. A [`MonitoredScope`] is
//! one (scope, bound); its emit bound in a window lies at a power of two, so that a limit may move without
//! moving it. Beyond the emit bound, amounts are divided into cells, and a total that grows within one need not be
//! emitted again unless a value lies there. Above the *roof*, which no value reaches, is one cell: a `max` is
//! broken there, and stays so. `emit_bounds.rs` has the emit bounds of all monitored scopes at hand where totals
//! change.

use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::threshold_join::Amount;
use crate::time::{Window, WindowRange};
use crate::types::{Bound, Entity, Metric, Pair, Per, Prefix, Scope, Volume};

/// A (scope, bound) in use, as one worker numbers it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct MonitoredScope {
    /// Its number; free for another monitored scope when no limit uses it any more.
    pub id: u32,
    /// The kind of entity that has the totals.
    pub per: Per,
    /// The part of a volume that is the amount.
    pub metric: Metric,
    /// Whether the emit bound is a floor or a ceiling.
    pub bound: Bound,
}

impl MonitoredScope {
    /// Whether an entry is beyond the emit bound.
    #[inline]
    pub(crate) fn emits(&self, emit_bound: i64, volume: Volume) -> bool {
        let amount = volume.amount(self.metric);
        match self.bound {
            Bound::Max => amount > emit_bound,
            Bound::Min => amount < emit_bound && self.judges(volume),
        }
    }

    /// Whether an entry is judged at all. An entity without packets is not judged by a `min`, except that the
    /// total of a scope is there even if nothing is in it.
    #[inline]
    pub(crate) fn judges(&self, volume: Volume) -> bool {
        self.bound == Bound::Max || volume.packets != 0 || self.per == Per::Total
    }

    pub(crate) fn total(&self, key: Key, volume: Volume) -> Total {
        let (amount, other) = match self.metric {
            Metric::Bytes => (volume.bytes, volume.packets),
            Metric::Packets => (volume.packets, volume.bytes),
        };
        Total { amount, key, other }
    }
}

/// The bounds of the amounts at which the limits of a monitored scope look in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmitBound {
    /// Totals beyond are emitted: the next power of two outward of the nearest value.
    pub at: i64,
    /// No value of a `max` is below: the cell of the least begins here.
    pub floor: i64,
    /// Amounts above break every `max`: the cell of the greatest value ends here. `i64::MAX` if there is no
    /// such amount.
    pub roof: i64,
}

/// Cells of an octave.
const CELLS: u32 = 8;

/// The cell above every roof.
pub(crate) const ABOVE_ROOF: i64 = i64::MAX;

/// The least amount of the cell of an amount, by which cells are named.
fn cell(amount: i64) -> i64 {
    let shift = cell_bits(amount);
    amount >> shift << shift
}

/// Returns the binary logarithm of the number of amounts in the cell of an amount.
fn cell_bits(amount: i64) -> u32 {
    amount.checked_ilog2().unwrap_or(0).saturating_sub(CELLS.ilog2())
}

impl EmitBound {
    /// The place of a value, from which [`EmitBound::of`] follows: values of one place have one emit bound.
    pub(crate) fn place(bound: Bound, value: i64) -> i64 {
        match bound {
            Bound::Max => cell(value),
            Bound::Min if value <= 0 => value,
            Bound::Min => value.unsigned_abs().next_power_of_two().try_into().unwrap_or(i64::MAX),
        }
    }

    /// The emit bound that values at one [place](EmitBound::place) need.
    #[inline]
    pub(crate) fn of(bound: Bound, place: i64) -> Self {
        match bound {
            Bound::Max => EmitBound {
                at: if place <= 0 { place } else { 1 << place.ilog2() },
                floor: place,
                roof: place.checked_add(1 << cell_bits(place)).unwrap_or(i64::MAX),
            },
            // There is no cell: each emitted total is exact.
            Bound::Min => EmitBound { at: place, floor: i64::MIN, roof: i64::MAX },
        }
    }

    /// The place whose emit bound it is; `None` if it is that of several.
    pub(crate) fn only_place(&self, bound: Bound) -> Option<i64> {
        let place = match bound {
            Bound::Max => self.floor,
            Bound::Min => self.at,
        };
        (EmitBound::of(bound, place) == *self).then_some(place)
    }

    /// The emit bound of the limits of both.
    pub(crate) fn and(self, bound: Bound, other: EmitBound) -> EmitBound {
        EmitBound {
            at: outermost(bound, self.at, other.at),
            floor: self.floor.min(other.floor),
            roof: self.roof.max(other.roof),
        }
    }

    /// The cell of an amount, all of whose amounts break the same limits; `None` if values may tell them apart.
    #[inline]
    pub(crate) fn cell(&self, amount: i64) -> Option<i64> {
        if amount > self.roof {
            return Some(ABOVE_ROOF);
        }
        (amount < self.floor).then(|| cell(amount))
    }
}

/// Amounts from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AmountRange {
    /// The least.
    pub from: i64,
    /// The greatest; `i64::MAX` includes all above a roof.
    pub to: i64,
}

impl AmountRange {
    /// All amounts.
    pub(crate) const ALL: AmountRange = AmountRange { from: i64::MIN, to: i64::MAX };

    /// Whether the cells of some of the amounts include one.
    pub(crate) fn touch(&self, other: i64) -> bool {
        cell(self.from) <= other && other <= self.to
    }

    /// Whether an amount is one of them.
    #[inline]
    pub(crate) fn contain(&self, amount: i64) -> bool {
        self.from <= amount && amount <= self.to
    }

    /// The amounts of both, and between.
    pub(crate) fn hull(self, other: AmountRange) -> AmountRange {
        AmountRange { from: self.from.min(other.from), to: self.to.max(other.to) }
    }
}

/// The one of two emit bounds that is further outward.
pub(crate) fn outermost(bound: Bound, one: i64, other: i64) -> i64 {
    match bound {
        Bound::Max => one.min(other),
        Bound::Min => one.max(other),
    }
}

/// The total of an entity, as a monitored scope shows it. Ordered by amount first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Total {
    /// The amount in the monitored scope's metric.
    pub amount: i64,
    /// The entity.
    pub key: Key,
    /// The amount in the other metric.
    pub other: i64,
}

impl Total {
    /// The volume, given the metric of the amount.
    pub fn volume(&self, metric: Metric) -> Volume {
        match metric {
            Metric::Bytes => Volume::new(self.amount, self.other),
            Metric::Packets => Volume::new(self.other, self.amount),
        }
    }
}

impl Amount for (Window, Total) {
    fn place(&self) -> u64 {
        self.0.0
    }
    fn amount(&self) -> i64 {
        self.1.amount
    }
    fn least(place: u64, amount: i64) -> Self {
        (Window(place), Total { amount, key: Key::MIN, other: i64::MIN })
    }
}

/// The emit bound that the limits of a monitored scope need in some windows, from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmitBoundChange {
    /// The monitored scope.
    pub monitored: MonitoredScope,
    /// The scope of the totals it looks at.
    pub scope: Scope,
    /// The windows.
    pub windows: WindowRange,
    /// The emit bound until now; `None`: the monitored scope was not in use there.
    pub from: Option<EmitBound>,
    /// The new emit bound; `None`: no limit uses the monitored scope there any more.
    pub to: Option<EmitBound>,
}

/// Amounts that limits judge otherwise from now on in some windows: limits were added, changed or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejudged {
    /// The monitored scope.
    pub monitored: MonitoredScope,
    /// The scope of the totals it looks at.
    pub scope: Scope,
    /// The windows.
    pub windows: WindowRange,
    /// The amounts.
    pub amounts: AmountRange,
}

/// A change of a monitored scope, for the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScopeChange {
    /// Its emit bound moves.
    EmitBound(EmitBoundChange),
    /// Its limits judge amounts otherwise. A monitored scope that comes into use has no such change, only changes
    /// of its emit bounds.
    Rejudged(Rejudged),
}

impl ScopeChange {
    /// The scope of the totals that the monitored scope looks at.
    pub(crate) fn scope(&self) -> &Scope {
        match self {
            ScopeChange::EmitBound(change) => &change.scope,
            ScopeChange::Rejudged(change) => &change.scope,
        }
    }

    /// Splits changes by kind.
    pub(crate) fn split(changes: Vec<ScopeChange>) -> (Vec<EmitBoundChange>, Vec<Rejudged>) {
        let (mut emit_bounds, mut rejudged) = (Vec::new(), Vec::new());
        for change in changes {
            match change {
                ScopeChange::EmitBound(change) => emit_bounds.push(change),
                ScopeChange::Rejudged(change) => rejudged.push(change),
            }
        }
        (emit_bounds, rejudged)
    }
}

/// A sum over pairs that some limit or view asks for: the addresses or the total of the pairs between
/// two prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rollup {
    /// The kind of entity that is summed for; not [`Per::Pair`].
    pub per: Per,
    /// Only pairs whose source is in here are summed.
    pub source: Prefix,
    /// Only pairs whose destination is in here are summed.
    pub destination: Prefix,
}

impl Rollup {
    /// The first of all in the order of rollups, or before it.
    pub(crate) const FIRST: Rollup =
        Rollup { per: Per::Pair, source: Prefix::ANY, destination: Prefix::ANY };

    /// The rollup in which a scope finds its amounts; `None` if that is the table of pairs. A prefix
    /// on the very address that is counted for only chooses among entries, so it makes no rollup of
    /// its own.
    pub fn of(scope: &Scope) -> Option<Rollup> {
        let (source, destination) = match scope.per {
            Per::Pair => return None,
            Per::Source => (Prefix::ANY, scope.destination),
            Per::Destination => (scope.source, Prefix::ANY),
            Per::Host | Per::Total => (scope.source, scope.destination),
        };
        Some(Rollup { per: scope.per, source, destination })
    }

    /// Whether a pair is part of what the rollup sums for an entity.
    pub fn counts(&self, pair: &Pair, entity: &Entity) -> bool {
        let Rollup { per, source, destination } = *self;
        let scope = Scope { per, source, destination, ..Scope::default() };
        scope.entities(pair).contains(&Some(*entity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emit_bound(bound: Bound, value: i64) -> EmitBound {
        EmitBound::of(bound, EmitBound::place(bound, value))
    }

    #[test]
    fn emit_bounds_are_powers_of_two_outward_of_values() {
        let floors = [(0, 0), (1, 1), (2, 2), (3, 2), (1023, 512), (i64::MAX, 1 << 62)];
        for (value, floor) in floors {
            assert_eq!(emit_bound(Bound::Max, value).at, floor, "max {value}");
        }
        let ceilings = [(0, 0), (1, 1), (2, 2), (3, 4), (1025, 2048), (i64::MAX, i64::MAX)];
        for (value, ceiling) in ceilings {
            assert_eq!(emit_bound(Bound::Min, value).at, ceiling, "min {value}");
        }
    }

    #[test]
    fn total_that_breaks_a_limit_is_beyond_its_emit_bound() {
        let monitored = |bound| MonitoredScope { bound, ..MonitoredScope::default() };
        for value in (0..70).chain([i64::MAX - 1, i64::MAX]) {
            for amount in (0..80).chain([i64::MAX - 1, i64::MAX]) {
                let volume = Volume::new(amount, 1);
                let (max, min) = (monitored(Bound::Max), monitored(Bound::Min));
                let [floor, ceiling] =
                    [Bound::Max, Bound::Min].map(|bound| emit_bound(bound, value));
                assert!(amount <= value || max.emits(floor.at, volume));
                assert!(amount >= value || min.emits(ceiling.at, volume));
                assert_eq!(ceiling.cell(amount), None);
            }
        }
    }

    /// Whether a limit is broken is the same for all amounts of a cell.
    #[test]
    fn amounts_of_one_cell_break_the_same_limits() {
        let values = [0, 1, 7, 8, 15, 16, 17, 100, 1000, 1023, 1024, 1 << 40, i64::MAX - 1];
        for one in values {
            for other in values {
                let emit_bound =
                    emit_bound(Bound::Max, one).and(Bound::Max, emit_bound(Bound::Max, other));
                let mut amounts: Vec<i64> = (0..1100).collect();
                amounts.extend([1 << 39, 1 << 40, (1 << 40) + 1, 1 << 41, i64::MAX - 1, i64::MAX]);
                let mut broken_in = std::collections::BTreeMap::new();
                for amount in amounts {
                    if let Some(cell) = emit_bound.cell(amount) {
                        let broken = (amount > one, amount > other);
                        assert_eq!(*broken_in.entry(cell).or_insert(broken), broken, "{amount}");
                    }
                }
            }
        }
    }

    #[test]
    fn cells_are_eighths_of_an_octave() {
        let emit_bound = emit_bound(Bound::Max, 100_000);
        assert_eq!((emit_bound.at, emit_bound.floor, emit_bound.roof), (65_536, 98_304, 106_496));
        let cells = [65_537, 73_727, 73_728, 98_303].map(|amount| emit_bound.cell(amount));
        assert_eq!(cells, [65_536, 65_536, 73_728, 90_112].map(Some));
        assert_eq!([98_304, 100_000, 106_496].map(|amount| emit_bound.cell(amount)), [None; 3]);
        assert_eq!([106_497, 1 << 50].map(|amount| emit_bound.cell(amount)), [Some(ABOVE_ROOF); 2]);
    }
}
