//! From the thresholds in force to the cuts of gauges: which totals are worth putting out.

use std::collections::BTreeMap;

use differential_dataflow::{AsCollection, VecCollection};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::gauge::{CutChange, Gauge, cut};
use crate::stash::Stash;
use crate::threshold_join::Threshold;
use crate::time::{Time, Window};
use crate::types::{Bound, LimitId, Scope};

/// A limit holds a window to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InForce {
    /// The window judged.
    pub window: Window,
    /// By which limit.
    pub limit: LimitId,
    /// On which side.
    pub bound: Bound,
    /// What is counted, and over what.
    pub scope: Scope,
    /// The value.
    pub value: i64,
}

/// Values held to in one window through one gauge.
#[derive(Default)]
struct Held {
    /// A value with the number of limits that have it; none if that is 0. Most gauges have no other.
    one: (i64, isize),
    /// The other values.
    others: BTreeMap<i64, isize>,
    cut: Option<i64>,
}

impl Held {
    fn update(&mut self, value: i64, diff: isize) {
        let (one, limits) = &mut self.one;
        if *limits == 0 && !self.others.contains_key(&value) {
            *one = value;
        }
        if *one == value && !self.others.contains_key(&value) {
            *limits += diff;
            return;
        }
        let count = self.others.entry(value).or_default();
        *count += diff;
        if *count == 0 {
            self.others.remove(&value);
        }
    }

    fn nearest(&self, bound: Bound) -> Option<i64> {
        let (one, limits) = self.one;
        let one = (limits != 0).then_some(one);
        let others = match bound {
            Bound::Max => self.others.first_key_value(),
            Bound::Min => self.others.last_key_value(),
        };
        let others = others.map(|(value, _)| *value);
        match bound {
            Bound::Max => one.into_iter().chain(others).min(),
            Bound::Min => one.into_iter().chain(others).max(),
        }
    }

    /// The cut that the values need, no further inward than the one there is: a cut that moved
    /// inward would have to move out again with the next limit.
    fn needed(&self, bound: Bound) -> Option<i64> {
        let needed = cut(bound, self.nearest(bound)?);
        Some(match (bound, self.cut) {
            (_, None) => needed,
            (Bound::Max, Some(cut)) => needed.min(cut),
            (Bound::Min, Some(cut)) => needed.max(cut),
        })
    }
}

/// A gauge, and what it is held to by window.
struct InUse {
    gauge: Gauge,
    scope: Scope,
    windows: HashMap<Window, Held, RandomState>,
}

/// Gauges by their number.
#[derive(Default)]
struct Gauges {
    numbers: HashMap<(Scope, Bound), u32, RandomState>,
    /// Free numbers have `None`.
    in_use: Vec<Option<InUse>>,
    free: Vec<u32>,
}

impl Gauges {
    fn update(&mut self, row: &InForce, diff: isize) -> Gauge {
        let Gauges { numbers, in_use, free } = self;
        let number = *numbers.entry((row.scope, row.bound)).or_insert_with(|| {
            let id = free.pop().unwrap_or_else(|| {
                in_use.push(None);
                u32::try_from(in_use.len() - 1).expect("fewer than 2^32 gauges in use")
            });
            let Scope { per, metric, .. } = row.scope;
            let gauge = Gauge { id, per, metric, bound: row.bound };
            let windows = HashMap::default();
            in_use[id as usize] = Some(InUse { gauge, scope: row.scope, windows });
            id
        });
        let in_use = in_use[number as usize].as_mut().expect("a number that is given is in use");
        in_use.windows.entry(row.window).or_default().update(row.value, diff);
        in_use.gauge
    }

    /// The new cut of a gauge that was updated, if it has one that differs.
    fn moved(&mut self, id: u32, window: Window) -> Option<CutChange> {
        let in_use = self.in_use[id as usize].as_mut()?;
        let InUse { gauge, scope, ref mut windows } = *in_use;
        let held = windows.get_mut(&window)?;
        let (from, to) = (held.cut, held.needed(gauge.bound));
        held.cut = to;
        if to.is_none() {
            windows.remove(&window);
            if windows.is_empty() {
                self.numbers.remove(&(scope, gauge.bound));
                self.in_use[id as usize] = None;
                self.free.push(id);
            }
        }
        (from != to).then_some(CutChange { gauge, scope, window, from, to })
    }
}

/// Thresholds by the gauge that they read.
pub type Thresholds<'scope> =
    VecCollection<'scope, Time, ((Gauge, Window), Threshold<LimitId>), isize>;

/// The thresholds under the gauge that they read, and each move of a gauge's cut.
///
/// # In
/// `in_force`: the limits that hold each window, the same on every worker. A `min` must be in it only
/// once its window has closed.
///
/// # Out
/// Thresholds keyed by (gauge, window), for the [`threshold_join`](mod@crate::threshold_join), and cuts for the
/// traffic tables, at the same times; a cut that does not move is not repeated. Gauges are numbered
/// by each worker for itself: neither output may be exchanged.
///
/// # Keeps
/// The values in force, by gauge and window; they leave with their windows.
///
/// # Costs
/// Per changed row a look-up among the values that its gauge has in that window.
pub fn floors<'scope>(
    in_force: VecCollection<'scope, Time, InForce, isize>,
) -> (Thresholds<'scope>, StreamVec<'scope, Time, CutChange>) {
    let mut builder = OperatorBuilder::new("Floors".into(), in_force.inner.scope());
    let mut input = builder.new_input(in_force.inner, Pipeline);
    let (thresholds_output, thresholds) = builder.new_output::<Vec<_>>();
    let (cuts_output, cuts) = builder.new_output::<Vec<_>>();
    let mut thresholds_output = OutputBuilder::from(thresholds_output);
    let mut cuts_output = OutputBuilder::from(cuts_output);
    builder.build(move |_| {
        let mut stash = Stash::<Vec<(InForce, Time, isize)>, 2>::default();
        let mut gauges = Gauges::default();
        move |frontiers| {
            input.for_each(|capability, rows| {
                for row in rows.drain(..) {
                    stash.at_time(&capability, row.1).push(row);
                }
            });
            let mut thresholds_output = thresholds_output.activate();
            let mut cuts_output = cuts_output.activate();
            while let Some((capabilities, mut rows)) = stash.next(frontiers) {
                differential_dataflow::consolidation::consolidate_updates(&mut rows);
                let mut session = thresholds_output.session(&capabilities[0]);
                let mut touched = Vec::with_capacity(rows.len());
                for (row, time, diff) in rows {
                    let gauge = gauges.update(&row, diff);
                    let threshold =
                        Threshold { bound: row.bound, value: row.value, limit: row.limit };
                    session.give((((gauge, row.window), threshold), time, diff));
                    touched.push((gauge.id, row.window));
                }
                touched.sort_unstable();
                touched.dedup();
                let mut session = cuts_output.session(&capabilities[1]);
                for (gauge, window) in touched {
                    if let Some(change) = gauges.moved(gauge, window) {
                        session.give(change);
                    }
                }
            }
        }
    });
    (thresholds.as_collection(), cuts)
}
