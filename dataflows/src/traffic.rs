//! The traffic of pairs: per window a table pair → volume, and the totals that it emits.
//!
//! The tables take the place of an arrangement: differential dataflow would keep every update of every total,
//! ordered, where limits concern only the few totals beyond an emit bound ([`monitored`](crate::monitored)). The
//! operator consumes all its input time by time, so that at each complete time its tables, and with them all that
//! it emits, are a function of the input.

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};

use crate::combine::UpdateBatch;
use crate::control::ControlEvent;
use crate::emitted::{Ending, TotalUpdate};
use crate::folds::RollupBatch;
use crate::monitored::ScopeChange;
use crate::pairs::{Pairs, Work};
use crate::reads::Response;
use crate::reports::{Late, Saturated};
use crate::shared::{Shared, TrafficOptions};
use crate::time::{Time, Timed};
use crate::top::Candidate;
use crate::wiring::{Place, Wiring};

/// The streams that leave the traffic operator. None of them is exchanged yet.
pub(crate) struct Traffic<'scope> {
    pub(crate) totals: StreamVec<'scope, Time, TotalUpdate>,
    pub(crate) endings: StreamVec<'scope, Time, Timed<Ending>>,
    /// The updates of pairs, folded for the rollups in use.
    pub(crate) rollups: StreamVec<'scope, Time, Timed<RollupBatch>>,
    pub(crate) top: StreamVec<'scope, Time, Timed<Candidate>>,
    pub(crate) responses: StreamVec<'scope, Time, Timed<Response>>,
    pub(crate) late: StreamVec<'scope, Time, Timed<Late>>,
    /// Totals of pairs that have reached the end of 64 bits.
    pub(crate) saturated: StreamVec<'scope, Time, Timed<Saturated>>,
}

/// The whole sums of pairs, as far as they are beyond an emit bound, and the updates that rollups need.
///
/// # In
/// `batches`: updates of pairs, combined by worker and tick. `monitored_scopes`, of pairs and of rollups, and
/// `control_events`: the same on every worker.
///
/// # Time
/// All input of a time is complete before any of it counts. An update for a window that the
/// watermark of the tick before has settled is dropped.
///
/// # Out
/// At each complete time, totals are the sums of all updates up to then, for each monitored scope those beyond its
/// emit bound, each once. A total may be less than its sum, within a cell, while its amount is not published. A
/// sum that reaches the end of 64 bits stays there, and is reported.
///
/// # Keeps
/// Per window about 40 bytes a pair, and as many for one that grew since it was emitted, which its retirement
/// frees.
///
/// # Costs
/// A hash look-up per update. An emit bound that moves walks the tables of its windows, in steps of a few
/// milliseconds; no update of a later time begins meanwhile. So does a window that lower bounds come to
/// judge, and one that retires.
pub(crate) fn traffic<'scope>(
    batches: StreamVec<'scope, Time, Timed<UpdateBatch>>,
    monitored_scopes: StreamVec<'scope, Time, Timed<ScopeChange>>,
    control_events: StreamVec<'scope, Time, Timed<ControlEvent>>,
    shared: Shared,
    options: TrafficOptions,
) -> Traffic<'scope> {
    let mut wiring = Wiring::new("Traffic", batches.scope());
    let to_owner = Exchange::new(|(batch, _): &Timed<UpdateBatch>| batch.to);
    wiring.input(batches, to_owner, |place: &mut Place<'_, Work>, (batch, time)| {
        place.at(time).batches.push(batch);
    });
    wiring.input(monitored_scopes, Pipeline, |place, (change, time)| {
        place.at(time).monitored_scopes.push(change);
    });
    wiring.input(control_events, Pipeline, |place, (control_event, time)| {
        if control_event.concerns_windows() {
            place.at(time).control_events.push(control_event);
        }
    });
    let traffic = Traffic {
        totals: wiring.output(|pairs: &mut Pairs| &mut pairs.emitted.totals),
        endings: wiring.output(|pairs| &mut pairs.emitted.endings),
        rollups: wiring.output(|pairs| &mut pairs.batches),
        top: wiring.output(|pairs| &mut pairs.best),
        responses: wiring.output(|pairs| &mut pairs.responses),
        late: wiring.output(|pairs| &mut pairs.late),
        saturated: wiring.output(|pairs| &mut pairs.saturated),
    };
    wiring.build_in_steps(Pairs::new(shared, options));
    traffic
}
