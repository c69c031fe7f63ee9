//! Continues an earlier run from its state: the commands that bring it about again.
//!
//! 1. [`Command::Resume`] says where sources continue, and which totals each worker reads.
//! 2. Rows of limits and totals enter at ticks before the one of the checkpoint.
//! 3. The tick of the checkpoint has the state of the clock.
//! 4. The recorded ticks since then are repeated, with their marks and edits of limits. Totals of windows that contain
//!    a tick already leave its records out.
//!
//! Up to the newest tick that a sink has, each sink is given the ticks that it lacks, and nothing else.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use floodmark_dataflows::clock::SourceProgress;

use super::commands::{Command, RepeatedTick, ResumePlan, TickStart};
use crate::computation::INITIAL_ROWS_PER_TICK;
use crate::limits::catalog::LimitSet;
use crate::limits::rows::Row;
use crate::state::{Manifest, RunRules, StoredEdit, TickRecord};

/// Ticks between the first one that totals may enter at and the one of the checkpoint.
const LOADING_TICKS: u64 = 1 << 20;

/// Everything that an earlier run has left.
pub struct Recovered {
    /// The newest checkpoint; that of tick 0 is from before the first tick.
    pub checkpoint: Manifest,
    /// The rows of limits of the checkpoint.
    pub limits: Vec<StoredEdit>,
    /// The records of ticks after the checkpoint, in their order.
    pub records: Vec<TickRecord>,
    /// The newest tick that a sink has.
    pub durable: u64,
    /// Whether the earlier run has come to the end of its input, so that sinks only get what they lack.
    pub ends: bool,
}

impl Recovered {
    /// Whether there was no earlier run.
    pub fn is_first(&self) -> bool {
        self.checkpoint.tick == 0 && self.records.is_empty()
    }

    /// Returns the rules at the last recorded tick, of a run that has had a tick.
    pub(super) fn rules(&self) -> Option<RunRules> {
        let Manifest { clock, rules, .. } = &self.checkpoint;
        let marks = self.records.iter().flat_map(|record| &record.marks);
        let reading = self.records.iter().filter_map(|record| record.rules.as_ref());
        RunRules::last(clock.iter().chain(marks), rules.iter().chain(reading))
    }

    /// Returns the names of the outputs at the last recorded tick.
    pub(super) fn outputs(&self) -> Vec<String> {
        self.checkpoint.outputs_at(u64::MAX, &self.records)
    }

    /// Returns the rows of a set of limits at the last recorded tick.
    pub fn rows(&self, set: LimitSet) -> Vec<Arc<Row>> {
        let edits = self.limits.iter().chain(self.records.iter().flat_map(|record| &record.edits));
        let mut rows = BTreeSet::new();
        for edit in edits.filter(|edit| edit.set == set) {
            let Some(row) = edit.row.row() else { continue };
            if edit.is_added {
                rows.insert(row)
            } else {
                rows.remove(&row)
            };
        }
        rows.into_iter().collect()
    }
}

/// The steps of a recovery.
enum Step {
    Plan,
    Load,
    Restore,
    Repeat,
    Done,
}

/// A recovery under way.
pub(super) struct Recovery {
    step: Step,
    checkpoint: Manifest,
    limits: std::vec::IntoIter<StoredEdit>,
    records: VecDeque<TickRecord>,
    /// The last tick at which totals or rows have entered.
    tick: u64,
    /// Whether the rows of the next tick have entered.
    has_entered: bool,
    /// Workers that have not entered all of their totals.
    loading: usize,
    repeated: usize,
}

/// The next action of a recovery.
pub(super) enum Action {
    /// Give this command.
    Give(Command),
    /// Enter these edits of limits at a tick, which begins if it has not begun yet.
    Edit(u64, Vec<StoredEdit>),
    /// Complete the tick of the checkpoint, with these marks.
    Restore(TickStart, Vec<SourceProgress>),
    /// Wait for workers.
    Wait,
    /// Go on with new ticks: so many were repeated. `is_first`: there was no earlier run.
    Finish { ticks: usize, is_first: bool },
}

impl Recovery {
    pub(super) fn new(recovered: Recovered, workers: usize) -> Self {
        let Recovered { checkpoint, limits, records, .. } = recovered;
        Recovery {
            step: Step::Plan,
            limits: limits.into_iter(),
            records: records.into(),
            tick: checkpoint.tick.saturating_sub(LOADING_TICKS),
            has_entered: false,
            checkpoint,
            loading: workers,
            repeated: 0,
        }
    }

    /// Notes that a worker has entered all of its totals.
    pub(super) fn note_loaded(&mut self) {
        self.loading = self.loading.saturating_sub(1);
    }

    /// Returns the next action. `in_flight`: ticks that are not closed.
    pub(super) fn next(&mut self, in_flight: usize, in_flight_max: usize) -> Action {
        match self.step {
            Step::Plan => {
                self.step = if self.checkpoint.tick > 0 { Step::Load } else { Step::Repeat };
                Action::Give(Command::Resume(Box::new(self.plan())))
            }
            _ if in_flight >= in_flight_max => Action::Wait,
            Step::Load => self.load(),
            Step::Restore => {
                self.step = Step::Repeat;
                let Manifest { tick, clock, .. } = &self.checkpoint;
                let start = TickStart { takes_records: false, ..TickStart::of_records(*tick) };
                Action::Restore(start, clock.clone())
            }
            Step::Repeat => self.repeat(),
            Step::Done => self.finish(),
        }
    }

    fn finish(&self) -> Action {
        let is_first = self.checkpoint.tick == 0 && self.repeated == 0;
        Action::Finish { ticks: self.repeated, is_first }
    }

    fn plan(&self) -> ResumePlan {
        let checkpoint = &self.checkpoint;
        let is_first = checkpoint.tick == 0 && self.records.is_empty();
        let counted = checkpoint.counted();
        let parts = counted.keys().flat_map(|window| {
            let saved = checkpoint.windows.get(&window.0);
            let parts = saved.into_iter().flat_map(|saved| &saved.parts);
            parts.map(|part| (*window, part.clone()))
        });
        ResumePlan {
            positions: checkpoint.partitions.clone(),
            is_first,
            rules: checkpoint.rules.clone(),
            time: checkpoint.time,
            repeats: !self.records.is_empty(),
            parts: parts.collect(),
            counted,
        }
    }

    /// Enters rows of limits and totals at a tick.
    fn load(&mut self) -> Action {
        if !std::mem::replace(&mut self.has_entered, true) {
            self.tick += 1;
            let rows: Vec<StoredEdit> = self.limits.by_ref().take(INITIAL_ROWS_PER_TICK).collect();
            if !rows.is_empty() {
                return Action::Edit(self.tick, rows);
            }
        }
        self.has_entered = false;
        if self.loading == 0 && self.limits.len() == 0 {
            self.step = Step::Restore;
        }
        Action::Give(Command::Load { tick: self.tick })
    }

    /// Repeats a recorded tick.
    fn repeat(&mut self) -> Action {
        let is_last = self.records.len() == 1;
        let Some(record) = self.records.front_mut() else {
            self.step = Step::Done;
            return self.finish();
        };
        let edits = std::mem::take(&mut record.edits);
        if !edits.is_empty() {
            return Action::Edit(record.tick, edits);
        }
        let Some(TickRecord { tick, time, takes_records, rules, outputs, marks, .. }) =
            self.records.pop_front()
        else {
            return Action::Wait;
        };
        self.repeated += 1;
        let start = TickStart { tick, time, takes_records };
        Action::Give(Command::Repeat(Box::new(RepeatedTick {
            start,
            rules,
            outputs,
            marks,
            is_last,
        })))
    }

    /// Whether a tick comes after the checkpoint.
    pub(super) fn is_repeated(&self, tick: u64) -> bool {
        tick > self.checkpoint.tick
    }
}
