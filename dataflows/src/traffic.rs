//! The traffic of pairs: per window a table pair → volume, and the totals that it emits.
//!
//! The tables take the place of an arrangement: differential dataflow would keep every update of every total,
//! ordered, where limits concern only the few totals beyond an emit bound ([`monitored`](crate::monitored)). The
//! operator consumes all its input time by time, so that at each complete time its tables, and with them all that
//! it emits, are a function of the input.

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::combine::UpdateBatch;
use crate::control::ControlEvent;
use crate::emitted::{Ending, TotalUpdate};
use crate::folds::RollupBatch;
use crate::monitored::ScopeChange;
use crate::pairs::Pairs;
use crate::pending::{FueledOperator, send};
use crate::reads::Response;
use crate::reports::{Late, Saturated};
use crate::shared::{Shared, TrafficOptions};
use crate::time::{Time, Timed};
use crate::top::Candidate;

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
    let scope = batches.scope();
    let mut builder = OperatorBuilder::new("Traffic".into(), scope);
    let mut batches =
        builder.new_input(batches, Exchange::new(|(batch, _): &Timed<UpdateBatch>| batch.to));
    let mut monitored_scopes = builder.new_input(monitored_scopes, Pipeline);
    let mut control_events = builder.new_input(control_events, Pipeline);
    let (mut totals_output, totals) = builder.new_output::<Vec<_>>();
    let (mut endings_output, endings) = builder.new_output::<Vec<_>>();
    let (mut rollups_output, rollups) = builder.new_output::<Vec<_>>();
    let (mut top_output, top) = builder.new_output::<Vec<_>>();
    let (mut responses_output, responses) = builder.new_output::<Vec<_>>();
    let (mut late_output, late) = builder.new_output::<Vec<_>>();
    let (mut saturated_output, saturated) = builder.new_output::<Vec<_>>();
    let activator = scope.activator_for(builder.operator_info().address);
    builder.build(move |_| {
        let mut stepper = FueledOperator::<Pairs, 7>::new(Pairs::new(shared, options));
        move |frontiers| {
            let pending = &mut stepper.pending;
            batches.for_each(|capability, data| {
                for (batch, time) in data.drain(..) {
                    pending.at(&capability, time).batches.push(batch);
                }
            });
            monitored_scopes.for_each(|capability, data| {
                for (change, time) in data.drain(..) {
                    pending.at(&capability, time).monitored_scopes.push(change);
                }
            });
            control_events.for_each(|capability, data| {
                for (control_event, time) in
                    data.drain(..).filter(|(control_event, _)| control_event.concerns_windows())
                {
                    pending.at(&capability, time).control_events.push(control_event);
                }
            });
            let more = stepper.run(frontiers, |capabilities, state| {
                let [
                    at_totals,
                    at_endings,
                    at_rollups,
                    at_top,
                    at_responses,
                    at_late,
                    at_saturated,
                ] = capabilities;
                send(&mut totals_output, at_totals, &mut state.emitted.totals);
                send(&mut endings_output, at_endings, &mut state.emitted.endings);
                send(&mut rollups_output, at_rollups, &mut state.batches);
                send(&mut top_output, at_top, &mut state.best);
                send(&mut responses_output, at_responses, &mut state.responses);
                send(&mut late_output, at_late, &mut state.late);
                send(&mut saturated_output, at_saturated, &mut state.saturated);
            });
            if more {
                activator.activate();
            }
        }
    });
    Traffic { totals, endings, rollups, top, responses, late, saturated }
}
