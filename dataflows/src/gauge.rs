//! Gauges: what limits of one scope and bound look at, and the cut below which they need not look.
//!
//! A limit can only be broken by totals on one side of its value. So of each table only the totals
//! beyond a *cut* are put out: above a floor for `max`, below a ceiling for `min`. A [`Gauge`] is
//! one (scope, bound); its cut in a window lies at a power of two, so that a limit may move without
//! moving it. `cuts.rs` has the cuts of all gauges at hand where totals change.

use serde::{Deserialize, Serialize};

use crate::addresses::Key;
use crate::ranges::WindowRange;
use crate::types::{Bound, Entity, Metric, Pair, Per, Prefix, Scope, Volume};

/// A (scope, bound) in use, as one worker numbers it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Gauge {
    /// Its number; free for another gauge when no limit uses it any more.
    pub id: u32,
    /// What the totals are of.
    pub per: Per,
    /// Which part of a volume is the amount.
    pub metric: Metric,
    /// Whether the cut is a floor or a ceiling.
    pub bound: Bound,
}

impl Gauge {
    /// Whether an entry is beyond the cut. An entity without packets is not judged by a `min`,
    /// except that the total of a scope is there even if nothing is in it.
    #[inline]
    pub(crate) fn puts_out(&self, cut: i64, volume: Volume) -> bool {
        let amount = volume.amount(self.metric);
        match self.bound {
            Bound::Max => amount > cut,
            Bound::Min => amount < cut && (volume.packets != 0 || self.per == Per::Total),
        }
    }

    pub(crate) fn total(&self, key: Key, volume: Volume) -> Total {
        let (amount, other) = match self.metric {
            Metric::Bytes => (volume.bytes, volume.packets),
            Metric::Packets => (volume.packets, volume.bytes),
        };
        Total { amount, key, other }
    }
}

/// The cut for limits whose nearest value is `value`: the next power of two outward.
pub(crate) fn cut(bound: Bound, value: i64) -> i64 {
    if value <= 0 {
        return value;
    }
    match bound {
        Bound::Max => 1 << value.ilog2(),
        Bound::Min => value.unsigned_abs().next_power_of_two().try_into().unwrap_or(i64::MAX),
    }
}

/// The one of two cuts that is further outward.
pub(crate) fn outermost(bound: Bound, one: i64, other: i64) -> i64 {
    match bound {
        Bound::Max => one.min(other),
        Bound::Min => one.max(other),
    }
}

/// What a gauge shows of an entity. Ordered by amount first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Total {
    /// In the gauge's metric.
    pub amount: i64,
    /// Who.
    pub key: Key,
    /// In the other metric.
    pub other: i64,
}

impl Total {
    /// The volume, given which metric the amount is in.
    pub fn volume(&self, metric: Metric) -> Volume {
        match metric {
            Metric::Bytes => Volume::new(self.amount, self.other),
            Metric::Packets => Volume::new(self.other, self.amount),
        }
    }
}

/// The cut that the limits of a gauge need in some windows, from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutChange {
    /// The gauge.
    pub gauge: Gauge,
    /// The scope of the totals it looks at.
    pub scope: Scope,
    /// The windows.
    pub windows: WindowRange,
    /// The cut until now; `None`: the gauge was not in use there.
    pub from: Option<i64>,
    /// The new cut; `None`: no limit uses the gauge there any more.
    pub to: Option<i64>,
}

/// A sum over pairs that some limit or view asks for: the addresses or the total of the pairs between
/// two prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rollup {
    /// What is summed for; not [`Per::Pair`].
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
        let (source, destination) = (pair.source(), pair.destination());
        let is_of = match (self.per, *entity) {
            (Per::Source, Entity::Source(address)) => source == address,
            (Per::Destination, Entity::Destination(address)) => destination == address,
            (Per::Host, Entity::Host(address)) => source == address || destination == address,
            (Per::Total, Entity::Total) => true,
            _ => false,
        };
        is_of && self.source.contains(source) && self.destination.contains(destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_powers_of_two_outward() {
        let floors = [(0, 0), (1, 1), (2, 2), (3, 2), (1023, 512), (i64::MAX, 1 << 62)];
        for (value, floor) in floors {
            assert_eq!(cut(Bound::Max, value), floor, "max {value}");
        }
        let ceilings = [(0, 0), (1, 1), (2, 2), (3, 4), (1025, 2048), (i64::MAX, i64::MAX)];
        for (value, ceiling) in ceilings {
            assert_eq!(cut(Bound::Min, value), ceiling, "min {value}");
        }
    }

    #[test]
    fn no_total_that_breaks_a_limit_is_within_its_cut() {
        let gauge = |bound| Gauge { bound, ..Gauge::default() };
        for value in (0..70).chain([i64::MAX - 1, i64::MAX]) {
            for amount in (0..80).chain([i64::MAX - 1, i64::MAX]) {
                let volume = Volume::new(amount, 1);
                let (max, min) = (gauge(Bound::Max), gauge(Bound::Min));
                assert!(amount <= value || max.puts_out(cut(Bound::Max, value), volume));
                assert!(amount >= value || min.puts_out(cut(Bound::Min, value), volume));
            }
        }
    }
}
