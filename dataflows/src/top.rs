//! The greatest entities of each window.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};

use crate::clock::WindowEvent;
use crate::monitored::Rollup;
use crate::ranges::WindowSet;
use crate::time::{Time, Timed, Window};
use crate::types::{Entity, Metric, Per, Prefix, Volume};
use crate::wiring::{Place, Wiring};

/// A query for the greatest entities of each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopQuery {
    /// The greatest number of entities of each window.
    pub n: usize,
    /// The kind of entity to rank: pairs, sources or destinations, over all traffic.
    pub per: Per,
    /// The metric to rank by.
    pub metric: Metric,
}

impl TopQuery {
    /// The rollup in which the entities are; `None` for pairs.
    pub fn rollup(&self) -> Option<Rollup> {
        let any = Prefix::ANY;
        (self.per != Per::Pair).then_some(Rollup { per: self.per, source: any, destination: any })
    }
}

/// An entity among the greatest of its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ranked {
    /// The window.
    pub window: Window,
    /// The entity's rank in the window, from 1.
    pub rank: u64,
    /// The entity.
    pub entity: Entity,
    /// The entity's volume.
    pub volume: Volume,
    /// Whether the window was not observed from its start on.
    pub partial: bool,
}

/// An entity that may be among the greatest of its window.
pub(crate) type Candidate = (Window, Entity, Volume);

/// The work of one tick.
#[derive(Default)]
struct Work {
    offers: Vec<Candidate>,
    clock: Vec<WindowEvent>,
}

/// The greatest of what was offered; ties go to the lesser entity.
pub(crate) struct Greatest {
    query: TopQuery,
    /// The greatest candidates so far, the least of them on top of the heap.
    heap: BinaryHeap<Reverse<(i64, Reverse<Entity>, Volume)>>,
}

impl Greatest {
    pub(crate) fn new(query: TopQuery) -> Self {
        Greatest { query, heap: BinaryHeap::new() }
    }

    /// Considers an entity. `entity` is called only if the volume may be among the greatest.
    pub(crate) fn offer(&mut self, volume: Volume, entity: impl FnOnce() -> Entity) {
        let amount = volume.amount(self.query.metric);
        let full = self.heap.len() >= self.query.n;
        let beaten = |least: &Reverse<(i64, Reverse<Entity>, Volume)>| amount < least.0.0;
        if amount <= 0 || self.query.n == 0 || (full && self.heap.peek().is_some_and(beaten)) {
            return;
        }
        self.heap.push(Reverse((amount, Reverse(entity()), volume)));
        if full {
            self.heap.pop();
        }
    }

    /// Removes and returns the greatest, in order of rank.
    pub(crate) fn take_ranking(&mut self) -> Vec<(Entity, Volume)> {
        let ranking = std::mem::take(&mut self.heap).into_sorted_vec();
        ranking.into_iter().map(|Reverse((_, Reverse(entity), volume))| (entity, volume)).collect()
    }

    /// Removes and returns the greatest as candidates of a window.
    pub(crate) fn take_candidates(
        &mut self,
        window: Window,
        time: Time,
    ) -> impl Iterator<Item = Timed<Candidate>> + use<> {
        let ranking = self.take_ranking().into_iter();
        ranking.map(move |(entity, volume)| ((window, entity, volume), time))
    }
}

/// The greatest entities of each window, in order of rank.
///
/// # In
/// `candidates`: of each worker, the greatest of the entities that it holds, in the tick in which the
/// window settles. `clock`: the same on every worker.
///
/// # Out
/// On one worker, in that tick. Entities with nothing of the metric are left out; of equal amounts
/// the lesser entity is first.
pub(crate) fn top<'scope>(
    candidates: StreamVec<'scope, Time, Timed<Candidate>>,
    clock: StreamVec<'scope, Time, Timed<WindowEvent>>,
    query: TopQuery,
) -> StreamVec<'scope, Time, Timed<Ranked>> {
    let mut wiring = Wiring::new("Top", candidates.scope());
    wiring.input(candidates, Exchange::new(|_| 0), |place: &mut Place<'_, Work>, (offer, time)| {
        place.at(time).offers.push(offer);
    });
    wiring.input(clock, Pipeline, |place, (event, time)| {
        if event.concerns_windows() {
            place.at(time).clock.push(event);
        }
    });
    let ranked = wiring.output(|(_, ranked): &mut (WindowSet, Vec<_>)| ranked);
    let state = (WindowSet::default(), Vec::new());
    wiring.build(state, move |(partial, ranked), time, Work { offers, clock }| {
        clock.into_iter().for_each(|event| follow(partial, event));
        let mut windows = BTreeMap::<Window, Greatest>::new();
        for (window, entity, volume) in offers {
            let greatest = windows.entry(window).or_insert_with(|| Greatest::new(query));
            greatest.offer(volume, || entity);
        }
        for (window, mut greatest) in windows {
            for (rank, (entity, volume)) in (1..).zip(greatest.take_ranking()) {
                let partial = partial.contains(window);
                ranked.push((Ranked { window, rank, entity, volume, partial }, time));
            }
        }
    });
    ranked
}

/// Keeps up with the windows that are partial.
fn follow(partial: &mut WindowSet, event: WindowEvent) {
    match event {
        WindowEvent::Partial { windows, partial: true } => partial.insert(windows),
        WindowEvent::Partial { windows, .. } | WindowEvent::Retired(windows) => {
            partial.remove(windows);
        }
        WindowEvent::Bounds(_)
        | WindowEvent::EventTime { .. }
        | WindowEvent::Observed(_)
        | WindowEvent::Silent(_)
        | WindowEvent::Settled(_) => {}
    }
}
