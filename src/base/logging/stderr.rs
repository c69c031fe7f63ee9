//! The log on standard error, written by a thread of its own: a collector that stops reading, or a full disk,
//! must not block the threads that log.
//!
//! As long as the log is read, a logging thread waits until its line is written, so that no line is missing
//! however the process ends. Once a line was not written in time, lines wait in a queue; those beyond its
//! bound are dropped and counted, and the log reports their number when it is read again.
//!
//! The non-blocking writer of `tracing-appender` bounds lines, not bytes, and never waits: an abort, as after a
//! panic of a worker, would lose the lines that say why.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Time limit for writing a line; after it the reader counts as absent.
const WRITE_TIMEOUT: Duration = Duration::from_millis(200);

/// Bytes of lines that may wait for an absent reader.
const QUEUE_BYTES: usize = 1 << 20;

/// Time limit for writing the queued lines at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The number of lines that were dropped.
static DROPPED: AtomicU64 = AtomicU64::new(0);

static LOG: OnceLock<Log> = OnceLock::new();

/// Returns the number of dropped lines.
pub(super) fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Waits briefly until all lines are written, since the process exits.
pub(super) fn flush() {
    if let Some(log) = LOG.get() {
        log.flush(FLUSH_TIMEOUT);
    }
}

/// Makes writers of lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToStderr;

impl ToStderr {
    /// Starts the thread that writes.
    pub(super) fn start() -> Self {
        let log = LOG.get_or_init(Log::default);
        let thread = std::thread::Builder::new().name("log".into());
        if log.lock().writer.is_none()
            && let Ok(thread) = thread.spawn(|| log.write_all(&mut io::stderr()))
        {
            log.lock().writer = Some(thread.thread().id());
        }
        ToStderr
    }
}

impl MakeWriter<'_> for ToStderr {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        ToStderr
    }
}

impl Write for ToStderr {
    /// Accepts a line as a whole. It never fails, since there is nowhere to report an error.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match LOG.get() {
            Some(log) => log.accept(line),
            None => drop(io::stderr().write_all(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines to write.
#[derive(Debug, Default)]
struct Log {
    queue: Mutex<Queue>,
    /// A line was accepted, or written.
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Numbers of lines accepted, and of those written or given up.
    accepted: u64,
    handled: u64,
    /// Whether the last line was not written in time.
    stuck: bool,
    /// Lines dropped since the log was last written.
    dropped: u64,
    /// The thread that writes, which must not wait for itself.
    writer: Option<ThreadId>,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, line: &[u8]) {
        let mut queue = self.lock();
        let Some(writer) = queue.writer else {
            drop(queue);
            let _ = io::stderr().write_all(line);
            return;
        };
        if queue.bytes + line.len() > QUEUE_BYTES && !queue.lines.is_empty() {
            queue.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_owned());
        queue.accepted += 1;
        let number = queue.accepted;
        self.moved.notify_all();
        if queue.stuck || writer == std::thread::current().id() {
            return;
        }
        let mut queue = self.wait_until(queue, WRITE_TIMEOUT, |queue| queue.handled >= number);
        queue.stuck |= queue.handled < number;
    }

    fn flush(&self, timeout: Duration) {
        let queue = self.lock();
        if queue.writer != Some(std::thread::current().id()) {
            drop(self.wait_until(queue, timeout, |queue| queue.handled >= queue.accepted));
        }
    }

    fn wait_until<'a>(
        &self,
        mut queue: MutexGuard<'a, Queue>,
        timeout: Duration,
        holds: impl Fn(&Queue) -> bool,
    ) -> MutexGuard<'a, Queue> {
        let until = Instant::now() + timeout;
        while !holds(&queue) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.moved.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue
    }

    /// Runs the thread that writes.
    fn write_all(&self, to: &mut dyn Write) {
        let mut queue = self.lock();
        loop {
            while let Some(line) = queue.lines.pop_front() {
                drop(queue);
                let written = to.write_all(&line).and_then(|()| to.flush());
                queue = self.lock();
                queue.bytes -= line.len();
                queue.handled += 1;
                if written.is_err() {
                    // The reader has disconnected, or the disk is full.
                    queue.dropped += 1;
                    DROPPED.fetch_add(1, Ordering::Relaxed);
                } else if queue.dropped > 0 && queue.lines.is_empty() {
                    let lines = std::mem::take(&mut queue.dropped);
                    drop(queue);
                    tracing::warn!(
                        lines,
                        "{lines} lines of the log were dropped: standard error accepted none"
                    );
                    queue = self.lock();
                }
                self.moved.notify_all();
            }
            queue.stuck = false;
            queue = self.moved.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader};
    use std::sync::Arc;

    use super::*;

    fn log() -> (Arc<Log>, BufReader<PipeReader>) {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let log = Arc::new(Log::default());
        let writes = log.clone();
        let thread = std::thread::spawn(move || writes.write_all(&mut writer));
        log.lock().writer = Some(thread.thread().id());
        (log, BufReader::new(reader))
    }

    #[test]
    fn unread_log_drops_lines_beyond_its_bound_without_blocking() {
        let (log, mut reader) = log();
        let line = [vec![b'x'; 999], b"\n".to_vec()].concat();
        // Twice the capacity of the queue and the pipe.
        let lines = 2 * (QUEUE_BYTES + (64 << 10)) / line.len();
        let began = Instant::now();
        for _ in 0..lines {
            log.accept(&line);
        }
        // Waiting for each would take minutes.
        assert!(began.elapsed() < Duration::from_secs(30));
        let accepted = log.lock().accepted as usize;
        assert!(log.lock().stuck && accepted < lines);
        assert_eq!(log.lock().dropped as usize, lines - accepted);
        for _ in 0..accepted {
            let mut read = Vec::new();
            reader.read_until(b'\n', &mut read).expect("a line");
            assert_eq!(read, line);
        }
    }

    #[test]
    fn accepted_line_is_written_when_the_call_returns() {
        let (log, mut reader) = log();
        for number in 0..100 {
            log.accept(format!("{number}\n").as_bytes());
            log.flush(Duration::from_secs(60));
            let mut read = String::new();
            reader.read_line(&mut read).expect("a line");
            assert_eq!(read, format!("{number}\n"));
        }
    }

    #[test]
    fn line_without_a_reader_is_counted_as_dropped() {
        let (log, reader) = log();
        drop(reader);
        for _ in 0..3 {
            log.accept(b"nobody reads this\n");
        }
        log.flush(Duration::from_secs(60));
        assert_eq!(log.lock().dropped, 3);
    }
}
