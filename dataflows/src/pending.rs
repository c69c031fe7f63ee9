//! Work of stateful operators: held by time until the time is complete, and done in portions of fuel, so that no
//! operator keeps the others waiting.

use std::collections::{BTreeMap, VecDeque};

use timely::dataflow::channels::pushers::Output;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::frontier::MutableAntichain;

use crate::time::{Phase, Time};

/// Input by time, with a capability for each output.
///
/// Data have times of their own, and the message that carries them has the time of the round in which their input
/// came: all workers must agree on the progress of each time that a message has.
pub(crate) struct PendingByTime<W> {
    /// Work, with the time of the first message that it came in.
    pending: BTreeMap<Time, (Time, W)>,
    /// Capabilities for the earliest of these times. They cover the later times; one per time would add progress
    /// traffic to every worker.
    held: Vec<Capability<Time>>,
    outputs: usize,
}

impl<W: Default> PendingByTime<W> {
    /// Creates the input of an operator with so many outputs, of which it has one at least.
    pub(crate) fn new(outputs: usize) -> Self {
        PendingByTime { pending: BTreeMap::new(), held: Vec::new(), outputs }
    }

    /// The work at a time, which may be later than that of the message it came in.
    pub(crate) fn at(&mut self, capability: &InputCapability<Time>, time: Time) -> &mut W {
        if self.held.first().is_none_or(|held| time < *held.time()) {
            self.held.clear();
            self.held.extend((0..self.outputs).map(|output| capability.retain(output)));
        }
        let of_message = *capability.time();
        let (first, work) = self.pending.entry(time).or_insert_with(|| (of_message, W::default()));
        *first = of_message.min(*first);
        work
    }

    /// The work of the whole tick of an update: it is complete when no input can add to the tick's
    /// [`Phase::Retire`].
    pub(crate) fn at_tick(&mut self, capability: &InputCapability<Time>, time: Time) -> &mut W {
        self.at(capability, Time::new(time.tick, Phase::Retire))
    }

    /// Removes and returns the work at the earliest time, if no input can add to it any more.
    pub(crate) fn next(&mut self, frontiers: &[MutableAntichain<Time>]) -> Option<(Time, W)> {
        let (time, _) = self.pending.first_key_value()?;
        if frontiers.iter().any(|frontier| frontier.less_equal(time)) {
            return None;
        }
        self.remove_first()
    }

    /// The work at the earliest time, whether or not more may come.
    pub(crate) fn first(&mut self) -> Option<(Time, &mut W)> {
        let (time, (_, work)) = self.pending.iter_mut().next()?;
        Some((*time, work))
    }

    /// Removes and returns the work at the earliest time.
    pub(crate) fn remove_first(&mut self) -> Option<(Time, W)> {
        let (time, (_, work)) = self.pending.pop_first()?;
        Some((time, work))
    }

    /// The capabilities for the outputs of the work that was removed since they [followed](PendingByTime::follow)
    /// last, and of the work that is left, one for each output; none if there is no such work.
    pub(crate) fn capabilities(&self) -> &[Capability<Time>] {
        &self.held
    }

    /// Downgrades the capabilities, when the outputs of all work that was removed are sent: to the time that is
    /// under way, or else to the work that is left.
    pub(crate) fn follow(&mut self, under_way: Option<Time>) {
        let left = self.pending.first_key_value().map(|(_, (first, _))| *first);
        let Some(next) = under_way.or(left) else {
            self.held.clear();
            return;
        };
        if self.held.first().is_some_and(|held| next > *held.time()) {
            self.held.iter_mut().for_each(|held| held.downgrade(&next));
        }
    }
}

/// Sends the data that an operator has made, and empties `data`.
pub(crate) fn send<D: Clone + 'static>(
    output: &mut Output<Time, Vec<D>>,
    capability: &Capability<Time>,
    data: &mut Vec<D>,
) {
    if !data.is_empty() {
        output.activate().give(capability, data);
        data.clear();
    }
}

/// The work that an operator may do before it yields, in units of about 10 ns: a scanned entry costs one, an
/// update a few.
pub(crate) struct Fuel(usize);

/// Cost of emitting an update, or of making one.
pub(crate) const EMIT_COST: usize = 8;
/// Cost of copying an entry, or of releasing its addresses.
pub(crate) const COPY_COST: usize = 4;

impl Fuel {
    /// Some milliseconds.
    pub(crate) const STEP: usize = 400_000;

    pub(crate) fn new(units: usize) -> Self {
        Fuel(units)
    }

    pub(crate) fn spend(&mut self, units: usize) {
        self.0 = self.0.saturating_sub(units);
    }

    /// Ends the step: there is nothing to do before an input comes.
    pub(crate) fn exhaust(&mut self) {
        self.0 = 0;
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

/// Jobs whose space is kept for the next time.
const JOBS_KEPT: usize = 64;

/// The state of an operator that works through one time after another, in steps.
pub(crate) trait SteppedState {
    type Work: Default;
    type Job;

    /// Splits the work of a time into jobs, to be done in this order before the next time begins.
    fn plan(&mut self, time: Time, work: Self::Work, jobs: &mut VecDeque<Self::Job>);

    /// Continues a job. Returns `true` when the job is done, `false` when the fuel is spent.
    fn step(&mut self, time: Time, job: &mut Self::Job, fuel: &mut Fuel) -> bool;

    /// Prepares for a pause, in which outputs are sent and other operators get a turn. `under_way` is the time
    /// whose work is not done, if there is one. Returns the earliest time of the outputs that may still follow.
    fn pause(&mut self, under_way: Option<Time>) -> Option<Time> {
        under_way
    }

    /// Whether work that is left may continue before an input comes.
    fn can_continue(&self) -> bool {
        true
    }
}

/// Does the work of complete times in their order, one portion of fuel at a time.
pub(crate) struct FueledOperator<S: SteppedState> {
    pub(crate) state: S,
    pub(crate) pending: PendingByTime<S::Work>,
    /// The time that is worked on.
    current: Option<Time>,
    /// The jobs of that time that are not done.
    jobs: VecDeque<S::Job>,
}

impl<S: SteppedState> FueledOperator<S> {
    pub(crate) fn new(state: S, outputs: usize) -> Self {
        FueledOperator {
            state,
            pending: PendingByTime::new(outputs),
            current: None,
            jobs: VecDeque::new(),
        }
    }

    /// Works for one portion of fuel, and then passes the outputs to `deliver`. `true` if work is left that could
    /// continue at once.
    pub(crate) fn run(
        &mut self,
        frontiers: &[MutableAntichain<Time>],
        deliver: impl FnOnce(&[Capability<Time>], &mut S),
    ) -> bool {
        let mut fuel = Fuel::new(Fuel::STEP);
        let mut worked = false;
        while self.current.is_some() || self.begin(frontiers) {
            worked = true;
            if !self.work(&mut fuel) {
                break;
            }
        }
        if !worked {
            return false;
        }
        let under_way = self.state.pause(self.current);
        deliver(self.pending.capabilities(), &mut self.state);
        self.pending.follow(under_way);
        self.current.is_some()
    }

    /// Begins with the next time, if that is complete.
    fn begin(&mut self, frontiers: &[MutableAntichain<Time>]) -> bool {
        let Some((time, work)) = self.pending.next(frontiers) else {
            return false;
        };
        self.current = Some(time);
        self.state.plan(time, work, &mut self.jobs);
        true
    }

    /// Continues the work of the current time. `true` when it is done.
    fn work(&mut self, fuel: &mut Fuel) -> bool {
        if let Some(time) = self.current {
            while let Some(job) = self.jobs.front_mut() {
                if fuel.is_spent() {
                    return false;
                }
                if self.state.step(time, job, fuel) {
                    self.jobs.pop_front();
                }
            }
            self.jobs.shrink_to(JOBS_KEPT);
        }
        self.current = None;
        true
    }
}
