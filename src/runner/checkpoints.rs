//! Takes checkpoints of a run: decides what is read when, and writes the manifest once all sinks have come so far.
//!
//! A checkpoint has the clock, positions and rows of limits as of one tick. The totals of windows that have changed
//! since they were written last are read at the ticks after it, some windows at a tick, so that no tick is long; the
//! records of these ticks go with the checkpoint. It counts when every sink has all ticks that its totals contain.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::time::Window;
use metrics::{counter, gauge};

use crate::base::error::{Exit, Failure};
use crate::limits::catalog::{Catalog, LimitSet};
use crate::limits::rows::Row;
use crate::limits::stored::StoredRow;
use crate::state::manifest::{self, LIMITS, delete_others};
use crate::state::{
    Binding, Manifest, OwnedState, PartsRequest, SavedLimits, SavedWindow, Store, StoredEdit,
    TickRecord, WrittenParts, check_owner,
};

/// Totals that are read at one tick, unless a window has more.
const ROWS_AT_ONCE: u64 = 200_000;

/// Time after a failure before another checkpoint is begun.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Time beyond three intervals after which a checkpoint is overdue.
const OVERDUE_AFTER: Duration = Duration::from_secs(30);

/// The reason for a checkpoint that is overdue.
const LATE: &str = "the store, or a sink, takes too long";

/// Everything that checkpoints need at the start of a run.
pub struct CheckpointConfig {
    /// The state, which this process owns.
    pub state: OwnedState,
    /// The things that the state is bound to.
    pub binding: Binding,
    /// The time between two checkpoints.
    pub interval: Duration,
    /// The checkpoint that the run continues from.
    pub last: Manifest,
}

/// The rows of limits at a tick, each with its set.
type Rows = Vec<(LimitSet, Arc<Row>)>;

/// A checkpoint that is being taken.
struct Taking {
    begun: Instant,
    manifest: Manifest,
    rows: Option<Rows>,
    /// Whether the tick of the clock is closed.
    has_clock: bool,
    /// The windows that are still to be read.
    unread: VecDeque<Window>,
    /// The tick at which some windows are read, these windows, and the workers that have not written their parts.
    reading: Option<(u64, Vec<Window>, usize)>,
}

/// The result of writing a checkpoint.
struct Stored {
    manifest: Manifest,
    files: BTreeSet<String>,
    result: Result<(), Failure>,
}

/// The checkpoints of a run.
pub(super) struct Checkpoints {
    state: OwnedState,
    workers: usize,
    interval: Duration,
    /// The state at the last closed tick, but for its totals and rows.
    current: Manifest,
    /// The last tick that may have changed the totals of a window.
    changed: BTreeMap<Window, u64>,
    /// The newest checkpoints, the newest one last; two are kept.
    kept: Vec<Manifest>,
    files: BTreeSet<String>,
    next_due: Instant,
    taking: Option<Taking>,
    storing: Option<Receiver<Stored>>,
    /// The time of the last checkpoint that was written, or of the start.
    last_good: Instant,
    /// Time since which no checkpoint could be written, and why.
    fault: Option<(Instant, String)>,
}

impl Checkpoints {
    pub(super) fn new(config: CheckpointConfig, workers: usize) -> Self {
        let CheckpointConfig { mut state, binding, interval, last } = config;
        let files = state.take_files();
        let current = Manifest {
            binding,
            incarnation: state.incarnation(),
            sequence: 0,
            records: Vec::new(),
            ..last.clone()
        };
        counter!("floodmark_state_checkpoints_total").increment(0);
        counter!("floodmark_state_errors_total").increment(0);
        Checkpoints {
            state,
            workers,
            interval,
            current,
            changed: BTreeMap::new(),
            kept: vec![last],
            files,
            next_due: Instant::now() + interval,
            taking: None,
            storing: None,
            last_good: Instant::now(),
            fault: None,
        }
    }

    /// Begins to count time, now that the earlier run is continued.
    pub(super) fn resume(&mut self) {
        self.last_good = Instant::now();
        self.next_due = self.last_good + self.interval;
    }

    /// Returns the time since which no checkpoint could be written, and why.
    pub(super) fn fault(&self) -> Option<(Instant, String)> {
        let late = || (self.last_good, LATE.to_owned());
        self.fault.clone().or_else(|| (self.last_good.elapsed() > self.patience()).then(late))
    }

    /// Whether the tick that begins is to have the clock saved: a checkpoint begins. `catalog` has the rows of limits
    /// of that tick.
    pub(super) fn begins(&mut self, catalog: &Catalog) -> bool {
        let is_idle = self.taking.is_none() && self.storing.is_none();
        if !is_idle || Instant::now() < self.next_due {
            return false;
        }
        self.next_due = Instant::now() + self.interval;
        let rows = catalog.held_rows().map(|(set, row)| (set, row.clone())).collect();
        self.current.sequence += 1;
        self.taking = Some(Taking {
            begun: Instant::now(),
            manifest: Manifest { records: Vec::new(), ..self.current.clone() },
            rows: Some(rows),
            has_clock: false,
            unread: VecDeque::new(),
            reading: None,
        });
        true
    }

    /// Returns the windows to read at a tick that begins.
    pub(super) fn next_read(&mut self, tick: u64) -> Option<PartsRequest> {
        let taking = self.taking.as_mut().filter(|taking| taking.has_clock)?;
        if taking.reading.is_some() {
            return None;
        }
        let (mut windows, mut rows) = (Vec::new(), 0);
        while let Some(window) = taking.unread.front().copied() {
            // A window of which nothing is known may be large.
            let saved = taking.manifest.windows.get(&window.0);
            let size = saved.map_or(ROWS_AT_ONCE / 8, SavedWindow::rows);
            if rows + size > ROWS_AT_ONCE && !windows.is_empty() {
                break;
            }
            rows += size;
            windows.push(window);
            taking.unread.pop_front();
        }
        if windows.is_empty() {
            return None;
        }
        taking.reading = Some((tick, windows.clone(), self.workers));
        Some(PartsRequest { tick, incarnation: self.state.incarnation(), windows })
    }

    /// Whether a tick should begin soon, to read the next windows.
    pub(super) fn wants_tick(&self) -> bool {
        let reads = |taking: &Taking| {
            taking.has_clock && taking.reading.is_none() && !taking.unread.is_empty()
        };
        self.taking.as_ref().is_some_and(reads)
    }

    /// Notes a closed tick.
    pub(super) fn close(
        &mut self,
        record: &TickRecord,
        marks: &[SourceProgress],
        clock: Option<Vec<SourceProgress>>,
    ) {
        let TickRecord { tick, time, takes_records, rules, outputs, .. } = record;
        gauge!("floodmark_state_checkpoint_age_seconds")
            .set(self.last_good.elapsed().as_secs_f64());
        self.current.tick = *tick;
        if *takes_records {
            self.current.time = Some(*time);
        }
        if rules.is_some() {
            self.current.rules.clone_from(rules);
        }
        if let Some(outputs) = outputs {
            self.current.outputs.clone_from(outputs);
        }
        for mark in marks {
            self.note(*tick, mark);
        }
        let Some(taking) = &mut self.taking else { return };
        match clock {
            Some(clock) if !taking.has_clock => {
                let windows = std::mem::take(&mut taking.manifest.windows);
                taking.manifest = Manifest { clock, windows, ..self.current.clone() };
                taking.has_clock = true;
                let seen = seen(&taking.manifest.clock);
                taking.manifest.windows.retain(|window, _| seen.contains(&Window(*window)));
                self.changed.retain(|window, _| seen.contains(window));
                let is_saved = |window: &Window| {
                    let saved = taking.manifest.windows.get(&window.0);
                    let changed = self.changed.get(window).copied().unwrap_or(0);
                    saved.is_some_and(|saved| saved.tick >= changed)
                };
                taking.unread = seen.into_iter().filter(|window| !is_saved(window)).collect();
            }
            _ if taking.has_clock => taking.manifest.records.push(record.clone()),
            _ => {}
        }
    }

    fn note(&mut self, tick: u64, mark: &SourceProgress) {
        match *mark {
            SourceProgress::Seen(window) => drop(self.changed.insert(window, tick)),
            SourceProgress::ReadTo { partition, offset, reached } => {
                let position = self.current.partitions.entry(partition).or_default();
                (position.offset, position.reached) = (offset, reached);
            }
            SourceProgress::Truncated { partition, first } => {
                let position = self.current.partitions.entry(partition).or_default();
                position.is_truncated = first.is_none();
            }
            _ => {}
        }
    }

    /// Notes the parts that a worker has written.
    pub(super) fn written(&mut self, written: WrittenParts) {
        if let Ok(parts) = &written.parts {
            self.files.extend(parts.iter().map(|(_, part)| part.file.clone()));
        }
        let Some(taking) = &mut self.taking else { return };
        let Some((tick, windows, missing)) = &mut taking.reading else { return };
        if *tick != written.tick {
            return;
        }
        if *missing == self.workers {
            for window in &*windows {
                let saved = SavedWindow { tick: *tick, parts: Vec::new() };
                taking.manifest.windows.insert(window.0, saved);
            }
        }
        *missing -= 1;
        let is_last = *missing == 0;
        match written.parts {
            Ok(parts) => {
                for (window, part) in parts {
                    taking.manifest.windows.entry(window.0).or_default().parts.push(part);
                }
            }
            Err(why) => return self.fail(&why),
        }
        if is_last {
            taking.reading = None;
        }
    }

    /// The time after which a checkpoint is overdue.
    fn patience(&self) -> Duration {
        3 * self.interval + OVERDUE_AFTER
    }

    /// Gives up the checkpoint that is being taken. Another one is begun after a while.
    fn fail(&mut self, why: &str) {
        self.taking = None;
        self.next_due = Instant::now() + RETRY_INTERVAL.min(self.interval);
        counter!("floodmark_state_errors_total").increment(1);
        if self.fault.is_none() {
            tracing::error!(
                state = self.state.name(),
                error = why,
                "cannot write a checkpoint: the run goes on, and tries again; started again now, it would continue \
                 from the checkpoint before"
            );
            self.fault = Some((Instant::now(), why.to_owned()));
        }
    }

    /// Writes the checkpoint when everything is read and all sinks have the ticks up to `durable`. Returns the ticks
    /// before which records are of no use any more, when a checkpoint was written.
    pub(super) fn poll(&mut self, durable: u64) -> Result<Option<u64>, Failure> {
        if let Some(storing) = &self.storing {
            return match storing.try_recv() {
                Ok(stored) => self.stored(stored),
                Err(TryRecvError::Empty) => Ok(None),
                Err(TryRecvError::Disconnected) => {
                    self.storing = None;
                    self.fail("the thread that writes it has ended");
                    Ok(None)
                }
            };
        }
        let is_complete = |taking: &Taking| {
            taking.has_clock
                && taking.reading.is_none()
                && taking.unread.is_empty()
                && taking.manifest.last_tick() <= durable
        };
        if !self.taking.as_ref().is_some_and(is_complete) {
            // Its records would grow without bound.
            if self.taking.as_ref().is_some_and(|taking| taking.begun.elapsed() > self.patience()) {
                self.fail(LATE);
            }
            return Ok(None);
        }
        if let Some(Taking { mut manifest, rows, .. }) = self.taking.take() {
            let last = manifest.last_tick();
            manifest.records.retain(|record| record.tick <= last);
            self.store(manifest, rows.unwrap_or_default());
        }
        Ok(None)
    }

    /// Writes a checkpoint on a thread of its own.
    fn store(&mut self, mut manifest: Manifest, rows: Rows) {
        let (done, storing) = channel();
        let leader = std::thread::current();
        let store = self.state.store().clone();
        let mut kept = self.kept.clone();
        let mut files = std::mem::take(&mut self.files);
        let write = move || {
            let result = write(&*store, &mut manifest, rows, &mut kept, &mut files);
            let _ = done.send(Stored { manifest, files, result });
            leader.unpark();
        };
        match std::thread::Builder::new().name("checkpoint".into()).spawn(write) {
            Ok(_) => self.storing = Some(storing),
            Err(error) => self.fail(&format!("starting a thread: {error}")),
        }
    }

    fn stored(&mut self, stored: Stored) -> Result<Option<u64>, Failure> {
        self.storing = None;
        let Stored { manifest, files, result } = stored;
        self.files.extend(files);
        if let Err(failure) = result {
            if failure.error.is::<manifest::Superseded>() {
                return Err(failure);
            }
            self.fail(&format!("{:#}", failure.error));
            return Ok(None);
        }
        self.last_good = Instant::now();
        counter!("floodmark_state_checkpoints_total").increment(1);
        gauge!("floodmark_state_totals").set(manifest.rows() as f64);
        if let Some((since, _)) = self.fault.take() {
            tracing::info!(lasting = ?since.elapsed(), "checkpoints are written again");
        }
        tracing::debug!(tick = manifest.tick, totals = manifest.rows(), "a checkpoint is written");
        self.current.windows.clone_from(&manifest.windows);
        self.kept.push(manifest);
        if self.kept.len() > 2 {
            self.kept.remove(0);
        }
        Ok(self.kept.first().map(|oldest| oldest.tick))
    }
}

/// The windows with records of a state of the clock.
fn seen(clock: &[SourceProgress]) -> BTreeSet<Window> {
    let seen = clock.iter().filter_map(|mark| match mark {
        SourceProgress::Existing(existing) if existing.seen => Some(existing.windows.from),
        _ => None,
    });
    seen.collect()
}

fn write(
    store: &dyn Store,
    manifest: &mut Manifest,
    rows: Rows,
    kept: &mut Vec<Manifest>,
    files: &mut BTreeSet<String>,
) -> Result<(), Failure> {
    let write = || -> anyhow::Result<()> {
        let mut lines = Vec::new();
        let count = rows.len() as u64;
        for (set, row) in rows {
            let edit = StoredEdit { set, row: StoredRow::of(&row), is_added: true };
            serde_json::to_writer(&mut lines, &edit)?;
            lines.push(b'\n');
        }
        if count > 0 {
            let Manifest { incarnation, sequence, .. } = *manifest;
            let file = format!("{LIMITS}/{incarnation:08}-{sequence:08}.jsonl");
            store.put(&file, &lines)?;
            files.insert(file.clone());
            let (size, crc32) = (lines.len() as u64, crc32fast::hash(&lines));
            manifest.limits = SavedLimits { file: Some(file), rows: count, size, crc32 };
        } else {
            manifest.limits = SavedLimits::default();
        }
        check_owner(store, manifest.incarnation)?;
        store.put(&manifest.name(), &manifest.content())?;
        Ok(())
    };
    write().map_err(|error| match error.is::<manifest::Superseded>() {
        true => Failure::new(Exit::Superseded, error),
        false => Failure::from(error),
    })?;
    kept.push(manifest.clone());
    let newest = &kept[kept.len().saturating_sub(2)..];
    if let Err(error) = delete_others(store, &newest.iter().collect::<Vec<_>>(), files) {
        tracing::warn!(%error, "cannot delete objects of the state that are of no use any more");
    }
    Ok(())
}
