//! The traffic of pairs: per window a table pair → volume, and what it puts out.
//!
//! This is the arrangement of the computation, and our own: differential dataflow would keep every
//! update of every total, ordered, where limits concern only the few totals beyond a cut
//! ([`gauge`](crate::gauge)). The operator takes all its input time by time, so that at each complete
//! time its tables, and with them all that it puts out, are a function of the input.

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::combine::Parcel;
use crate::folds::RollupParcel;
use crate::gauge::{CutChange, Gauge, Total};
use crate::orders::{Answer, Late, Order, Saturated, TotalUpdate};
use crate::pairs::{Pairs, TrafficOptions};
use crate::shared::Shared;
use crate::stash::Stepper;
use crate::time::{Time, Window};
use crate::types::{Entity, Volume};

/// The streams that leave the traffic operator. None of them is exchanged yet.
pub(crate) struct Traffic<'scope> {
    pub(crate) totals: StreamVec<'scope, Time, TotalUpdate>,
    /// Totals that an update took from beyond a cut to within, as they are now.
    pub(crate) fallen: StreamVec<'scope, Time, ((Gauge, Window), Total)>,
    /// The same updates by the rollups in use.
    pub(crate) rollups: StreamVec<'scope, Time, RollupParcel>,
    pub(crate) top: StreamVec<'scope, Time, (Window, Entity, Volume)>,
    pub(crate) answers: StreamVec<'scope, Time, Answer>,
    pub(crate) late: StreamVec<'scope, Time, Late>,
    /// Totals of pairs that have reached the end of 64 bits.
    pub(crate) saturated: StreamVec<'scope, Time, Saturated>,
}

/// The whole sums of pairs, as far as they are beyond a cut, and the updates that rollups need.
///
/// # In
/// `parcels`: updates of pairs, combined by worker and tick. `cuts`, of pairs and of rollups, and `orders`:
/// the same on every worker.
///
/// # Time
/// All input of a time is complete before any of it counts. An update for a window that the
/// watermark of the tick before has settled is dropped.
///
/// # Out
/// At each complete time, totals are what all updates up to then sum to, for each gauge those beyond
/// its cut, each once. A sum that reaches the end of 64 bits stays there, and is reported.
///
/// # Keeps
/// Per window about 40 bytes a pair, which its retirement frees.
///
/// # Costs
/// A hash look-up per update. A cut that moves walks the tables of its windows, in steps of a few
/// milliseconds; no update of a later time begins meanwhile. So does a window that lower bounds come to
/// judge, and one that retires.
pub(crate) fn traffic<'scope>(
    parcels: StreamVec<'scope, Time, Parcel>,
    cuts: StreamVec<'scope, Time, CutChange>,
    orders: StreamVec<'scope, Time, Order>,
    shared: Shared,
    options: TrafficOptions,
) -> Traffic<'scope> {
    let scope = parcels.scope();
    let mut builder = OperatorBuilder::new("Traffic".into(), scope);
    let mut parcels = builder.new_input(parcels, Exchange::new(|parcel: &Parcel| parcel.to));
    let mut cuts = builder.new_input(cuts, Pipeline);
    let mut orders = builder.new_input(orders, Pipeline);
    let (totals_output, totals) = builder.new_output::<Vec<_>>();
    let (fallen_output, fallen) = builder.new_output::<Vec<_>>();
    let (rollups_output, rollups) = builder.new_output::<Vec<_>>();
    let (top_output, top) = builder.new_output::<Vec<_>>();
    let (answers_output, answers) = builder.new_output::<Vec<_>>();
    let (late_output, late) = builder.new_output::<Vec<_>>();
    let (saturated_output, saturated) = builder.new_output::<Vec<_>>();
    let mut totals_output = OutputBuilder::from(totals_output);
    let mut fallen_output = OutputBuilder::from(fallen_output);
    let mut rollups_output = OutputBuilder::from(rollups_output);
    let mut top_output = OutputBuilder::from(top_output);
    let mut answers_output = OutputBuilder::from(answers_output);
    let mut late_output = OutputBuilder::from(late_output);
    let mut saturated_output = OutputBuilder::from(saturated_output);
    let activator = scope.activator_for(builder.operator_info().address);
    builder.build(move |_| {
        let mut stepper = Stepper::<Pairs, 7>::new(Pairs::new(shared, options));
        move |frontiers| {
            parcels.for_each(|time, data| stepper.stash.at(&time).parcels.append(data));
            cuts.for_each(|time, data| stepper.stash.at(&time).cuts.append(data));
            orders.for_each(|time, data| stepper.stash.at(&time).orders.append(data));
            let mut totals = totals_output.activate();
            let mut fallen = fallen_output.activate();
            let mut rollups = rollups_output.activate();
            let mut top = top_output.activate();
            let mut answers = answers_output.activate();
            let mut late = late_output.activate();
            let mut saturated = saturated_output.activate();
            let more = stepper.run(frontiers, |capabilities, state| {
                let [at_totals, at_fallen, at_rollups, at_top, at_answers, at_late, at_saturated] =
                    capabilities;
                totals.session(at_totals).give_container(&mut state.puts.totals);
                fallen.session(at_fallen).give_container(&mut state.puts.fallen);
                rollups.session(at_rollups).give_container(&mut state.parcels);
                top.session(at_top).give_container(&mut state.best);
                answers.session(at_answers).give_container(&mut state.answers);
                let came = std::mem::take(&mut state.late);
                if came != Late::default() {
                    late.session(at_late).give(came);
                }
                saturated.session(at_saturated).give_container(&mut state.saturated);
            });
            if more {
                activator.activate();
            }
        }
    });
    Traffic { totals, fallen, rollups, top, answers, late, saturated }
}
