//! Where records go: what every way out does, and the one to a file or standard output.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::Failure;
use crate::output::{Sink, WriteError};
use crate::record::{Record, write_json, write_kv};

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Many records in one message: compact and fast; only to a topic
    Packed,
    /// One record a message: the key is source and destination, the value the length
    Kv,
    /// One record a message or a line, as a JSON object
    Json,
}

/// What has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Records that were taken.
    pub records: u64,
    /// Their packets.
    pub packets: u64,
    /// Their bytes, as they were on the wire.
    pub bytes: u64,
    /// Messages or lines that have arrived.
    pub messages: u64,
    /// The bytes of these.
    pub message_bytes: u64,
    /// Records that are in no message, since no reader would take them.
    pub unsendable: u64,
}

impl Sent {
    /// Counts a record that was taken.
    pub fn count(&mut self, record: &Record) {
        self.records += 1;
        self.packets = self.packets.saturating_add(record.volume.packets.unsigned_abs());
        self.bytes = self.bytes.saturating_add(record.volume.bytes.unsigned_abs());
    }
}

/// A way out. It never waits but in [`Outlet::finish`].
pub trait Outlet {
    /// Takes records.
    fn take(&mut self, records: &[Record]) -> Result<(), WriteError>;
    /// Takes a record that is to be written as this text.
    fn take_text(&mut self, record: &Record, text: &[u8]) -> Result<(), WriteError>;
    /// What is taken from now on came from this partition of another topic.
    fn begin_partition(&mut self, _partition: i32) {}
    /// Why a record of this time can't be sent, if that is so.
    fn unfit(&mut self, _time_ms: u64) -> Option<Failure> {
        None
    }
    /// Sends off all it holds, without waiting, and says whether all that was taken has arrived.
    fn settle(&mut self) -> Result<bool, WriteError>;
    /// Goes on with what it has taken, if something can be done now. To be called often.
    fn poll(&mut self) -> Result<(), WriteError>;
    /// When it wants to be polled, if it has to do something at a certain time.
    fn due(&self) -> Option<Instant>;
    /// Whether it should be given no more for now.
    fn is_full(&self) -> bool;
    /// Since when it reaches nobody, if that is so.
    fn unreachable_since(&self) -> Option<Instant>;
    /// Waits until all has arrived. `give_up` is asked from time to time whether to wait on.
    fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), WriteError>;
    /// What has left so far.
    fn sent(&self) -> Sent;
}

/// Lines in a file, or on standard output.
pub struct Lines {
    sink: Sink,
    format: Format,
    linger: Duration,
    /// When the first line that was not flushed was written.
    since: Option<Instant>,
    sent: Sent,
    key: Vec<u8>,
    line: Vec<u8>,
}

impl Lines {
    /// Opens a file for writing, or standard output for `-`. A line waits for at most `linger`.
    pub fn open(path: &Path, format: Format, linger: Duration) -> Result<Self, Failure> {
        let (sent, since) = (Sent::default(), None);
        let (key, line) = (Vec::new(), Vec::new());
        Ok(Lines { sink: Sink::open(path)?, format, linger, since, sent, key, line })
    }
}

impl Outlet for Lines {
    fn take(&mut self, records: &[Record]) -> Result<(), WriteError> {
        let Lines { sink, format, sent, key, line, .. } = self;
        for record in records {
            key.clear();
            line.clear();
            match format {
                Format::Json | Format::Packed => write_json(record, key, line),
                Format::Kv => {
                    write_kv(record, key, line);
                    key.push(b' ');
                    line.splice(0..0, key.iter().copied());
                }
            }
            line.push(b'\n');
            sink.write(|out| out.write_all(line))?;
            sent.count(record);
            sent.messages += 1;
            sent.message_bytes += line.len() as u64;
        }
        if !records.is_empty() {
            self.since.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    fn take_text(&mut self, record: &Record, text: &[u8]) -> Result<(), WriteError> {
        self.sink.write(|out| {
            out.write_all(text)?;
            out.write_all(b"\n")
        })?;
        self.sent.count(record);
        self.sent.messages += 1;
        self.sent.message_bytes += text.len() as u64 + 1;
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn settle(&mut self) -> Result<bool, WriteError> {
        self.since = None;
        self.sink.flush()?;
        Ok(true)
    }

    fn poll(&mut self) -> Result<(), WriteError> {
        if self.due().is_some_and(|due| Instant::now() >= due) {
            self.since = None;
            self.sink.flush()?;
        }
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + self.linger)
    }

    fn is_full(&self) -> bool {
        false
    }

    fn unreachable_since(&self) -> Option<Instant> {
        None
    }

    fn finish(&mut self, _: &mut dyn FnMut() -> bool) -> Result<(), WriteError> {
        self.sink.flush()
    }

    fn sent(&self) -> Sent {
        self.sent
    }
}
