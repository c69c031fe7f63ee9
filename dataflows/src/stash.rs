//! What stateful operators share: input by time until the time is complete, and a bound on how long
//! they work before others get a turn.

use std::collections::{BTreeMap, VecDeque};

use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::frontier::MutableAntichain;

use crate::time::{Phase, Time};

/// Input by time, with a capability for each of `N` outputs.
pub(crate) struct Stash<W, const N: usize> {
    pending: BTreeMap<Time, W>,
    /// For the earliest of them. It covers the others, and one for each would be said to every worker.
    held: Option<[Capability<Time>; N]>,
}

impl<W, const N: usize> Default for Stash<W, N> {
    fn default() -> Self {
        Stash { pending: BTreeMap::new(), held: None }
    }
}

impl<W: Default, const N: usize> Stash<W, N> {
    /// The work at the time of an input message.
    pub(crate) fn at(&mut self, capability: &InputCapability<Time>) -> &mut W {
        self.at_time(capability, *capability.time())
    }

    /// The work at the time of an update, which may be later than that of the message it came in.
    pub(crate) fn at_time(&mut self, capability: &InputCapability<Time>, time: Time) -> &mut W {
        if self.pending.first_key_value().is_none_or(|(first, _)| time < *first) {
            self.held = Some(std::array::from_fn(|output| capability.delayed(&time, output)));
        }
        self.pending.entry(time).or_default()
    }

    /// The work of the whole tick of an update: it is complete when the tick has nothing left to say.
    pub(crate) fn at_tick(&mut self, capability: &InputCapability<Time>, time: &Time) -> &mut W {
        self.at_time(capability, Time::new(time.tick, Phase::Retire))
    }

    /// The work at the earliest time, if no input can add to it any more.
    pub(crate) fn next(
        &mut self,
        frontiers: &[MutableAntichain<Time>],
    ) -> Option<([Capability<Time>; N], W)> {
        let (time, _) = self.pending.first_key_value()?;
        if frontiers.iter().any(|frontier| frontier.less_equal(time)) {
            return None;
        }
        self.remove_first()
    }

    /// The work at the earliest time, whether or not more may come.
    pub(crate) fn first(&mut self) -> Option<(&[Capability<Time>; N], &mut W)> {
        let (_, work) = self.pending.iter_mut().next()?;
        Some((self.held.as_ref()?, work))
    }

    /// Takes the work at the earliest time.
    pub(crate) fn remove_first(&mut self) -> Option<([Capability<Time>; N], W)> {
        let (_, work) = self.pending.pop_first()?;
        let capabilities = self.held.take()?;
        if let Some((next, _)) = self.pending.first_key_value() {
            self.held = Some(capabilities.each_ref().map(|held| held.delayed(next)));
        }
        Some((capabilities, work))
    }
}

/// How much an operator does before it lets others run, in units of about 10 ns: an entry looked
/// at is one, an update made a few.
pub(crate) struct Budget(usize);

/// What it costs to put out an update, or to make one.
pub(crate) const PUT_COST: usize = 8;
/// What it costs to copy an entry, or to let go of its addresses.
pub(crate) const COPY_COST: usize = 4;

impl Budget {
    /// Some milliseconds.
    pub(crate) const STEP: usize = 400_000;

    pub(crate) fn new(units: usize) -> Self {
        Budget(units)
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

/// A state to which the work of each time is done in turn, in steps.
pub(crate) trait Steps {
    type Work: Default;
    type Job;

    /// Splits the work of a time into jobs, to be done in this order before the next time begins.
    fn plan(&mut self, time: Time, work: Self::Work) -> VecDeque<Self::Job>;

    /// Goes on with a job until it is done, and then is `true`, or until the budget is spent.
    fn step(&mut self, time: Time, job: &mut Self::Job, budget: &mut Budget) -> bool;
}

/// The jobs left of the time that is worked on.
type Current<J, const N: usize> = ([Capability<Time>; N], VecDeque<J>);

/// Does the work of complete times in their order, a budget at a time.
pub(crate) struct Stepper<S: Steps, const N: usize> {
    pub(crate) state: S,
    pub(crate) stash: Stash<S::Work, N>,
    current: Option<Current<S::Job, N>>,
}

impl<S: Steps, const N: usize> Stepper<S, N> {
    pub(crate) fn new(state: S) -> Self {
        Stepper { state, stash: Stash::default(), current: None }
    }

    /// Works for one budget, and hands what came of it to `deliver`. `true` if work is left that
    /// could go on at once.
    pub(crate) fn run(
        &mut self,
        frontiers: &[MutableAntichain<Time>],
        mut deliver: impl FnMut(&mut [Capability<Time>; N], &mut S),
    ) -> bool {
        let mut budget = Budget::new(Budget::STEP);
        loop {
            let Some((capabilities, jobs)) = &mut self.current else {
                let Some((capabilities, work)) = self.stash.next(frontiers) else {
                    return false;
                };
                let jobs = self.state.plan(*capabilities[0].time(), work);
                self.current = Some((capabilities, jobs));
                continue;
            };
            let time = *capabilities[0].time();
            while let Some(job) = jobs.front_mut() {
                if budget.is_spent() {
                    deliver(capabilities, &mut self.state);
                    return true;
                }
                if self.state.step(time, job, &mut budget) {
                    jobs.pop_front();
                }
            }
            deliver(capabilities, &mut self.state);
            self.current = None;
        }
    }
}
