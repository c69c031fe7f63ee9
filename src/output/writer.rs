//! A byte stream that is written by a thread of its own, so that callers never wait.
//!
//! Lines wait in a queue, which stays bounded if callers check [`Writer::has_capacity`] before the next tick.
//! The thread writes the lines in their order, and repeats a write that has met an obstacle.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

pub use super::target::FileEnd;
use super::target::{Obstacle, Target};
use crate::base::error::{Exit, Failure};

/// Greatest size of the queue at which another tick may begin, in bytes; the same as for a topic.
pub const QUEUE_BYTES: usize = 64 << 20;

/// Pause between a failure and the next attempt.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which the thread checks for a reader.
const READER_INTERVAL: Duration = Duration::from_millis(100);

/// Interval at which an idle thread checks the other end of its pipe.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two syncs of a file.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Standard output, a FIFO, a device or a file, written by a thread of its own.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<SharedQueue>,
}

/// The reason why nothing is written although lines wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriterFault {
    /// A FIFO has no reader. Detected also while no line waits.
    NoReader,
    /// The reader does not read.
    NotRead,
    /// Writing fails with this error, and is tried again.
    Failed(String),
}

/// The state of a writer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterState {
    /// Bytes that were accepted and not written.
    pub waiting_bytes: usize,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// The newest tick of which all lines are written, and survive a loss of power where the writer syncs.
    pub newest_durable: Option<u64>,
    /// The time at which the oldest of the waiting lines was accepted.
    pub waiting_since: Option<Instant>,
    /// The reason why nothing is written at the moment.
    pub fault: Option<WriterFault>,
    /// The error after which nothing can be written any more, since the reader has gone.
    pub closed: Option<String>,
    /// Whether the target is a regular file, which has no reader.
    pub is_file: bool,
    /// The end of the file that a syncing writer writes, with everything written so far.
    pub end: Option<FileEnd>,
}

#[derive(Debug, Default)]
struct SharedQueue {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are written.
    front_written: usize,
    /// Whether lines were accepted since the last tick ended.
    tick_has_lines: bool,
    /// Whether the writer was stopped: the lines are no longer needed.
    stopped: bool,
    /// Whether files are synced.
    syncs: bool,
    /// The newest tick of which all lines are written.
    newest_written: Option<u64>,
    state: WriterState,
}

/// Some lines of one tick.
#[derive(Debug)]
struct Chunk {
    /// The tick that ends with these lines, if one does.
    ends: Option<u64>,
    lines: Arc<Vec<u8>>,
    accepted: Instant,
}

impl Writer {
    /// Starts a writer to standard output.
    pub fn stdout() -> Result<Self, Failure> {
        let target = Target::stdout().context("writing to standard output");
        Writer::start(target.map_err(|error| Failure::new(Exit::Failed, error))?)
    }

    /// Starts a writer to the file, FIFO or device with this name. If another file gets the name, it is written
    /// instead. A FIFO need not have a reader.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let target = Target::open(path).with_context(|| format!("opening \"{}\"", path.display()));
        Writer::start(target.map_err(|error| Failure::new(Exit::Failed, error))?)
    }

    /// Makes everything that is written to files survive a loss of power, soon after it is written.
    pub fn sync_files(&self) {
        let mut queue = self.shared.lock();
        queue.syncs = true;
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Starts a writer to a file that it creates or empties; `-` is standard output.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let target = Target::create(path);
        let target = target.with_context(|| format!("creating \"{}\"", path.display()));
        Writer::start(target.map_err(|error| Failure::new(Exit::Failed, error))?)
    }

    fn start(mut target: Target) -> Result<Self, Failure> {
        let shared = Arc::new(SharedQueue::default());
        {
            let mut queue = shared.lock();
            (queue.state.is_file, queue.state.end) = (target.is_file(), target.end());
        }
        let writer = Writer { shared: shared.clone() };
        std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || shared.write_all(&mut target))
            .context("starting the thread that writes")?;
        Ok(writer)
    }

    /// Accepts lines, without waiting.
    pub fn accept(&self, lines: Vec<u8>) {
        let mut queue = self.shared.lock();
        if queue.stopped || lines.is_empty() {
            return;
        }
        queue.state.waiting_bytes += lines.len();
        let (ends, accepted) = (None, Instant::now());
        queue.chunks.push_back(Chunk { ends, lines: Arc::new(lines), accepted });
        queue.tick_has_lines = true;
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Notes that all lines of a tick were accepted. Ticks come in their order.
    pub fn end_tick(&self, tick: u64) {
        let mut queue = self.shared.lock();
        if !std::mem::take(&mut queue.tick_has_lines) {
            return;
        }
        match queue.chunks.back_mut() {
            Some(chunk) => chunk.ends = Some(tick),
            None => queue.note_written(Some(tick)),
        }
    }

    /// Whether the lines of another tick may be accepted.
    pub fn has_capacity(&self) -> bool {
        self.shared.lock().state.waiting_bytes < QUEUE_BYTES
    }

    /// Returns the current state.
    pub fn state(&self) -> WriterState {
        let queue = self.shared.lock();
        let waiting_since = queue.chunks.front().map(|chunk| chunk.accepted);
        WriterState { waiting_since, ..queue.state.clone() }
    }

    /// Stops the writer. Returns the number of lines that were accepted and not written.
    pub fn stop(&self) -> u64 {
        let mut queue = self.shared.lock();
        queue.stopped = true;
        let mut front_written = std::mem::take(&mut queue.front_written);
        let unwritten = queue.chunks.drain(..).map(|chunk| {
            let rest = &chunk.lines[std::mem::take(&mut front_written)..];
            rest.iter().filter(|byte| **byte == b'\n').count() as u64
        });
        let unwritten = unwritten.sum();
        queue.state.waiting_bytes = 0;
        drop(queue);
        self.shared.changed.notify_all();
        unwritten
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl SharedQueue {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes lines until the writer is stopped or the reader has gone. The thread runs this.
    fn write_all(&self, target: &mut Target) {
        let mut synced = Instant::now();
        loop {
            let queue = self.lock();
            let next = queue.chunks.front().map(|chunk| (chunk.lines.clone(), queue.front_written));
            let unsynced =
                queue.newest_written.filter(|tick| Some(*tick) != queue.state.newest_durable);
            if queue.stopped || queue.state.closed.is_some() {
                return;
            }
            drop(queue);
            if let Some(tick) = unsynced.filter(|_| synced.elapsed() >= SYNC_INTERVAL) {
                synced = Instant::now();
                self.note_synced(tick, target.sync());
                continue;
            }
            match next {
                Some((lines, from)) => {
                    let (written, obstacle) = target.write(&lines[from..]);
                    self.advance(written, obstacle, target);
                }
                None => self.wait_for_lines(target.check_reader()),
            }
        }
    }

    /// Records the result of a sync, and pauses if there was an obstacle.
    fn note_synced(&self, tick: u64, obstacle: Option<Obstacle>) {
        let mut queue = self.lock();
        if obstacle.is_none() {
            queue.state.newest_durable = Some(tick);
        }
        // Lines go on.
        queue.record_obstacle(obstacle);
    }

    /// Records the result of a write, and pauses if there was an obstacle.
    fn advance(&self, written: usize, obstacle: Option<Obstacle>, target: &Target) {
        let mut queue = self.lock();
        if queue.stopped {
            return;
        }
        if queue.syncs {
            queue.state.end = target.end();
        }
        queue.front_written += written;
        queue.state.waiting_bytes -= written;
        queue.state.written_bytes += written as u64;
        queue.state.is_file = target.is_file();
        if matches!(obstacle, Some(Obstacle::NoReader)) {
            queue.repeat_line();
        }
        if queue.chunks.front().is_some_and(|chunk| chunk.lines.len() == queue.front_written) {
            queue.front_written = 0;
            let ends = queue.chunks.pop_front().and_then(|chunk| chunk.ends);
            queue.note_written(ends);
        }
        let pause = queue.record_obstacle(obstacle);
        self.pause(queue, pause, |_| false);
    }

    /// Waits for lines.
    fn wait_for_lines(&self, obstacle: Option<Obstacle>) {
        let mut queue = self.lock();
        let pause = match queue.record_obstacle(obstacle) {
            Duration::ZERO => IDLE_INTERVAL,
            pause => pause,
        };
        self.pause(queue, pause, |queue| !queue.chunks.is_empty());
    }

    /// Sleeps for `pause`, or until the writer is stopped, the reader has gone, or `is_over` returns true.
    fn pause(
        &self,
        mut queue: MutexGuard<'_, Queue>,
        pause: Duration,
        is_over: impl Fn(&Queue) -> bool,
    ) {
        let until = Instant::now() + pause;
        while !queue.stopped && queue.state.closed.is_none() && !is_over(&queue) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Queue {
    /// Notes that all lines of a tick are written.
    fn note_written(&mut self, tick: Option<u64>) {
        self.newest_written = tick.or(self.newest_written);
        if !self.syncs {
            self.state.newest_durable = self.newest_written;
        }
    }

    /// Records the obstacle, if any. Returns the pause before the next attempt.
    fn record_obstacle(&mut self, obstacle: Option<Obstacle>) -> Duration {
        let (fault, pause) = match obstacle {
            None => (None, Duration::ZERO),
            Some(Obstacle::NoReader) => (Some(WriterFault::NoReader), READER_INTERVAL),
            // The write has waited for the reader already, unless other programs fill the pipe, too.
            Some(Obstacle::NotRead) => (Some(WriterFault::NotRead), Duration::from_millis(1)),
            Some(Obstacle::Failed(error)) => {
                (Some(WriterFault::Failed(error.to_string())), RETRY_INTERVAL)
            }
            Some(Obstacle::Closed(error)) => {
                self.state.closed = Some(error.to_string());
                (None, Duration::ZERO)
            }
        };
        self.state.fault = fault;
        pause
    }

    /// Goes back to the start of the current line, so that the next reader gets the whole line.
    fn repeat_line(&mut self) {
        let Some(chunk) = self.chunks.front() else { return };
        let written = &chunk.lines[..self.front_written];
        let line = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.state.waiting_bytes += self.front_written - line;
        self.front_written = line;
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
