//! The interface of all outlets of records, and the outlet to a file or standard output.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::base::error::{Exit, Failure};
use crate::kafka::TopicFault;
use crate::output::WriteError;
use crate::output::writer::{Writer, WriterFault};
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
    /// Accepted records.
    pub records: u64,
    /// Packets of these records.
    pub packets: u64,
    /// Bytes of these records on the wire.
    pub bytes: u64,
    /// Messages or lines that were delivered.
    pub messages: u64,
    /// Bytes of these messages or lines.
    pub message_bytes: u64,
    /// Records dropped without a message, since every reader would reject them.
    pub unsendable: u64,
    /// Messages that the broker refused for good.
    pub refused: u64,
}

impl Sent {
    /// Counts an accepted record.
    pub fn count(&mut self, record: &Record) {
        self.records += 1;
        self.packets = self.packets.saturating_add(record.volume.packets.unsigned_abs());
        self.bytes = self.bytes.saturating_add(record.volume.bytes.unsigned_abs());
    }
}

/// A destination of records. Only [`Outlet::finish`] waits.
pub trait Outlet {
    /// Accepts records.
    fn accept(&mut self, records: &[Record]) -> Result<(), WriteError>;
    /// Accepts a record, to be written as this text.
    fn accept_text(&mut self, record: &Record, text: &[u8]) -> Result<(), WriteError>;
    /// Notes that the following records came from this partition of another topic.
    fn begin_partition(&mut self, _partition: i32) {}
    /// Returns the reason why a record of this time can't be sent, if there is one.
    fn unfit(&mut self, _time_ms: u64) -> Option<Failure> {
        None
    }
    /// Sends all buffered records, without waiting. Returns whether all accepted records were delivered.
    fn flush(&mut self) -> Result<bool, WriteError>;
    /// Makes progress with the accepted records, without waiting. Must be called often.
    fn poll(&mut self) -> Result<(), WriteError>;
    /// Returns the time by which it must be polled, if there is one.
    fn due(&self) -> Option<Instant>;
    /// Whether it is full, so that the caller must send no records for now.
    fn is_full(&self) -> bool;
    /// Returns the time since which no broker, or reader, could be reached; `None` if one can be.
    fn unreachable_since(&self) -> Option<Instant>;
    /// Returns the text logged when the output stops accepting anything.
    fn unreachable(&self) -> &'static str {
        "no broker can be reached"
    }
    /// Returns the text logged when the output accepts again.
    fn reachable(&self) -> &'static str {
        "a broker can be reached again"
    }
    /// Returns the reason why it sends nothing although brokers can be reached, if there is one.
    fn topic_fault(&self) -> Option<TopicFault> {
        None
    }
    /// Waits until everything is delivered. Calls `give_up` from time to time, and stops waiting if it returns
    /// true.
    fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), WriteError>;
    /// Returns the counts so far.
    fn sent(&self) -> Sent;
}

/// Bytes of lines that are handed to the writer at once.
const CHUNK_BYTES: usize = 1 << 16;

/// Interval at which the shutdown checks whether all lines are written.
const FINISH_INTERVAL: Duration = Duration::from_millis(5);

/// Interval at which the shutdown checks for an interrupt.
const GIVE_UP_INTERVAL: Duration = Duration::from_millis(100);

/// Time after which waiting lines are reported as unread.
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
    /// The time at which the oldest line in `lines` was accepted.
    since: Option<Instant>,
    sent: Sent,
    key: Vec<u8>,
    /// Lines that the writer has not got yet.
    lines: Vec<u8>,
    /// The number of bytes written, and the time since which it has not grown although bytes wait.
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

    /// Checks the state of the writer. Returns whether all lines are written.
    fn check_writer(&mut self) -> Result<bool, WriteError> {
        let state = self.writer.state();
        if state.closed.is_some() {
            return Err(WriteError::Closed);
        }
        if let Some(WriterFault::Failed(error)) = state.fault {
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
    fn accept(&mut self, records: &[Record]) -> Result<(), WriteError> {
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

    fn accept_text(&mut self, record: &Record, text: &[u8]) -> Result<(), WriteError> {
        self.lines.extend_from_slice(text);
        self.lines.push(b'\n');
        self.count(record, text.len() + 1);
        Ok(())
    }

    fn flush(&mut self) -> Result<bool, WriteError> {
        self.hand_over();
        self.check_writer()
    }

    fn poll(&mut self) -> Result<(), WriteError> {
        if self.due().is_some_and(|due| Instant::now() >= due) {
            self.hand_over();
        }
        self.check_writer().map(drop)
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
        let mut checked = Instant::now();
        while !self.check_writer()? {
            std::thread::sleep(FINISH_INTERVAL);
            if checked.elapsed() < GIVE_UP_INTERVAL {
                continue;
            }
            checked = Instant::now();
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
