//! The durable state of a run at its leader: recovery at the start, records of ticks, checkpoints.

use std::collections::VecDeque;
use std::time::Instant;

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::time::Windows;

use super::checkpoints::{CheckpointConfig, Checkpoints};
use super::commands::TickStart;
use super::recovery::{Action, Recovered, Recovery};
use crate::base::error::Failure;
use crate::computation::TickOutputs;
use crate::limits::catalog::Catalog;
use crate::source::ReadingRules;
use crate::state::{PartsRequest, RunRules, StoredEdit, TickRecord, WrittenParts, is_recorded};

/// Everything that a run with a state needs at its start.
pub struct StateConfig {
    /// The run that is continued.
    pub recovered: Recovered,
    /// The checkpoints to take.
    pub checkpoints: CheckpointConfig,
    /// The rules by which this run reads records.
    pub rules: ReadingRules,
    /// The names of the outputs of this run.
    pub outputs: Vec<String>,
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
    /// The rules of this run, until the first new tick, if they differ from those of the last tick of the earlier run.
    changes_rules: Option<RunRules>,
    /// The outputs of this run in the same way.
    changes_outputs: Option<Vec<String>>,
    /// Further marks of the tick that begins.
    marks: Vec<SourceProgress>,
    /// The ticks that are not closed.
    begun: VecDeque<BegunTick>,
    /// The newest closed tick, but for those at which totals entered.
    last_tick: u64,
    /// The edits of the tick that begins.
    edits: Vec<StoredEdit>,
    checkpoints: Checkpoints,
}

/// A tick that is not closed.
struct BegunTick {
    start: TickStart,
    rules: Option<ReadingRules>,
    outputs: Option<Vec<String>>,
    edits: Vec<StoredEdit>,
}

impl Durability {
    pub(super) fn new(config: StateConfig, windows: Windows, workers: usize) -> Self {
        let StateConfig { recovered, checkpoints, rules, outputs } = config;
        let (before, now) = (recovered.rules(), RunRules { windows, reading: rules });
        if let Some(before) = &before {
            let changes = before.options().into_iter().zip(now.options());
            for ((option, before), (_, now)) in changes.filter(|(before, now)| before != now) {
                tracing::info!(option, before, now, "an option changes with the first new tick");
            }
        }
        Durability {
            changes_outputs: Some(outputs).filter(|outputs| *outputs != recovered.outputs()),
            changes_rules: Some(now).filter(|now| before.as_ref() != Some(now)),
            marks: Vec::new(),
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

    /// Notes that a tick is restored or repeated, which had these rules and outputs if they had changed.
    pub(super) fn begin_repeated(
        &mut self,
        start: TickStart,
        rules: Option<ReadingRules>,
        outputs: Option<Vec<String>>,
    ) {
        let edits = std::mem::take(&mut self.edits);
        self.begun.push_back(BegunTick { start, rules, outputs, edits });
    }

    /// Notes that a new tick begins. Returns the windows to read.
    pub(super) fn begin(&mut self, start: TickStart, catalog: &Catalog) -> Option<PartsRequest> {
        let rules = self.changes_rules.take();
        let (windows, rules) = rules.map(|rules| (rules.windows, rules.reading)).unzip();
        self.marks.extend(windows.map(SourceProgress::Rules));
        if self.checkpoints.begins(catalog) {
            self.marks.push(SourceProgress::Save);
        }
        let outputs = self.changes_outputs.take();
        self.begin_repeated(start, rules, outputs);
        self.checkpoints.next_read(start.tick)
    }

    /// Returns the marks that the tick that begins has beside those of sources and of time.
    pub(super) fn take_marks(&mut self) -> Vec<SourceProgress> {
        std::mem::take(&mut self.marks)
    }

    /// Whether a tick should begin soon.
    pub(super) fn wants_tick(&self) -> bool {
        self.checkpoints.wants_tick()
    }

    /// Notes a closed tick, and returns its record. `None` for a tick at which totals entered.
    pub(super) fn close(&mut self, tick: u64, outputs: &mut TickOutputs) -> Option<TickRecord> {
        let BegunTick { start, rules, outputs: names, edits } =
            self.begun.pop_front_if(|begun| begun.start.tick == tick)?;
        let marks = std::mem::take(&mut outputs.marks);
        let record = TickRecord {
            tick,
            previous: std::mem::replace(&mut self.last_tick, tick),
            time: start.time,
            takes_records: start.takes_records,
            rules,
            outputs: names,
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
