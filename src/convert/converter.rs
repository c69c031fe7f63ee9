//! Reads the records of messages, and writes them to an outlet in another format.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::CAPACITY_PAUSE;
use crate::base::date::format_ms;
use crate::base::error::Failure;
use crate::base::logging::Sampler;
use crate::kafka::{BufferedProducer, Contents, OwnedMessage, origin};
use crate::output::WriteError;
use crate::record::{Decoder, Fields, Message, Observation, Record, RecordError, write_json};
use crate::sniffer::outlet::{Format, Outlet, Sent};

/// Time for which an outlet may be unreachable before the log reports an outage.
const OUTAGE_PATIENCE: Duration = Duration::from_secs(5);

/// Number of messages between two polls of the outlet.
const POLL_MESSAGES: u32 = 256;

/// The rules for converting messages.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The reader of messages.
    pub decoder: Decoder,
    /// The format in which records are written.
    pub format: Format,
    /// The fields of the input to write, instead of floodmark's own object; only for [`Format::Json`].
    pub fields: Option<Fields>,
    /// Whether to write records of several packets in a format that has no field for their number.
    pub bytes_only: bool,
}

/// The origin of a message.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// A topic.
    Topic {
        /// The name of the topic.
        topic: &'a str,
        /// The partition.
        partition: i32,
        /// The offset in the partition.
        offset: i64,
    },
    /// A file.
    File {
        /// The name of the file.
        file: &'a str,
        /// The line, from 1.
        line: u64,
    },
}

impl Origin<'_> {
    fn headers(self) -> Vec<(&'static str, String)> {
        match self {
            Origin::Topic { topic, partition, offset } => origin(topic, partition, offset).into(),
            Origin::File { file, line } => {
                vec![("floodmark.file", file.to_owned()), ("floodmark.line", line.to_string())]
            }
        }
    }
}

/// Numbers of messages and records that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages, lines and packets.
    pub messages: u64,
    /// Records in them that were written.
    pub records: u64,
    /// The records among them that state bytes and no packets, and count as one packet.
    pub without_packets: u64,
    /// Items that are skipped on purpose since they are no records, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Messages and records that were not written, by reason.
    pub bad: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Adds the counts of another part.
    pub fn add(&mut self, other: &Counts) {
        self.messages += other.messages;
        self.records += other.records;
        self.without_packets += other.without_packets;
        for (sum, other) in [(&mut self.skipped, &other.skipped), (&mut self.bad, &other.bad)] {
            for (reason, count) in other {
                *sum.entry(reason).or_default() += count;
            }
        }
    }
}

/// Returns the total, and a text with the count of each reason.
fn by_reason(counts: &BTreeMap<&'static str, u64>) -> (u64, String) {
    let reasons: Vec<String> =
        counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    (counts.values().sum(), reasons.join(", "))
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { messages, records, without_packets, skipped, bad } = self;
        write!(f, "read {messages} messages, wrote {records} records")?;
        if *without_packets > 0 {
            write!(f, "; {without_packets} records state no packets and count as 1 packet each")?;
        }
        if !skipped.is_empty() {
            let (count, reasons) = by_reason(skipped);
            write!(f, "; skipped: {count} ({reasons})")?;
        }
        if !bad.is_empty() {
            let (count, reasons) = by_reason(bad);
            write!(f, "; not written: {count} ({reasons})")?;
        }
        Ok(())
    }
}

/// The reason why a record, or a whole message, is not written.
#[derive(Debug)]
enum Rejection {
    /// The message or record can't be read.
    Unread(RecordError),
    /// The record has several packets, and the format has no field for their number.
    Packets(i64),
    /// The sink does not accept records of this time, or would delete them at once.
    Time(u64, Failure),
    /// The line is longer than the greatest size of a message.
    TooLong,
}

impl Rejection {
    fn as_str(&self) -> &'static str {
        match self {
            Rejection::Unread(reason) => reason.as_str(),
            Rejection::Packets(_) => "packets",
            Rejection::Time(..) => "unfit_time",
            Rejection::TooLong => "too_long",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::Unread(reason) => reason.fmt(f),
            Rejection::Packets(packets) => write!(
                f,
                "it has {packets} packets, and --format kv has no field for their number: give --format \
                 json or packed, or --bytes-only to write it without the number"
            ),
            Rejection::Time(time_ms, failure) => {
                write!(f, "its time is {}: {:#}", format_ms(*time_ms), failure.error)
            }
            Rejection::TooLong => f.write_str("the line is longer than 512 KiB"),
        }
    }
}

/// The JSON objects of records, one after another.
#[derive(Debug, Default)]
struct Objects {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Objects {
    fn push(&mut self, object: &[u8]) {
        self.bytes.extend_from_slice(object);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[at]]
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Writes the records of messages to one outlet.
pub struct Converter {
    rules: Rules,
    outlet: Box<dyn Outlet + Send>,
    dead_letters: Option<BufferedProducer>,
    counts: Counts,
    sampler: Sampler,
    /// The records of the message under way.
    records: Vec<Record>,
    objects: Objects,
    /// The kind of output of floodmark that the message under way is, if it is such output and no record.
    own_output: Option<&'static str>,
    since_poll: u32,
    outage: bool,
}

impl Converter {
    /// Creates a converter to an outlet. It also sends each message with a part that is not written to `dead_letters`.
    pub fn new(
        rules: Rules,
        outlet: Box<dyn Outlet + Send>,
        dead_letters: Option<BufferedProducer>,
    ) -> Self {
        Converter {
            rules,
            outlet,
            dead_letters,
            counts: Counts::default(),
            sampler: Sampler::default(),
            records: Vec::new(),
            objects: Objects::default(),
            own_output: None,
            since_poll: 0,
            outage: false,
        }
    }

    /// Writes the records of a message, and returns the greatest event time in it.
    pub fn convert(
        &mut self,
        origin: Origin<'_>,
        message: &Message<'_>,
    ) -> Result<Option<u64>, WriteError> {
        let Converter { rules, counts, records, objects, outlet, .. } = self;
        if let Origin::Topic { partition, .. } = origin {
            outlet.begin_partition(partition);
        }
        counts.messages += 1;
        records.clear();
        objects.clear();
        // The log names the first rejection in a message; the counts have all of them.
        let mut rejected = None;
        let mut bad = |reason: RecordError, counts: &mut Counts| {
            *counts.bad.entry(reason.as_str()).or_default() += 1;
            rejected.get_or_insert(Rejection::Unread(reason));
        };
        let mut accept = |read: Observation, object: &[u8]| {
            match read {
                Observation::Record(_) => {}
                Observation::WithoutPackets(_) => counts.without_packets += 1,
                Observation::Skipped(skip) => {
                    *counts.skipped.entry(skip.as_str()).or_default() += 1
                }
                Observation::Bad(reason) => bad(reason, counts),
            }
            if let Some(record) = read.record() {
                records.push(record);
                objects.push(object);
            }
        };
        let decoded = match &rules.fields {
            None => rules.decoder.decode(message, &mut |read| accept(read, &[])),
            Some(fields) => fields.project(&rules.decoder, message, &mut accept),
        };
        if let Err(reason) = decoded {
            bad(reason, counts);
        }
        self.own_output = match &rejected {
            Some(Rejection::Unread(RecordError::OwnOutput { kind })) => Some(*kind),
            _ => None,
        };
        let (greatest, unwritten) = self.write()?;
        if let Some(why) = rejected.or(unwritten) {
            self.set_aside(origin, message, &why);
        }
        Ok(greatest)
    }

    /// Logs a message with a part that is not written, and sends the message to the dead letters.
    fn set_aside(&mut self, origin: Origin<'_>, message: &Message<'_>, why: &Rejection) {
        self.log_rejection(origin, why);
        if let Some(dead_letters) = &mut self.dead_letters {
            dead_letters.enqueue(OwnedMessage::dead(message, origin.headers(), why.as_str()));
        }
    }

    /// Counts, and sends to the dead letters, part of a text that should continue a JSON value and does not.
    pub fn reject_broken(&mut self, origin: Origin<'_>, text: &[u8]) {
        self.counts.messages += 1;
        let why = Rejection::Unread(RecordError::Json);
        *self.counts.bad.entry(why.as_str()).or_default() += 1;
        let message = Message { key: None, payload: Some(text), timestamp_ms: None };
        self.set_aside(origin, &message, &why);
    }

    /// Reports whether the last message had records, or was output of floodmark. A topic of such output is rejected.
    pub fn report_contents(&self, contents: &Contents) {
        match self.own_output {
            _ if !self.records.is_empty() => contents.saw_record(),
            Some(kind) => contents.saw_output(kind),
            None => {}
        }
    }

    /// Writes a record that did not come in a message.
    pub fn write_record(&mut self, record: Record) -> Result<(), WriteError> {
        if self.rules.fields.is_some() {
            let (mut key, mut object) = (Vec::new(), Vec::new());
            write_json(&record, &mut key, &mut object);
            let message = Message { key: None, payload: Some(&object), timestamp_ms: None };
            self.convert(Origin::File { file: "a capture", line: 0 }, &message)?;
            return Ok(());
        }
        self.counts.messages += 1;
        self.records.clear();
        self.records.push(record);
        let (_, unwritten) = self.write()?;
        if let Some(why) = unwritten {
            self.log_rejection(Origin::File { file: "a capture", line: 0 }, &why);
        }
        Ok(())
    }

    /// Counts a line that is too long to be read.
    pub fn reject_too_long(&mut self, origin: Origin<'_>) {
        self.counts.messages += 1;
        let why = Rejection::TooLong;
        *self.counts.bad.entry(why.as_str()).or_default() += 1;
        self.log_rejection(origin, &why);
    }

    /// Writes the records of the message under way. Returns their greatest time, and the first reason for which one
    /// is not written.
    fn write(&mut self) -> Result<(Option<u64>, Option<Rejection>), WriteError> {
        let Converter { rules, outlet, counts, records, objects, .. } = self;
        let mut greatest = None;
        let mut unwritten = None;
        let kv = rules.format == Format::Kv && !rules.bytes_only;
        let mut reject = |why: Rejection, counts: &mut Counts| {
            *counts.bad.entry(why.as_str()).or_default() += 1;
            unwritten.get_or_insert(why);
        };
        let mut at = 0;
        let mut failed = None;
        let mut is_fit = |record: &Record, outlet: &mut Box<dyn Outlet + Send>| {
            greatest = greatest.max(Some(record.time_ms));
            if kv && record.volume.packets != 1 {
                reject(Rejection::Packets(record.volume.packets), counts);
                return false;
            }
            if let Some(failure) = outlet.unfit(record.time_ms) {
                // If not even the first record fits, the sink is at fault and not the record.
                match counts.records {
                    0 => drop(failed.get_or_insert(failure)),
                    _ => reject(Rejection::Time(record.time_ms, failure), counts),
                }
                return false;
            }
            counts.records += 1;
            true
        };
        if rules.fields.is_some() {
            for record in &*records {
                if is_fit(record, outlet) {
                    outlet.accept_text(record, objects.get(at))?;
                }
                at += 1;
            }
        } else {
            records.retain(|record| is_fit(record, outlet));
            if failed.is_none() {
                outlet.accept(records)?;
            }
        }
        match failed {
            Some(failure) => Err(WriteError::Failed(failure)),
            None => Ok((greatest, unwritten)),
        }
    }

    /// Logs a record that is not written, with its origin; at a bounded rate for each reason.
    fn log_rejection(&mut self, origin: Origin<'_>, why: &Rejection) {
        let error = why.as_str();
        if !self.sampler.allows(error) {
            return;
        }
        match origin {
            Origin::Topic { topic, partition, offset } => {
                tracing::warn!(topic, partition, offset, error, "a record is not written: {why}");
            }
            Origin::File { file, line } => {
                tracing::warn!(file, line, error, "a record is not written: {why}");
            }
        }
    }

    /// Continues the deliveries of the outlet and the dead letters, without waiting. Must be called often.
    pub fn poll(&mut self) -> Result<(), WriteError> {
        self.since_poll = 0;
        self.outlet.poll()?;
        if let Some(dead_letters) = &mut self.dead_letters {
            dead_letters.poll().map_err(WriteError::Failed)?;
        }
        let letters = self.dead_letters.as_ref().and_then(BufferedProducer::unreachable_since);
        let since = self.outlet.unreachable_since().or(letters);
        let outage = since.is_some_and(|since| since.elapsed() >= OUTAGE_PATIENCE);
        if outage != self.outage {
            self.outage = outage;
            match (outage, &letters) {
                (true, Some(_)) => tracing::warn!("no broker can be reached; records wait"),
                (true, None) => tracing::warn!("{}; records wait", self.outlet.unreachable()),
                (false, _) => tracing::info!("records are delivered again"),
            }
        }
        Ok(())
    }

    /// Whether the outlet and the dead letters have capacity.
    pub fn has_capacity(&self) -> bool {
        !self.outlet.is_full()
            && self.dead_letters.as_ref().is_none_or(BufferedProducer::has_capacity)
    }

    /// Waits until the outlet and the dead letters have capacity; fails once `give_up` returns true.
    pub fn wait_for_capacity(&mut self, give_up: &dyn Fn() -> bool) -> Result<(), WriteError> {
        self.since_poll += 1;
        if self.since_poll >= POLL_MESSAGES {
            self.poll()?;
        }
        while !self.has_capacity() {
            if give_up() {
                let error = anyhow!("stopped before all records were delivered");
                return Err(WriteError::Failed(error.into()));
            }
            std::thread::park_timeout(CAPACITY_PAUSE);
            self.poll()?;
        }
        Ok(())
    }

    /// Returns the time by which the outlet must be polled, if there is one.
    pub fn due(&self) -> Option<Instant> {
        self.outlet.due()
    }

    /// Sends all that is buffered, without waiting, and returns whether everything is delivered.
    pub fn settle(&mut self) -> Result<bool, WriteError> {
        let settled = self.outlet.flush()?;
        self.poll()?;
        Ok(settled && self.dead_letters.as_ref().is_none_or(BufferedProducer::is_done))
    }

    /// Waits until everything is delivered, unless `give_up` returns true.
    pub fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), WriteError> {
        self.outlet.finish(give_up)?;
        self.dead_letters
            .as_mut()
            .map_or(Ok(()), |dead_letters| dead_letters.finish(give_up))
            .map_err(WriteError::Failed)
    }

    /// Returns the numbers of messages and records read so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns the numbers of records and messages written so far.
    pub fn sent(&self) -> Sent {
        self.outlet.sent()
    }
}
