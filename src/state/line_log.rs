//! The log of ticks whose output goes to files and to standard output: the record and the lines of each tick are in the
//! state before they go anywhere else.
//!
//! An object has some ticks in a row. After a kill, what a file lacks of these lines is appended from the log; standard
//! output can't be looked at, and counts as written.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::check_owner;
use super::manifest::{Superseded, sealed, unsealed};
use super::record::TickRecord;
use super::store::Store;
use crate::base::error::{Exit, Failure};
use crate::output::writer::FileEnd;

/// The folder of the objects.
pub const TICKS: &str = "ticks";

/// Time for which ticks without lines wait for others.
const QUIET_INTERVAL: Duration = Duration::from_secs(1);

/// Pause after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Objects that are deleted after one is written.
const DELETED_AT_ONCE: usize = 4;

/// Longest time that the end of a run waits for an object to be written.
const FINISH_PATIENCE: Duration = Duration::from_secs(10);

/// About the bytes of an edit of limits.
const EDIT_BYTES: usize = 400;

/// Bytes after which an object takes no more ticks.
const OBJECT_BYTES: usize = 4 << 20;

/// The lines of some ticks for one output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LoggedLines {
    /// The name of the output.
    output: String,
    /// The end of the file before these lines; `None` for an output that is no file.
    before: Option<FileEnd>,
    /// The lines.
    lines: String,
}

/// An object of the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Logged {
    records: Vec<TickRecord>,
    outputs: Vec<LoggedLines>,
}

/// A tick for the log.
pub struct LinesOfTick {
    /// The record of the tick.
    pub record: TickRecord,
    /// The lines of each output: the end of its file before them, and the lines.
    pub lines: Vec<(Option<FileEnd>, Arc<Vec<u8>>)>,
}

impl LinesOfTick {
    /// Returns the bytes of the lines.
    fn lines_len(&self) -> usize {
        self.lines.iter().map(|(_, lines)| lines.len()).sum()
    }

    /// Returns about how many bytes the tick takes.
    pub fn size(&self) -> usize {
        let TickRecord { marks, edits, .. } = &self.record;
        let record = size_of::<TickRecord>() + size_of_val(&marks[..]) + EDIT_BYTES * edits.len();
        record + self.lines_len()
    }
}

/// Everything that earlier runs have left in the log.
#[derive(Debug, Default)]
pub struct LineLog {
    /// The records of ticks, in the order in which they were logged.
    pub records: Vec<TickRecord>,
    /// Objects that can't be read, with the reasons.
    pub damaged: Vec<String>,
    outputs: Vec<LoggedLines>,
    /// The objects, each with its last tick.
    objects: BTreeMap<String, u64>,
}

impl LineLog {
    /// Reads the log. Damaged objects are skipped, and the log of the program names them.
    pub fn read(store: &dyn Store) -> anyhow::Result<Self> {
        let mut log = LineLog::default();
        for (name, _) in store.list(TICKS)?.into_iter().filter(|(name, _)| name.ends_with(".json"))
        {
            let Some(content) = store.get(&name)? else { continue };
            let read =
                unsealed(&content).and_then(|text| Ok(serde_json::from_slice::<Logged>(text)?));
            match read {
                Ok(Logged { records, outputs }) => {
                    let last = records.last().map_or(0, |record| record.tick);
                    log.objects.insert(name, last);
                    log.records.extend(records);
                    log.outputs.extend(outputs);
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(object = name, error, "records of ticks are damaged");
                    log.damaged.push(format!("{name}: {error}"));
                    log.objects.insert(name, 0);
                }
            }
        }
        Ok(log)
    }

    /// Appends the lines that a file lacks.
    pub fn complete(&self, output: &str, path: &Path) -> anyhow::Result<Completed> {
        let mut logged = self.outputs.iter().filter(|logged| logged.output == output);
        let Some(newest) = logged.clone().next_back() else { return Ok(Completed::Whole) };
        let Some(expected) = newest.before else { return Ok(Completed::Whole) };
        let found = match std::fs::metadata(path) {
            Ok(metadata) => FileEnd::of(&metadata),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("\"{}\"", path.display())),
        };
        let Some(found) = found.filter(|found| found.inode == expected.inode) else {
            return Ok(Completed::Other {
                expected: expected.length + newest.lines.len() as u64,
                found,
            });
        };
        let Some(first) = logged
            .position(|logged| logged.before.is_some_and(|before| before.inode == found.inode))
        else {
            return Ok(Completed::Whole);
        };
        let of_output = self.outputs.iter().filter(|logged| logged.output == output);
        complete(path, found, &of_output.skip(first).collect::<Vec<_>>())
    }
}

/// The result of comparing a file with the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// The file has all lines.
    Whole,
    /// So many bytes were missing, and are appended.
    Appended(u64),
    /// It is another file, or was changed: it should have this length.
    Other {
        /// The length with all lines.
        expected: u64,
        /// The file that is there.
        found: Option<FileEnd>,
    },
}

/// Appends what a file lacks of these lines, which were meant for it.
fn complete(path: &Path, found: FileEnd, logged: &[&LoggedLines]) -> anyhow::Result<Completed> {
    let mut file = OpenOptions::new().read(true).append(true).open(path)?;
    let mut expected = None;
    let mut missing = Vec::new();
    for LoggedLines { before, lines, .. } in logged {
        let Some(start) = before.map(|before| before.length) else { continue };
        let end = start + lines.len() as u64;
        if end > found.length {
            let has = found.length.saturating_sub(start).min(lines.len() as u64);
            missing.extend_from_slice(&lines.as_bytes()[usize::try_from(has)?..]);
        }
        let is_same = start <= found.length && has_at(&mut file, start, lines.as_bytes())?;
        let is_next = expected.is_none_or(|expected| expected == start);
        if !is_same && start <= found.length || !is_next && start > found.length {
            return Ok(Completed::Other { expected: end, found: Some(found) });
        }
        expected = Some(end);
    }
    let first = logged.iter().find_map(|logged| logged.before).map_or(0, |before| before.length);
    if found.length < first {
        return Ok(Completed::Other { expected: expected.unwrap_or(0), found: Some(found) });
    }
    if missing.is_empty() {
        return Ok(Completed::Whole);
    }
    file.write_all(&missing)?;
    file.sync_data()?;
    Ok(Completed::Appended(missing.len() as u64))
}

/// Whether a file has these bytes at an offset, as far as it goes.
fn has_at(file: &mut File, start: u64, bytes: &[u8]) -> std::io::Result<bool> {
    file.seek(SeekFrom::Start(start))?;
    let mut has = Vec::with_capacity(bytes.len());
    file.take(bytes.len() as u64).read_to_end(&mut has)?;
    Ok(bytes.starts_with(&has))
}

enum Job {
    Tick(Box<LinesOfTick>),
    Forget(u64),
}

/// A result of the thread: the last tick that is in the log, or the reason why it is not yet.
pub(crate) type LogResult = Result<u64, Failure>;

/// Writes the log, on a thread of its own.
pub struct LineLogWriter {
    /// `None` at the end.
    jobs: Option<Sender<Job>>,
    results: Receiver<LogResult>,
}

impl LineLogWriter {
    /// Starts the thread. `outputs` are the names of the outputs.
    pub fn start(
        store: Arc<dyn Store>,
        incarnation: u64,
        log: LineLog,
        outputs: Vec<String>,
    ) -> Result<Self, Failure> {
        let (jobs, to_do) = channel();
        let (done, results) = channel();
        let LineLog { objects, .. } = log;
        let waiter = thread::current();
        let mut writer =
            LogThread { store, incarnation, objects, outputs, sequence: 0, before: 0, to_do, done };
        thread::Builder::new()
            .name("lines".into())
            .spawn(move || writer.run(&waiter))
            .context("starting the thread that logs lines")?;
        Ok(LineLogWriter { jobs: Some(jobs), results })
    }

    /// Has a tick logged.
    pub fn add(&self, tick: LinesOfTick) {
        self.send(Job::Tick(Box::new(tick)));
    }

    /// Has the records of ticks before this one removed.
    pub fn forget(&self, before: u64) {
        self.send(Job::Forget(before));
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only with the receiver of its results, which is this one.
            let _ = jobs.send(job);
        }
    }

    /// Waits until everything is logged.
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.jobs = None;
        loop {
            match self.results.recv_timeout(FINISH_PATIENCE) {
                Ok(Ok(_)) => {}
                Ok(Err(failure)) => return Err(failure),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Returns the next result, if there is one.
    pub fn next(&self) -> Option<LogResult> {
        self.results.try_recv().ok()
    }
}

/// The thread.
struct LogThread {
    store: Arc<dyn Store>,
    incarnation: u64,
    objects: BTreeMap<String, u64>,
    outputs: Vec<String>,
    sequence: u64,
    /// The tick before which records are of no use any more.
    before: u64,
    to_do: Receiver<Job>,
    done: Sender<LogResult>,
}

impl LogThread {
    /// Logs ticks until nobody gives any more.
    fn run(&mut self, waiter: &thread::Thread) {
        let mut next = None;
        while let Some(tick) = self.take_tick(&mut next) {
            let ticks = self.take_more(tick, &mut next);
            let last = ticks.last().map_or(0, |tick| tick.record.tick);
            let content = sealed(&self.logged(&ticks));
            loop {
                let result = self.write(&content, last);
                let is_done = result.is_ok();
                let sent = self.done.send(result.map(|()| last));
                waiter.unpark();
                if sent.is_err() {
                    return;
                }
                if is_done {
                    self.forget();
                    break;
                }
                thread::sleep(RETRY_INTERVAL);
            }
        }
    }

    /// Waits for a tick; meanwhile forgets others. `None`: nobody gives any more.
    fn take_tick(&mut self, next: &mut Option<LinesOfTick>) -> Option<LinesOfTick> {
        if let Some(next) = next.take() {
            return Some(next);
        }
        loop {
            match self.to_do.recv().ok()? {
                Job::Tick(tick) => return Some(*tick),
                Job::Forget(before) => self.before = before,
            }
        }
    }

    /// Takes the ticks that wait; those without lines wait for others. `next` gets one that is too large.
    fn take_more(
        &mut self,
        first: LinesOfTick,
        next: &mut Option<LinesOfTick>,
    ) -> Vec<LinesOfTick> {
        let until = Instant::now() + QUIET_INTERVAL;
        let (mut size, mut lines) = (first.size(), first.lines_len());
        let mut ticks = vec![first];
        loop {
            let wait = match lines {
                0 => until.saturating_duration_since(Instant::now()),
                _ => Duration::ZERO,
            };
            match self.to_do.recv_timeout(wait) {
                Ok(Job::Tick(tick)) if size + tick.size() > OBJECT_BYTES => {
                    *next = Some(*tick);
                    return ticks;
                }
                Ok(Job::Tick(tick)) => {
                    size += tick.size();
                    lines += tick.lines_len();
                    ticks.push(*tick);
                }
                Ok(Job::Forget(before)) => self.before = before,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return ticks,
            }
        }
    }

    fn logged(&self, ticks: &[LinesOfTick]) -> Logged {
        let outputs = self.outputs.iter().enumerate().filter_map(|(at, output)| {
            let mut of_output =
                ticks.iter().map(|tick| &tick.lines[at]).filter(|(_, lines)| !lines.is_empty());
            let (before, first) = of_output.next()?;
            let mut lines = first.to_vec();
            of_output.for_each(|(_, more)| lines.extend_from_slice(more));
            let lines = String::from_utf8(lines).expect("lines are text");
            Some(LoggedLines { output: output.clone(), before: *before, lines })
        });
        let records = ticks.iter().map(|tick| tick.record.clone());
        Logged { records: records.collect(), outputs: outputs.collect() }
    }

    fn write(&mut self, content: &[u8], last: u64) -> Result<(), Failure> {
        let name = format!("{TICKS}/{:08}-{:012}.json", self.incarnation, self.sequence);
        self.store.put(&name, content).with_context(|| format!("writing {name}"))?;
        // An owner that has claimed the state before that may have read the log without this object.
        check_owner(&*self.store, self.incarnation).map_err(|error| {
            if !error.is::<Superseded>() {
                return Failure::from(error);
            }
            // A later owner must not find it beside the ticks of this one's successor.
            let _ = self.store.delete(&name);
            Failure::new(Exit::Superseded, error)
        })?;
        self.sequence += 1;
        self.objects.insert(name, last);
        Ok(())
    }

    /// Deletes some of the objects whose ticks are all of no use any more. Lines wait meanwhile, so that it is few at a
    /// time, and more than are written.
    fn forget(&mut self) {
        let before = self.before;
        let of_no_use = self.objects.iter().filter(|(_, last)| **last < before);
        let forgotten: Vec<String> =
            of_no_use.map(|(name, _)| name.clone()).take(DELETED_AT_ONCE).collect();
        for name in forgotten {
            match self.store.delete(&name) {
                Ok(()) => drop(self.objects.remove(&name)),
                // They are deleted later.
                Err(error) => {
                    return tracing::debug!(%error, object = name, "cannot delete records of ticks");
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "line_log_tests.rs"]
mod tests;
