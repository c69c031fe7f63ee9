//! The updates of violations of one tick and window, sorted in parts: there may be as many as there are totals,
//! and no other operator runs while a part is sorted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::net::IpAddr;

use super::active::Id;
use crate::addresses::Addresses;
use crate::key::{Family, Key};
use crate::monitored::{MonitoredScope, Total};
use crate::pending::Fuel;
use crate::time::Phase;
use crate::types::{Entity, LimitId, Pair, Per};

/// An update of a violation, in 40 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    number: u64,
    amount: i64,
    other: i64,
    monitored: MonitoredScope,
    limit: LimitId,
    /// 0 for a violation that did not change, and that may have to be published anew.
    diff: i16,
    pub(super) phase: Phase,
    family: Family,
}

impl Step {
    /// # Panics
    /// If a violation is there more than once: a total is emitted once, and a threshold is set once.
    pub(super) fn new(
        monitored: MonitoredScope,
        total: Total,
        limit: LimitId,
        phase: Phase,
        diff: isize,
    ) -> Self {
        let Total { amount, key: Key { family, id: number }, other } = total;
        let diff = i16::try_from(diff).expect("a violation comes and goes once at a time");
        Step { number, amount, other, monitored, limit, diff, phase, family }
    }

    pub(super) fn id(&self) -> Id {
        Id::new(self.limit, self.monitored.per, self.key())
    }

    fn key(&self) -> Key {
        Key { family: self.family, id: self.number }
    }

    /// The violation, and its difference.
    pub(super) fn update(&self) -> ((MonitoredScope, Total), isize) {
        let total = Total { amount: self.amount, key: self.key(), other: self.other };
        ((self.monitored, total), self.diff.into())
    }

    fn sort_key(&self, addresses: &Addresses) -> SortKey {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let entity = match self.family {
            Family::V4 => (self.number.into(), 0),
            Family::V6 => match addresses.entity(self.monitored.per, self.key()) {
                Entity::Pair(Pair::V6(source, destination)) => {
                    (source.to_bits(), destination.to_bits())
                }
                Entity::Pair(Pair::V4(..)) | Entity::Total => (0, 0),
                Entity::Source(host) | Entity::Destination(host) | Entity::Host(host) => {
                    (bits(host), 0)
                }
            },
        };
        SortKey { limit: self.limit, per: self.monitored.per, family: self.family, entity }
    }
}

/// The order in which changes of a window are published: by limit and entity. A key has no order of its
/// own where it holds numbers of addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SortKey {
    limit: LimitId,
    per: Per,
    family: Family,
    entity: (u128, u128),
}

/// Updates that are sorted at once: about a millisecond.
const RUN: usize = 16 * 1024;

/// Sorted updates are freed in parts of so many.
const PIECE: usize = 1024;

/// Cost of sorting an update.
const SORT_COST: usize = 8;

/// Updates in the order in which they came.
#[derive(Default)]
pub(super) struct Runs(Vec<Vec<Step>>);

impl Runs {
    pub(super) fn push(&mut self, step: Step) {
        match self.0.last_mut() {
            Some(run) if run.len() < RUN => run.push(step),
            Some(_) => {
                let mut run = Vec::with_capacity(RUN);
                run.push(step);
                self.0.push(run);
            }
            None => self.0.push(vec![step]),
        }
    }
}

/// A sorted run.
struct Sorted {
    /// The next pieces, the first one last.
    pieces: Vec<Vec<Step>>,
    /// The steps under way, the first one last.
    steps: Vec<Step>,
}

impl Sorted {
    fn new(mut run: Vec<Step>, addresses: &Addresses) -> Self {
        if run.iter().all(|step| step.family == Family::V4) {
            run.sort_unstable_by_key(|step| {
                Reverse((step.limit, step.monitored.per, step.family, step.number))
            });
        } else {
            run.sort_by_cached_key(|step| Reverse(step.sort_key(addresses)));
        }
        let pieces = match run.len() {
            0..=PIECE => vec![run],
            _ => run.chunks(PIECE).map(<[Step]>::to_vec).collect(),
        };
        // The run is in reverse order, so its last piece is the first one.
        let mut sorted = Sorted { pieces, steps: Vec::new() };
        sorted.refill();
        sorted
    }

    fn refill(&mut self) {
        if self.steps.is_empty() {
            self.steps = self.pieces.pop().unwrap_or_default();
        }
    }

    fn pop(&mut self) -> Option<Step> {
        let step = self.steps.pop();
        self.refill();
        step
    }

    fn first(&self) -> Option<&Step> {
        self.steps.last()
    }
}

/// Sorts runs, and merges them.
#[derive(Default)]
pub(super) struct Merge {
    unsorted: Vec<Vec<Step>>,
    sorted: Vec<Sorted>,
    /// The key of the next update of each sorted run.
    heads: BinaryHeap<Reverse<(SortKey, u32)>>,
}

impl Merge {
    pub(super) fn new(runs: Runs) -> Self {
        Merge { unsorted: runs.0, ..Merge::default() }
    }

    /// Adds an update; all updates must be added before the first one is taken.
    pub(super) fn push(&mut self, step: Step) {
        let mut runs = Runs(std::mem::take(&mut self.unsorted));
        runs.push(step);
        self.unsorted = runs.0;
    }

    /// Sorts runs. `true` when all are.
    pub(super) fn sort(&mut self, addresses: &Addresses, fuel: &mut Fuel) -> bool {
        while let Some(run) = self.unsorted.pop() {
            fuel.spend(SORT_COST * run.len());
            let sorted = Sorted::new(run, addresses);
            if let Some(first) = sorted.first() {
                let number = u32::try_from(self.sorted.len()).expect("fewer than 2^46 updates");
                self.heads.push(Reverse((first.sort_key(addresses), number)));
                self.sorted.push(sorted);
            }
            if fuel.is_spent() {
                return self.unsorted.is_empty();
            }
        }
        true
    }

    /// Moves all updates of the next violation to `steps`, in the order of their phases; `steps` is empty if there
    /// are none.
    pub(super) fn next(&mut self, addresses: &Addresses, steps: &mut Vec<Step>) {
        steps.clear();
        let Some(Reverse((sort_key, _))) = self.heads.peek().copied() else { return };
        while let Some(mut head) = self.heads.peek_mut().filter(|head| head.0.0 == sort_key) {
            let run = &mut self.sorted[head.0.1 as usize];
            steps.extend(run.pop());
            match run.first() {
                Some(next) => head.0.0 = next.sort_key(addresses),
                None => drop(PeekMut::pop(head)),
            }
        }
        steps.sort_unstable_by_key(|step| step.phase);
    }
}
