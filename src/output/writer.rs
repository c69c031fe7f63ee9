//! A byte stream that is written by a thread of its own, so that its users never wait.
//!
//! Lines wait in a queue, which stays bounded if its users check [`Writer::has_capacity`] before the next tick.
//! The thread writes them in their order, and tries again for as long as something is in its way.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::target::{Obstacle, Target};
use crate::base::error::{Exit, Failure};

/// Bytes that may wait when another tick begins: as many as for a topic.
pub const QUEUE_BYTES: usize = 64 << 20;

/// Pause between a failure and the next attempt.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which the thread looks for a reader.
const READER_INTERVAL: Duration = Duration::from_millis(100);

/// Interval at which an idle thread checks the other end of its pipe.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Standard output, a FIFO, a device or a file, written by a thread of its own.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

/// The reason why nothing is written although lines wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A FIFO has no reader; known also while no line waits.
    NoReader,
    /// The reader takes nothing.
    NotRead,
    /// Writing fails, with this error; it is tried again.
    Failed(String),
}

/// The state of a writer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterState {
    /// Bytes that were accepted and not written.
    pub waiting_bytes: usize,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// The newest tick of which all lines are written.
    pub newest_durable: Option<u64>,
    /// When the oldest of the waiting lines was accepted.
    pub waiting_since: Option<Instant>,
    /// The reason why nothing is written at the moment.
    pub trouble: Option<Trouble>,
    /// The error after which nothing can be written any more: the reader has gone.
    pub closed: Option<String>,
    /// Whether it is a regular file, which has no reader.
    pub is_file: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are written.
    begun: usize,
    /// Whether lines were accepted since the last tick ended.
    tick_has_lines: bool,
    /// Whether the writer was stopped: the lines are no longer needed.
    stopped: bool,
    state: WriterState,
}

/// Some lines of one tick.
#[derive(Debug)]
struct Chunk {
    /// The tick whose last lines these are, if it has ended.
    ends: Option<u64>,
    lines: Arc<Vec<u8>>,
    accepted: Instant,
}

impl Writer {
    /// Writes to standard output.
    pub fn stdout() -> Result<Self, Failure> {
        let target = Target::stdout().context("writing to standard output");
        Writer::start(target.map_err(|error| Failure::new(Exit::Failed, error))?)
    }

    /// Writes to the target of a name, and follows the name when it stands for another file. A FIFO may be
    /// without a reader.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let target = Target::open(path).with_context(|| format!("opening \"{}\"", path.display()));
        Writer::start(target.map_err(|error| Failure::new(Exit::Failed, error))?)
    }

    /// Writes to a file that is made or emptied, or to standard output for `-`.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let target = Target::create(path);
        let target = target.with_context(|| format!("creating \"{}\"", path.display()));
        Writer::start(target.map_err(|error| Failure::new(Exit::Failed, error))?)
    }

    fn start(mut target: Target) -> Result<Self, Failure> {
        let shared = Arc::new(Shared::default());
        shared.lock().state.is_file = target.is_file();
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
            None => queue.state.newest_durable = Some(tick),
        }
    }

    /// Whether the lines of another tick may be accepted.
    pub fn has_capacity(&self) -> bool {
        self.shared.lock().state.waiting_bytes < QUEUE_BYTES
    }

    /// Returns the state now.
    pub fn state(&self) -> WriterState {
        let queue = self.shared.lock();
        let waiting_since = queue.chunks.front().map(|chunk| chunk.accepted);
        WriterState { waiting_since, ..queue.state.clone() }
    }

    /// Accepts and writes nothing more. Returns how many lines were accepted and not written.
    pub fn stop(&self) -> u64 {
        let mut queue = self.shared.lock();
        queue.stopped = true;
        let mut begun = std::mem::take(&mut queue.begun);
        let unwritten = queue.chunks.drain(..).map(|chunk| {
            let rest = &chunk.lines[std::mem::take(&mut begun)..];
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes lines until the writer is stopped or the reader has gone: the work of the thread.
    fn write_all(&self, target: &mut Target) {
        loop {
            let queue = self.lock();
            let next = queue.chunks.front().map(|chunk| (chunk.lines.clone(), queue.begun));
            if queue.stopped || queue.state.closed.is_some() {
                return;
            }
            drop(queue);
            match next {
                Some((lines, begun)) => {
                    let (written, obstacle) = target.write(&lines[begun..]);
                    self.advance(written, obstacle, target.is_file());
                }
                None => self.idle(target.look()),
            }
        }
    }

    /// Notes the result of a write, and pauses if there was an obstacle.
    fn advance(&self, written: usize, obstacle: Option<Obstacle>, is_file: bool) {
        let mut queue = self.lock();
        if queue.stopped {
            return;
        }
        queue.begun += written;
        queue.state.waiting_bytes -= written;
        queue.state.written_bytes += written as u64;
        queue.state.is_file = is_file;
        if matches!(obstacle, Some(Obstacle::NoReader)) {
            queue.repeat_line();
        }
        if queue.chunks.front().is_some_and(|chunk| chunk.lines.len() == queue.begun) {
            queue.begun = 0;
            let ends = queue.chunks.pop_front().and_then(|chunk| chunk.ends);
            queue.state.newest_durable = ends.or(queue.state.newest_durable);
        }
        let pause = queue.hindered(obstacle);
        self.pause(queue, pause, |_| false);
    }

    /// Waits for lines.
    fn idle(&self, obstacle: Option<Obstacle>) {
        let mut queue = self.lock();
        let pause = match queue.hindered(obstacle) {
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
    /// Notes the obstacle, if any. Returns how long to wait before the next attempt.
    fn hindered(&mut self, obstacle: Option<Obstacle>) -> Duration {
        let (trouble, pause) = match obstacle {
            None => (None, Duration::ZERO),
            Some(Obstacle::NoReader) => (Some(Trouble::NoReader), READER_INTERVAL),
            // The write has waited already, unless others fill the pipe, too.
            Some(Obstacle::NotRead) => (Some(Trouble::NotRead), Duration::from_millis(1)),
            Some(Obstacle::Failed(error)) => {
                (Some(Trouble::Failed(error.to_string())), RETRY_INTERVAL)
            }
            Some(Obstacle::Closed(error)) => {
                self.state.closed = Some(error.to_string());
                (None, Duration::ZERO)
            }
        };
        self.state.trouble = trouble;
        pause
    }

    /// Returns to the beginning of the current line, so that the next reader gets all of it.
    fn repeat_line(&mut self) {
        let Some(chunk) = self.chunks.front() else { return };
        let begun = &chunk.lines[..self.begun];
        let line = begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.state.waiting_bytes += self.begun - line;
        self.begun = line;
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
