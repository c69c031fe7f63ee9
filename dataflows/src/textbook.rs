//! The violations of the computation in plain differential dataflow: a definition of the result that ignores
//! speed.
//!
//! Volumes are summed as differences, counted into data, and joined with the limits of their window and scope.
//! This form reads all totals of a window when one of its limits changes, and keeps every update of every total;
//! [`graph`](crate::graph) does neither. The tests compare the two.

use differential_dataflow::VecCollection;
use differential_dataflow::operators::CountTotal;
use serde::{Deserialize, Serialize};

use crate::spans::Existing;
use crate::time::{Time, Window, Windows};
use crate::types::{
    Bound, Entity, LimitId, Pair, Per, Scope, Version, Violation, Volume, WideVolume,
};

/// A window that a limit judges, with the limit's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InForce {
    /// The window judged.
    pub window: Window,
    /// The limit that judges it.
    pub limit: LimitId,
    /// The side of the value on which amounts break the limit.
    pub bound: Bound,
    /// The scope of the amounts.
    pub scope: Scope,
    /// The value.
    pub value: i64,
}

/// A version with the date on which another one of its name follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Interval {
    version: Version,
    /// The effective date of the next one, if there is one.
    until: Option<i128>,
}

impl Interval {
    /// Whether this version judges a window: it is the last one dated before the window's end.
    fn judges(&self, window: Window, windows: &Windows) -> bool {
        let end = i128::from(windows.end_secs(window)) * 1_000_000_000;
        self.version.effective < end && self.until.is_none_or(|until| end <= until)
    }
}

/// The values to which limits hold windows.
///
/// # In
/// `versions`: rows that have taken effect. `existing`: the windows that exist.
///
/// # Out
/// A `max` holds a window from the moment it exists, a `min` from the moment it has closed. A window
/// without a record of its own is held only by a `min` of a total, and one that was not observed from
/// its start on by no `min`.
///
/// # Keeps
/// Both inputs.
///
/// # Costs
/// Per changed version the number of windows held, per new or closing window the number of versions.
pub fn in_force<'scope>(
    versions: VecCollection<'scope, Time, Version, isize>,
    existing: VecCollection<'scope, Time, Existing, isize>,
    windows: Windows,
) -> VecCollection<'scope, Time, InForce, isize> {
    let existing = existing.map(|existing| ((), existing));
    versions
        .map(|version| (version.limit, version))
        .reduce_named("Intervals", |_, versions, intervals: &mut Vec<(Interval, isize)>| {
            // In the order of their dates.
            for (at, (version, _)) in versions.iter().enumerate() {
                let until = versions.get(at + 1).map(|(next, _)| next.effective);
                intervals.push((Interval { version: **version, until }, 1));
            }
        })
        .map(|(_, interval)| ((), interval))
        .join_core(existing.arrange_by_key(), move |(), interval, existing| {
            let (interval, existing) = (*interval, *existing);
            let each = windows.each(existing.windows);
            each.filter_map(move |window| in_force_at(&interval, &existing, window, &windows))
        })
}

fn in_force_at(
    interval: &Interval,
    existing: &Existing,
    window: Window,
    windows: &Windows,
) -> Option<InForce> {
    let Version { limit, bound, scope, value, .. } = interval.version;
    let judged = match bound {
        Bound::Max => existing.seen,
        Bound::Min => {
            existing.closed && existing.whole && (existing.seen || scope.per == Per::Total)
        }
    };
    let value = value.filter(|_| judged && interval.judges(window, windows))?;
    Some(InForce { window, limit, bound, scope, value })
}

/// The violations of `in_force` limits by the sums of `updates`.
///
/// # In
/// `updates`: one record's pair and window, its volume as the difference; a correction is negative, and
/// none follows a sum beyond 64 bits. Late ones are left out by the caller. `in_force`: as from [`in_force`].
///
/// # Out
/// Each violation once. A window that no limit holds any more has none.
///
/// # Keeps
/// Everything: nothing retires.
///
/// # Costs
/// Per changed limit the totals of its windows and scope, per update the scopes in force.
pub fn violations<'scope>(
    updates: VecCollection<'scope, Time, (Window, Pair), WideVolume>,
    in_force: VecCollection<'scope, Time, InForce, isize>,
) -> VecCollection<'scope, Time, Violation, isize> {
    let scopes = in_force.clone().map(|row| (row.window, row.scope)).distinct();
    let totals = updates
        .join_map(scopes, |window, pair, scope| ((*window, *scope), *pair))
        .flat_map(|(at, pair)| {
            at.1.entities(&pair).into_iter().flatten().map(move |entity| (at, entity))
        })
        .count_total()
        .map(|((at, entity), sum)| (at, (entity, sum.saturate())));

    // The total of a scope is there even if nothing is in it.
    let occupied = totals.clone().filter(|((_, scope), _)| scope.per == Per::Total);
    let nothing = in_force
        .clone()
        .filter(|row| row.scope.per == Per::Total)
        .map(|row| ((row.window, row.scope), (Entity::Total, Volume::default())))
        .distinct()
        .antijoin(occupied.map(|(at, _)| at));

    totals.concat(nothing).join_core(
        in_force.map(|row| ((row.window, row.scope), row)).arrange_by_key(),
        |_, (entity, volume), row| {
            breaks(row, *volume).then_some(Violation {
                limit: row.limit,
                window: row.window,
                entity: *entity,
                volume: *volume,
            })
        },
    )
}

fn breaks(row: &InForce, volume: Volume) -> bool {
    let amount = volume.amount(row.scope.metric);
    match row.bound {
        Bound::Max => amount > row.value,
        Bound::Min => amount < row.value && (volume.packets != 0 || row.scope.per == Per::Total),
    }
}
