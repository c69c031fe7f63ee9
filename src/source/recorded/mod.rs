//! Recorded inputs as a source: captures, texts and tables with records, ranges of topics, cut into ticks by event time.
//!
//! - `part`: the parts of an input, and the order in which ticks take them: `file` (`capture`, `table` or `text`),
//!   `partition`.
//! - `intake`: the records of messages, decoded and counted (`tally`); `gather`: those of one tick.
//! - `events`: the ticks on their way to the leader.
//!
//! A thread of its own reads and combines the records of each tick, so that a silent pipe delays nobody else. It sends a
//! tick when all parts have come to a later one.

mod capture;
mod events;
mod file;
mod gather;
mod intake;
mod part;
mod partition;
mod table;
mod tally;
mod text;

use std::sync::{Arc, OnceLock};

use anyhow::Context;

use super::{Demand, Source, TickRecords};
use crate::base::error::Failure;
use crate::base::terminal::{Messages, Work};
use crate::capture::Reader;
use crate::computation::EventTimeReached;
use crate::files::InputFile;
use crate::kafka::BoundedTopic;
use capture::CapturePart;
use events::{Disconnected, Event, EventReceiver, EventSender, Tick};
use file::FilePart;
use gather::Gather;
use intake::Notices;
use part::{Part, Parts, Progress};
use partition::MESSAGE_WORK;

pub use events::End;
pub use gather::TickRules;
pub use intake::{RecordRules, TableRules};
pub use tally::RecordTally;

/// The summary of an input, which is there once all of it is read.
pub type Summary = Arc<OnceLock<End>>;

/// Everything that is read.
pub enum Inputs {
    /// Captures that are known to be captures.
    Captures(Vec<Reader>),
    /// Files and topics.
    Any {
        /// Captures, tables, and texts with records.
        files: Vec<InputFile>,
        /// Ranges of topics.
        topics: Vec<BoundedTopic>,
        /// The rules for records that are in no capture.
        rules: RecordRules,
    },
}

impl Inputs {
    /// Returns the work that reading is, for a progress bar.
    pub fn work(&self) -> Work {
        let (sizes, topics): (Vec<Option<u64>>, &[BoundedTopic]) = match self {
            Inputs::Captures(readers) => (readers.iter().map(Reader::size_hint).collect(), &[]),
            Inputs::Any { files, topics, .. } => {
                (files.iter().map(InputFile::size_hint).collect(), topics)
            }
        };
        let bytes: Option<u64> = sizes.into_iter().sum();
        match topics {
            [] => Work::Bytes(bytes),
            topics => {
                let messages: u64 = topics.iter().map(BoundedTopic::size).sum();
                Work::Shares(bytes.map(|bytes| bytes.saturating_add(messages * MESSAGE_WORK)))
            }
        }
    }

    fn parts(self, messages: &Messages) -> Result<Vec<Box<dyn Part>>, Failure> {
        let (progress, notices) = (Progress::new(messages), Notices::new(messages));
        let mut parts: Vec<Box<dyn Part>> = Vec::new();
        match self {
            Inputs::Captures(readers) => {
                for reader in readers {
                    parts.push(Box::new(CapturePart::new(reader, progress.of_part())));
                }
            }
            Inputs::Any { files, topics, rules } => {
                let is_parked = files.len() > FILES_OPEN_MAX;
                for file in files {
                    let progress = progress.of_part();
                    let mut part = FilePart::new(file, is_parked, &rules, &notices, progress);
                    if !rules.tables.columns.is_empty() {
                        part.check()?;
                    }
                    parts.push(Box::new(part));
                }
                for topic in topics {
                    for part in partition::open_all(&topic, &rules, &notices, &progress)? {
                        parts.push(Box::new(part));
                    }
                }
            }
        }
        Ok(parts)
    }
}

/// Most files that are all open at once, if they are as far apart in time as can be.
const FILES_OPEN_MAX: usize = 64;

/// A recorded input that is read.
pub struct Recorded {
    events: EventReceiver,
    /// The first tick that was not taken.
    next: Option<Tick>,
    summary: Summary,
}

impl Recorded {
    /// Begins to read, and wakes this thread when a tick is complete. `summary` is set when all is read. The thread that
    /// reads ends when `Recorded` is dropped, at the latest when its next record has come.
    ///
    /// # Errors
    /// A topic can't be read, or the thread can't be started.
    pub fn read(
        inputs: Inputs,
        rules: TickRules,
        messages: &Messages,
        summary: &Summary,
    ) -> Result<Self, Failure> {
        let has_topics = matches!(&inputs, Inputs::Any { topics, .. } if !topics.is_empty());
        let parts = Parts::new(inputs.parts(messages)?, has_topics);
        let reading = std::thread::current();
        let (sender, events) = events::channel();
        let reader = TickReader { parts, gather: Gather::new(rules), sender };
        std::thread::Builder::new()
            .name("reader".into())
            .spawn(move || reader.run(|| reading.unpark()))
            .context("starting the thread that reads")?;
        Ok(Recorded { events, next: None, summary: summary.clone() })
    }

    /// Whether everything is read. The ticks may not all be taken.
    fn has_ended(&self) -> bool {
        self.summary.get().is_some()
    }
}

impl Source for Recorded {
    fn demand(&mut self, _: EventTimeReached) -> Result<Demand, Failure> {
        if self.next.is_none() && !self.has_ended() {
            match self.events.try_next() {
                Some(Event::Tick(tick)) => self.next = Some(tick),
                Some(Event::End(end)) => drop(self.summary.set(*end)),
                Some(Event::Failed(failure)) => return Err(failure),
                // The reader reports its end, or ends the process.
                None => return Ok(Demand::None),
            }
        }
        Ok(self.next.as_ref().map_or(Demand::Ended, |next| Demand::TickAt(next.tick)))
    }

    fn take_records(&mut self, tick: u64) -> TickRecords {
        let Some(Tick { tick, update_batches, seen }) = self.next.take_if(|next| next.tick <= tick)
        else {
            return TickRecords::default();
        };
        TickRecords { update_batches, seen, greatest: Some(tick), ..TickRecords::default() }
    }
}

/// The thread that reads.
struct TickReader {
    parts: Parts,
    gather: Gather,
    sender: EventSender,
}

impl TickReader {
    fn run(mut self, wake: impl Fn()) {
        loop {
            let (event, is_last) = match self.parts.next_tick(&mut self.gather) {
                Ok(Some(tick)) => (Event::Tick(tick), false),
                Ok(None) => (Event::End(Box::new(self.parts.summary())), true),
                Err(failure) => (Event::Failed(failure), true),
            };
            let sent: Result<(), Disconnected> = self.sender.send(event);
            wake();
            if is_last || sent.is_err() {
                return;
            }
        }
    }
}
