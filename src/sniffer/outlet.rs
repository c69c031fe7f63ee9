//! The interface of all outlets of records, and the outlet to a file or standard output.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::base::error::{Exit, Failure};
use crate::kafka::TopicTrouble;
use crate::output::WriteError;
use crate::output::writer::{Trouble, Writer};
use crate::record::{Record, write_json, write_kv};

/// Format of records in messages and lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Many records in one message: compact and fast; only to a topic.
    Packed,
    /// One record a message: the key is source and destination, the value the length.
    Kv,
    /// One record a message or a line, as a JSON object.
    Json,
}

/// Counts of the records and messages of an outlet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Records that were taken.
    pub records: u64,
    /// Their packets.
    pub packets: u64,
    /// Their bytes, as they were on the wire.
    pub bytes: u64,
    /// Messages or lines that were delivered.
    pub messages: u64,
    /// The bytes of these.
    pub message_bytes: u64,
    /// Records dropped without a message, since no reader would accept them.
    pub unsendable: u64,
    /// Messages that the broker refused for good.
    pub refused: u64,
}

impl Sent {
    /// Counts a record that was taken.
    pub fn count(&mut self, record: &Record) {
        self.records += 1;
        self.packets = self.packets.saturating_add(record.volume.packets.unsigned_abs());
        self.bytes = self.bytes.saturating_add(record.volume.bytes.unsigned_abs());
    }
}

/// A destination of records. Only [`Outlet::finish`] waits.
pub trait Outlet {
    /// Takes records.
    fn take(&mut self, records: &[Record]) -> Result<(), WriteError>;
    /// Takes a record, to be written as this text.
    fn take_text(&mut self, record: &Record, text: &[u8]) -> Result<(), WriteError>;
    /// Notes that records taken from now on came from this partition of another topic.
    fn begin_partition(&mut self, _partition: i32) {}
    /// Returns the reason why a record of this time can't be sent, if there is one.
    fn unfit(&mut self, _time_ms: u64) -> Option<Failure> {
        None
    }
    /// Sends all it holds, without waiting. Returns whether everything taken was delivered.
    fn settle(&mut self) -> Result<bool, WriteError>;
    /// Continues with the records taken, as far as it can without waiting. Must be called often.
    fn poll(&mut self) -> Result<(), WriteError>;
    /// Returns the time of the next poll that it needs, if any.
    fn due(&self) -> Option<Instant>;
    /// Whether it is full, so that the caller should give it no records for now.
    fn is_full(&self) -> bool;
    /// Returns the time since which no broker, or reader, could be reached; `None` if one can be.
    fn unreachable_since(&self) -> Option<Instant>;
    /// The text logged when the output stops taking anything.
    fn unreachable(&self) -> &'static str {
        "no broker can be reached"
    }
    /// The text logged when the output goes on.
    fn reachable(&self) -> &'static str {
        "a broker can be reached again"
    }
    /// Returns the reason why it sends nothing although brokers can be reached, if there is one.
    fn trouble(&self) -> Option<TopicTrouble> {
        None
    }
    /// Waits until everything is delivered. Calls `give_up` from time to time, and stops waiting if it returns
    /// true.
    fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), WriteError>;
    /// Returns the counts so far.
    fn sent(&self) -> Sent;
}

/// Bytes of lines that are handed over at once.
const CHUNK_BYTES: usize = 1 << 16;

/// Interval at which the shutdown checks whether all lines are written.
const FINISH_INTERVAL: Duration = Duration::from_millis(5);

/// Interval at which the shutdown checks for an interrupt.
const GIVE_UP_INTERVAL: Duration = Duration::from_millis(100);

/// Time after which lines that wait are reported as unread.
const READER_PATIENCE: Duration = Duration::from_secs(1);

/// Time limit for writing the remaining lines of a command that fails.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// Lines in a file, or on standard output.
pub struct Lines {
    writer: Writer,
    /// The name in messages.
    name: String,
    format: Format,
    linger: Duration,
    /// When the first line was taken that is not handed over.
    since: Option<Instant>,
    sent: Sent,
    key: Vec<u8>,
    /// Lines that are not handed over.
    lines: Vec<u8>,
    /// Bytes written when they last became more, and since when they do not although some wait.
    written: (u64, Option<Instant>),
}

impl Lines {
    /// Opens a file for writing, or standard output for `-`. A line waits for at most `linger`.
    pub fn open(path: &Path, format: Format, linger: Duration) -> Result<Self, Failure> {
        let name = match path == Path::new("-") {
            true => "standard output".to_owned(),
            false => format!("\"{}\"", path.display()),
        };
        Ok(Lines {
            writer: Writer::create(path)?,
            name,
            format,
            linger,
            since: None,
            sent: Sent::default(),
            key: Vec::new(),
            lines: Vec::new(),
            written: (0, None),
        })
    }

    /// Counts a record whose line is complete.
    fn count(&mut self, record: &Record, line_bytes: usize) {
        self.sent.count(record);
        self.sent.messages += 1;
        self.sent.message_bytes += line_bytes as u64;
        self.since.get_or_insert_with(Instant::now);
        if self.lines.len() >= CHUNK_BYTES {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        self.since = None;
        self.writer.accept(std::mem::take(&mut self.lines));
    }

    /// Looks at what was written. Returns whether that is all.
    fn look(&mut self) -> Result<bool, WriteError> {
        let state = self.writer.state();
        if state.closed.is_some() {
            return Err(WriteError::Closed);
        }
        if let Some(Trouble::Failed(error)) = state.trouble {
            let error = anyhow!(error).context(format!("writing to {}", self.name));
            return Err(WriteError::Failed(Failure::new(Exit::Failed, error)));
        }
        let waits = state.waiting_bytes > 0;
        let since = match self.written {
            (written, since) if waits && written == state.written_bytes => {
                Some(since.unwrap_or_else(Instant::now))
            }
            _ => None,
        };
        self.written = (state.written_bytes, since);
        Ok(!waits)
    }
}

impl Drop for Lines {
    /// Writes the lines accepted before another part failed, as long as the output takes them.
    fn drop(&mut self) {
        let began = Instant::now();
        let _ = self.finish(&mut || began.elapsed() >= DROP_TIMEOUT);
    }
}

impl Outlet for Lines {
    fn take(&mut self, records: &[Record]) -> Result<(), WriteError> {
        for record in records {
            let Lines { format, key, lines, .. } = self;
            let begin = lines.len();
            key.clear();
            match format {
                Format::Json | Format::Packed => write_json(record, key, lines),
                Format::Kv => {
                    write_kv(record, key, lines);
                    key.push(b' ');
                    lines.splice(begin..begin, key.iter().copied());
                }
            }
            lines.push(b'\n');
            let line_bytes = lines.len() - begin;
            self.count(record, line_bytes);
        }
        Ok(())
    }

    fn take_text(&mut self, record: &Record, text: &[u8]) -> Result<(), WriteError> {
        self.lines.extend_from_slice(text);
        self.lines.push(b'\n');
        self.count(record, text.len() + 1);
        Ok(())
    }

    fn settle(&mut self) -> Result<bool, WriteError> {
        self.hand_over();
        self.look()
    }

    fn poll(&mut self) -> Result<(), WriteError> {
        if self.due().is_some_and(|due| Instant::now() >= due) {
            self.hand_over();
        }
        self.look().map(drop)
    }

    fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + self.linger)
    }

    fn is_full(&self) -> bool {
        !self.writer.has_capacity()
    }

    fn unreachable_since(&self) -> Option<Instant> {
        self.written.1.filter(|since| since.elapsed() >= READER_PATIENCE)
    }

    fn unreachable(&self) -> &'static str {
        "nobody reads the output"
    }

    fn reachable(&self) -> &'static str {
        "the output is read again"
    }

    fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), WriteError> {
        self.hand_over();
        let mut asked = Instant::now();
        while !self.look()? {
            std::thread::sleep(FINISH_INTERVAL);
            if asked.elapsed() < GIVE_UP_INTERVAL {
                continue;
            }
            asked = Instant::now();
            if give_up() {
                let lines = self.writer.stop();
                let error = anyhow!("{lines} lines could not be written to {}", self.name);
                return Err(WriteError::Failed(Failure::new(Exit::Failed, error)));
            }
        }
        Ok(())
    }

    fn sent(&self) -> Sent {
        self.sent
    }
}
