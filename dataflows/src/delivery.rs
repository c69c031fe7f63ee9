//! The changes of all workers as one ordered stream on the first worker.
//!
//! One tick may bring about as many changes as there are totals, and their consumer may be slow. So changes travel
//! in parts: each worker has an allowance of changes on their way, and the first worker gives it back as it
//! forwards the changes; the first worker forwards as many as the consumer has consumed.
//!
//! Each worker sends its changes in the order in which they are published, so that the first worker only merges
//! them. For that it must know which workers have more: a worker that is not done with a tick sends a part at the
//! tick's [`Phase::Retire`] that says so, and the rest at its [`Phase::Read`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::vec::input::Handle;
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::Activator;

use crate::pending::{COPY_COST, Fuel, PendingByTime, send};
use crate::time::{Phase, Time, Timed};
use crate::types::Change;

/// Changes that may wait for a consumer that [consumes](crate::graph::Inputs::consumed) them, and that may be on
/// their way from each worker to the first one, if the [options](crate::graph::Options) say nothing else.
pub const CHANGES_AHEAD: usize = 32 * 1024;

/// Changes of one worker and tick.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) worker: usize,
    /// Whether no more changes of the worker and tick follow.
    pub(crate) is_last: bool,
    pub(crate) changes: Vec<Change>,
}

/// A message of the first worker to another one, or to itself.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// So many changes of the worker were forwarded.
    Forwarded(usize),
    /// Whether changes wait for their consumer.
    ConsumerWaits(bool),
}

/// The notices to a worker.
pub(crate) struct Notices<'scope> {
    pub(crate) notices: StreamVec<'scope, Time, (usize, Notice)>,
    /// Set to the last [`Notice::ConsumerWaits`].
    pub(crate) consumer_waits: Rc<Cell<bool>>,
}

/// The changes that a worker may still send.
pub(crate) struct Allowance(usize);

impl Allowance {
    pub(crate) fn new(changes: usize) -> Self {
        Allowance(changes)
    }

    /// Whether another change may be sent beside those that are ready.
    pub(crate) fn allows(&self, ready: usize) -> bool {
        self.0 > ready
    }

    pub(crate) fn spend(&mut self, changes: usize) {
        self.0 -= changes;
    }

    pub(crate) fn refill(&mut self, changes: usize) {
        self.0 += changes;
    }
}

/// The side of the consumer, on the first worker.
#[derive(Default)]
pub(crate) struct Consumer {
    /// Changes that were forwarded and not consumed.
    waiting: Rc<Cell<usize>>,
    is_dropped: Rc<Cell<bool>>,
    /// Whether changes wait for the consumer, as every worker knows it.
    pub(crate) holds_up: Rc<Cell<bool>>,
    activator: Rc<RefCell<Option<Activator>>>,
}

impl Consumer {
    /// Reports that the consumer has consumed so many changes.
    pub(crate) fn consumed(&self, changes: usize) {
        self.waiting.set(self.waiting.get().saturating_sub(changes));
        self.wake();
    }

    fn wake(&self) {
        if let Some(activator) = &*self.activator.borrow() {
            activator.activate();
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.is_dropped.set(true);
        self.wake();
    }
}

/// The parts of one worker, in one tick.
#[derive(Default)]
struct Lane {
    changes: VecDeque<std::vec::IntoIter<Change>>,
    has_more: bool,
}

impl Lane {
    fn first(&mut self) -> Option<&Change> {
        while self.changes.front().is_some_and(|part| part.as_slice().is_empty()) {
            self.changes.pop_front();
        }
        self.changes.front().and_then(|part| part.as_slice().first())
    }

    fn next(&mut self) -> Option<Change> {
        self.changes.front_mut()?.next()
    }
}

/// The parts of a tick, by worker.
#[derive(Default)]
struct Lanes(Vec<Lane>);

/// The reason why no change is forwarded at the moment.
#[derive(PartialEq)]
enum Pause {
    /// All of the tick is forwarded.
    Done,
    /// The fuel is spent: other operators have their turn.
    Fuel,
    /// The consumer has not consumed the changes before.
    Consumer,
    /// The next part of a worker has not arrived.
    Parts,
}

impl Lanes {
    fn accept(&mut self, part: Part) {
        if self.0.len() <= part.worker {
            self.0.resize_with(part.worker + 1, Lane::default);
        }
        let lane = &mut self.0[part.worker];
        lane.has_more = !part.is_last;
        lane.changes.push_back(part.changes.into_iter());
    }

    /// The worker with the next change.
    fn least(&mut self) -> Result<usize, Pause> {
        let place = |change: &Change| {
            let violation = &change.violation;
            (violation.window, violation.limit, violation.entity)
        };
        let mut least = None;
        for (worker, lane) in self.0.iter_mut().enumerate() {
            let has_more = lane.has_more;
            match lane.first().map(place) {
                Some(at) => least = least.into_iter().chain([(at, worker)]).min(),
                None if has_more => return Err(Pause::Parts),
                None => {}
            }
        }
        least.map(|(_, worker)| worker).ok_or(Pause::Done)
    }
}

/// Forwards changes, on the first worker.
struct Delivery {
    notices: Option<Handle<Time, (usize, Notice)>>,
    /// As in [`Options`](crate::graph::Options).
    changes_ahead: Option<usize>,
    waiting: Rc<Cell<usize>>,
    is_dropped: Rc<Cell<bool>>,
    /// Changes of each worker that were forwarded since the last notice to the worker.
    forwarded: Vec<usize>,
    holds_up: bool,
}

/// The result of merging some ticks.
struct Merged {
    ready: Vec<Timed<Change>>,
    pause: Pause,
    /// The tick that is not merged to its end.
    under_way: Option<Time>,
}

impl Delivery {
    fn has_capacity(&self, ready: usize) -> bool {
        let fits = |ahead| self.is_dropped.get() || self.waiting.get() + ready < ahead;
        self.changes_ahead.is_none_or(fits)
    }

    /// Merges the parts of the ticks that are complete, as far as fuel and the consumer's capacity allow.
    fn merge_ticks(
        &mut self,
        pending: &mut PendingByTime<Lanes>,
        frontier: &MutableAntichain<Time>,
    ) -> Merged {
        let mut fuel = Fuel::new(Fuel::STEP);
        let mut merged = Merged { ready: Vec::new(), pause: Pause::Done, under_way: None };
        while let Some((time, lanes)) = pending.first() {
            if frontier.less_equal(&Time::new(time.tick, Phase::Retire)) {
                // A worker may still send its first part of this tick.
                break;
            }
            merged.pause = self.merge(time, lanes, &mut merged.ready, &mut fuel);
            if self.is_dropped.get() && self.changes_ahead.is_some() {
                merged.ready.clear();
            }
            if merged.pause != Pause::Done {
                // The ticks before are done with: the consumer may wait for that.
                merged.under_way = Some(time);
                break;
            }
            pending.remove_first();
        }
        merged
    }

    /// Merges parts into `ready`.
    fn merge(
        &mut self,
        time: Time,
        lanes: &mut Lanes,
        ready: &mut Vec<Timed<Change>>,
        fuel: &mut Fuel,
    ) -> Pause {
        loop {
            let worker = match lanes.least() {
                Ok(worker) => worker,
                Err(pause) => return pause,
            };
            if !self.has_capacity(ready.len()) {
                return Pause::Consumer;
            }
            if fuel.is_spent() {
                return Pause::Fuel;
            }
            ready.extend(lanes.0[worker].next().map(|change| (change, time)));
            self.forwarded[worker] += 1;
            fuel.spend(COPY_COST + lanes.0.len());
        }
    }

    fn notice(&mut self, worker: usize, notice: Notice) {
        if let Some(notices) = &mut self.notices {
            notices.send((worker, notice));
        }
    }

    /// Sends notices that are due.
    fn notify(&mut self, holds_up: bool) {
        let mut any = false;
        let due = self.changes_ahead.unwrap_or(CHANGES_AHEAD).div_ceil(2);
        for worker in 0..self.forwarded.len() {
            if self.forwarded[worker] >= due {
                let changes = std::mem::take(&mut self.forwarded[worker]);
                self.notice(worker, Notice::Forwarded(changes));
                any = true;
            }
            if holds_up != self.holds_up {
                self.notice(worker, Notice::ConsumerWaits(holds_up));
                any = true;
            }
        }
        self.holds_up = holds_up;
        if let Some(notices) = self.notices.as_mut().filter(|_| any) {
            // A flush is not enough: an exchange sends the rest of its data when a time is over.
            let next = Time::start(notices.time().tick + 1);
            notices.advance_to(next);
        }
    }
}

/// Merges the changes of all workers.
///
/// # In
/// `parts`: of each worker in the order of windows, limits and entities. `notices`: an input by which the first
/// worker reaches the workers that send parts; it is closed when no more parts come.
///
/// # Out
/// On the first worker, all changes of a tick in that order, tick after tick, at the tick's [`Phase::Read`]. No
/// more than `changes_ahead` that the consumer has not consumed; none for a consumer that was dropped.
///
/// # Keeps
/// At most as many changes of each worker as it may have on their way.
pub(crate) fn deliver<'scope>(
    parts: StreamVec<'scope, Time, Timed<Part>>,
    notices: Handle<Time, (usize, Notice)>,
    changes_ahead: Option<usize>,
    consumer: &Consumer,
) -> StreamVec<'scope, Time, Timed<Change>> {
    let scope = parts.scope();
    let is_first = scope.index() == 0;
    let mut builder = OperatorBuilder::new("Deliver changes".into(), scope);
    let mut parts = builder.new_input(parts, Exchange::new(|_| 0));
    let (mut output, stream) = builder.new_output::<Vec<_>>();
    let activator = scope.activator_for(builder.operator_info().address);
    *consumer.activator.borrow_mut() = Some(activator.clone());
    let mut delivery = Delivery {
        notices: Some(notices).filter(|_| is_first),
        changes_ahead,
        waiting: consumer.waiting.clone(),
        is_dropped: consumer.is_dropped.clone(),
        forwarded: vec![0; scope.peers()],
        holds_up: false,
    };
    builder.build(move |_| {
        let mut pending = PendingByTime::<Lanes>::new(1);
        move |frontiers| {
            parts.for_each(|capability, parts| {
                for (part, time) in parts.drain(..) {
                    pending.at(&capability, Time::new(time.tick, Phase::Read)).accept(part);
                }
            });
            let Merged { mut ready, pause, under_way } =
                delivery.merge_ticks(&mut pending, &frontiers[0]);
            delivery.waiting.set(delivery.waiting.get() + ready.len());
            if !ready.is_empty() {
                send(&mut output, &pending.capabilities()[0], &mut ready);
            }
            pending.follow(under_way);
            delivery.notify(pause == Pause::Consumer);
            if pause == Pause::Fuel {
                activator.activate();
            }
            if frontiers[0].is_empty() && pending.first().is_none() {
                delivery.notices = None;
            }
        }
    });
    stream
}
