//! Dates, versions and sums of the reference.

use std::collections::{BTreeMap, BTreeSet};

use differential_dataflow::difference::Semigroup;

use crate::time::{Window, Windows};
use crate::types::{Entity, LimitId, Pair, Per, Scope, Version, Volume, WideVolume};

/// The first whole millisecond at which a date in nanoseconds has come.
pub(super) fn due_ms(effective: i128) -> i128 {
    effective.div_euclid(1_000_000) + i128::from(effective.rem_euclid(1_000_000) != 0)
}

/// The version of a limit that judges a window: of the rows that have taken effect, the last one that is dated
/// before the end of the window. `None` if there is none, or if it removes the limit.
pub(super) fn in_force(
    rows: &BTreeSet<Version>,
    limit: LimitId,
    window: Window,
    windows: &Windows,
) -> Option<Version> {
    let end_ns = i128::from(windows.end_secs(window)) * 1_000_000_000;
    rows.iter()
        .filter(|row| row.limit == limit && row.effective < end_ns)
        .max_by_key(|row| row.effective)
        .filter(|row| row.value.is_some())
        .copied()
}

/// The traffic of a window in a scope, for each entity that the scope is for, without zeroes.
pub(super) fn volumes(
    scope: &Scope,
    table: Option<&BTreeMap<Pair, Volume>>,
) -> BTreeMap<Entity, Volume> {
    let mut sums = BTreeMap::new();
    for (pair, volume) in table.into_iter().flatten() {
        let (source, destination) = (pair.source(), pair.destination());
        if !scope.source.contains(source) || !scope.destination.contains(destination) {
            continue;
        }
        match scope.per {
            Per::Pair => add(&mut sums, Entity::Pair(*pair), *volume),
            Per::Source => add(&mut sums, Entity::Source(source), *volume),
            Per::Destination => add(&mut sums, Entity::Destination(destination), *volume),
            Per::Total => add(&mut sums, Entity::Total, *volume),
            Per::Host => {
                for host in BTreeSet::from([source, destination]) {
                    if scope.host.contains(host) {
                        add(&mut sums, Entity::Host(host), *volume);
                    }
                }
            }
        }
    }
    saturate(sums)
}

/// Adds to the sum of a key.
pub(super) fn add<K: Ord>(sums: &mut BTreeMap<K, WideVolume>, key: K, volume: Volume) {
    sums.entry(key).or_default().plus_equals(&WideVolume::from(volume));
}

/// The sums in 64 bits, without zeroes.
pub(super) fn saturate<K: Ord>(sums: BTreeMap<K, WideVolume>) -> BTreeMap<K, Volume> {
    let mut volumes: BTreeMap<K, Volume> =
        sums.into_iter().map(|(key, sum)| (key, sum.saturate())).collect();
    volumes.retain(|_, volume| *volume != Volume::default());
    volumes
}
