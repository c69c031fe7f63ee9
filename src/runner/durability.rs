//! The durable state of a run at its leader: recovery at the start, records of ticks, checkpoints.

use std::collections::VecDeque;
use std::time::Instant;

use floodmark_dataflows::clock::SourceProgress;

use super::checkpoints::{CheckpointConfig, Checkpoints};
use super::commands::TickStart;
use super::recovery::{Action, Recovered, Recovery};
use crate::base::error::Failure;
use crate::computation::TickOutputs;
use crate::limits::catalog::Catalog;
use crate::state::{PartsRequest, StoredEdit, TickRecord, WrittenParts, is_recorded};

/// Everything that a run with a state needs at its start.
pub struct StateConfig {
    /// The run that is continued.
    pub recovered: Recovered,
    /// The checkpoints to take.
    pub checkpoints: CheckpointConfig,
}

/// The durable state of a run.
pub(super) struct Durability {
    recovery: Option<Recovery>,
    /// Whether the run ends after the recovery.
    pub(super) ends: bool,
    /// The newest tick that a sink had at the start.
    durable: u64,
    /// The marks of the state of the clock, for the tick that begins.
    restores: Option<Vec<SourceProgress>>,
    /// The ticks that are not closed, with their edits of limits.
    begun: VecDeque<(TickStart, Vec<StoredEdit>)>,
    /// The newest closed tick, but for those at which totals entered.
    last_tick: u64,
    /// The edits of the tick that begins.
    edits: Vec<StoredEdit>,
    checkpoints: Checkpoints,
}

impl Durability {
    pub(super) fn new(config: StateConfig, workers: usize) -> Self {
        let StateConfig { recovered, checkpoints } = config;
        Durability {
            durable: recovered.durable,
            ends: recovered.ends,
            recovery: Some(Recovery::new(recovered, workers)),
            restores: None,
            begun: VecDeque::new(),
            last_tick: 0,
            edits: Vec::new(),
            checkpoints: Checkpoints::new(checkpoints, workers),
        }
    }

    /// Whether an earlier run is being continued.
    pub(super) fn is_recovering(&self) -> bool {
        self.recovery.is_some()
    }

    /// Returns the next action of the recovery.
    pub(super) fn next(&mut self, in_flight: usize, in_flight_max: usize) -> Action {
        let Some(recovery) = &mut self.recovery else { return Action::Wait };
        let action = recovery.next(in_flight, in_flight_max);
        match &action {
            Action::Restore(_, marks) => self.restores = Some(marks.clone()),
            Action::Finish { .. } => {
                self.recovery = None;
                self.checkpoints.resume();
            }
            Action::Give(_) | Action::Edit(..) | Action::Wait => {}
        }
        action
    }

    /// Notes that a worker has put in all totals that it reads.
    pub(super) fn note_loaded(&mut self) {
        if let Some(recovery) = &mut self.recovery {
            recovery.note_loaded();
        }
    }

    /// Returns the marks of the state of the clock, if the tick that begins has them.
    pub(super) fn take_restored(&mut self) -> Option<Vec<SourceProgress>> {
        self.restores.take()
    }

    /// Whether a sink has had the outputs of a tick before the start.
    pub(super) fn is_durable(&self, tick: u64) -> bool {
        tick <= self.durable
    }

    /// Whether a tick is one of the earlier run after its checkpoint.
    pub(super) fn is_repeating(&self, tick: u64) -> bool {
        self.recovery.as_ref().is_some_and(|recovery| recovery.is_repeated(tick))
    }

    /// Notes edits of limits of the tick that begins.
    pub(super) fn edit(&mut self, edits: impl IntoIterator<Item = StoredEdit>) {
        self.edits.extend(edits);
    }

    /// Notes that a tick begins. Returns whether its clock is to be saved, and the windows to read.
    pub(super) fn begin(
        &mut self,
        start: TickStart,
        catalog: &Catalog,
    ) -> (bool, Option<PartsRequest>) {
        self.begun.push_back((start, std::mem::take(&mut self.edits)));
        if self.recovery.is_some() {
            return (false, None);
        }
        (self.checkpoints.begins(catalog), self.checkpoints.next_read(start.tick))
    }

    /// Whether a tick should begin soon.
    pub(super) fn wants_tick(&self) -> bool {
        self.checkpoints.wants_tick()
    }

    /// Notes a closed tick, and returns its record. `None` for a tick at which totals entered.
    pub(super) fn close(&mut self, tick: u64, outputs: &mut TickOutputs) -> Option<TickRecord> {
        let (start, edits) = self.begun.pop_front_if(|(start, _)| start.tick == tick)?;
        let marks = std::mem::take(&mut outputs.marks);
        let record = TickRecord {
            tick,
            previous: std::mem::replace(&mut self.last_tick, tick),
            time: start.time,
            takes_records: start.takes_records,
            marks: marks.iter().filter(|mark| is_recorded(mark)).copied().collect(),
            edits,
            holds_back: false,
        };
        self.checkpoints.close(&record, &marks, outputs.clock_state.take());
        Some(record)
    }

    /// Notes the parts that a worker has written.
    pub(super) fn written(&mut self, written: WrittenParts) {
        self.checkpoints.written(written);
    }

    /// Returns the time since which no checkpoint could be written, and why.
    pub(super) fn fault(&self) -> Option<(Instant, String)> {
        self.checkpoints.fault()
    }

    /// Writes a checkpoint if one is complete. Returns the tick before which records are of no use any more.
    pub(super) fn poll(&mut self, durable: u64) -> Result<Option<u64>, Failure> {
        self.checkpoints.poll(durable)
    }
}
