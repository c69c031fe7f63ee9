//! The same violations in plain differential dataflow: what is computed, without how to be fast.
//!
//! Volumes are summed as differences, counted into data, and joined with the limits of their window
//! and scope. It reads all totals of a window when one of its limits changes, and keeps every update
//! of every total; [`graph`](crate::graph) does neither. The two are held against each other in the
//! tests.

use differential_dataflow::VecCollection;
use differential_dataflow::operators::CountTotal;

use crate::floors::InForce;
use crate::time::{Time, Window};
use crate::types::{Bound, Entity, Pair, Per, Scope, Violation, Volume, WideVolume};

/// The violations of `in_force` limits by the sums of `updates`.
///
/// # In
/// `updates`: one record's pair and window, its volume as the difference; a correction is negative, and
/// none follows a sum beyond 64 bits. Late ones are left out by the caller. `in_force`: as from [`in_force`](crate::limits::in_force).
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
            entities(&at.1, pair).into_iter().flatten().map(move |entity| (at, entity))
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

/// What a pair counts for in a scope.
fn entities(scope: &Scope, pair: Pair) -> [Option<Entity>; 2] {
    let (source, destination) = (pair.source(), pair.destination());
    if !(scope.source.contains(source) && scope.destination.contains(destination)) {
        return [None, None];
    }
    match scope.per {
        Per::Pair => [Some(Entity::Pair(pair)), None],
        Per::Source => [Some(Entity::Source(source)), None],
        Per::Destination => [Some(Entity::Destination(destination)), None],
        Per::Total => [Some(Entity::Total), None],
        Per::Host => [Some(source), Some(destination).filter(|other| *other != source)]
            .map(|host| host.filter(|host| scope.host.contains(*host)).map(Entity::Host)),
    }
}
