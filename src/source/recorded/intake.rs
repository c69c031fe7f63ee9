//! The records of messages: decoded, without strays, and counted.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::gather::Gather;
use super::tally::RecordTally;
use crate::base::date::format_ms;
use crate::base::duration;
use crate::base::quote::Quoted;
use crate::base::strays::{Stray, StrayFilter};
use crate::base::terminal::Messages;
use crate::files::CsvForm;
use crate::record::{Column, Decoder, Message, Observation, Record, RecordError};
use jiff::tz::TimeZone;

/// Most messages that are named since they have a record that can't be read, and most strays; the others are counted.
const NAMED_MAX: u64 = 20;

/// The rules by which messages become records.
#[derive(Clone, Debug)]
pub struct RecordRules {
    /// The reader of messages.
    pub decoder: Decoder,
    /// The reader of tables.
    pub tables: TableRules,
    /// The greatest distance of a record ahead of the next one of its part, in milliseconds.
    pub max_ahead_ms: u64,
}

/// The rules by which rows of tables become records.
#[derive(Clone, Debug)]
pub struct TableRules {
    /// The columns that the user names.
    pub columns: Vec<Column>,
    /// The form of CSV.
    pub csv: CsvForm,
    /// The time zone of times without a zone.
    pub zone: TimeZone,
}

impl Default for TableRules {
    fn default() -> Self {
        TableRules { columns: Vec::new(), csv: CsvForm::default(), zone: TimeZone::UTC }
    }
}

/// The name of a part of the input, by which positions are read.
#[derive(Clone, Debug)]
pub(super) enum PartName {
    /// A text: positions are numbers of lines.
    Text(Arc<str>),
    /// A table: positions are numbers of rows.
    Table(Arc<str>),
    /// A partition of a topic: positions are offsets.
    Partition(Arc<str>, i32),
}

/// A message, by its part and its position there.
struct Place<'a>(&'a PartName, u64);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = self.1;
        match self.0 {
            PartName::Text(name) => write!(f, "{}, line {position}", Quoted(name)),
            PartName::Table(name) => write!(f, "{}, row {position}", Quoted(name)),
            PartName::Partition(topic, partition) => {
                write!(f, "{}, partition {partition}, offset {position}", Quoted(topic))
            }
        }
    }
}

/// Names messages for people, but not very many of each kind.
#[derive(Clone)]
pub(super) struct Notices {
    messages: Messages,
    given: Arc<[AtomicU64; 2]>,
}

/// The reason why a message is named.
#[derive(Clone, Copy)]
enum Kind {
    Unread,
    Stray,
}

/// The notice about one more message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    Named,
    /// One that says that no others are named.
    Last,
    None,
}

impl Notices {
    pub(super) fn new(messages: &Messages) -> Self {
        Notices { messages: messages.clone(), given: Arc::default() }
    }

    #[cold]
    fn give(&self, kind: Kind, place: &Place<'_>, text: impl fmt::Display) {
        let what = match kind {
            Kind::Unread => "records that can't be read",
            Kind::Stray => "strays",
        };
        match self.next(kind) {
            Notice::Named => self.messages.warn(format!("{place}: {text}")),
            Notice::Last => {
                self.messages.warn(format!("further {what} are counted, and not named"))
            }
            Notice::None => {}
        }
    }

    fn next(&self, kind: Kind) -> Notice {
        match self.given[kind as usize].fetch_add(1, Ordering::Relaxed) {
            ..NAMED_MAX => Notice::Named,
            NAMED_MAX => Notice::Last,
            _ => Notice::None,
        }
    }
}

/// The findings about the kind of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Whether it has a record.
    pub(super) record: bool,
    /// The kind of output of floodmark that it is, if it is such output.
    pub(super) own_output: Option<&'static str>,
}

/// The records of the messages of one part, in their order.
pub(super) struct Intake {
    decoder: Decoder,
    queue: RecordQueue,
}

/// The records of a part between decoding and gathering.
struct RecordQueue {
    name: PartName,
    strays: StrayFilter<Record>,
    /// Records of messages that were read; those before `next` are gathered.
    records: Vec<Record>,
    next: usize,
    /// The event time of the last record that was gathered.
    reached: u64,
    tally: RecordTally,
    notices: Notices,
}

/// A message whose records are taken.
struct Taken {
    position: u64,
    /// The first record of this message, behind one that was held since an earlier message.
    first: usize,
    holds_earlier: bool,
    /// Whether no record waits: those that wait come first, and may belong to a later tick.
    is_direct: bool,
    /// Of one message the first is named, and all are counted.
    refused: Option<RecordError>,
    found: Found,
}

impl RecordQueue {
    fn begin(&self, position: u64) -> Taken {
        let (first, holds_earlier) = (self.records.len(), self.strays.is_holding());
        let is_direct = self.records.is_empty() && !holds_earlier;
        let (refused, found) = (None, Found::default());
        Taken { position, first, holds_earlier, is_direct, refused, found }
    }

    /// Takes an observation. A record of the tick that is gathered is added to it, another one waits.
    #[inline(always)]
    fn observe(&mut self, read: Observation, taken: &mut Taken, gather: &mut Gather) {
        let record = match read {
            Observation::Record(record) => record,
            Observation::WithoutPackets(record) => {
                self.tally.without_packets += 1;
                record
            }
            Observation::Skipped(skip) => {
                *self.tally.skipped.entry(skip.as_str()).or_default() += 1;
                return;
            }
            Observation::Bad(reason) => {
                *self.tally.bad.entry(reason.as_str()).or_default() += 1;
                taken.refused.get_or_insert(reason);
                return;
            }
        };
        taken.found.record = true;
        if !self.strays.try_accept(record.time_ms) {
            self.examine(record, taken);
            return;
        }
        // In the order of times it comes before those of this message that wait.
        let Record { time_ms, pair, volume } = record;
        if taken.is_direct && gather.add(time_ms, pair, volume).is_continue() {
            self.tally.count(volume);
            self.reached = time_ms;
        } else {
            self.records.push(record);
        }
    }

    /// Takes a record that may be a stray, or shows that the one before it is one.
    #[cold]
    fn examine(&mut self, record: Record, taken: &mut Taken) {
        match self.strays.examine(record, taken.position) {
            Some(stray) => {
                self.tally.strays += 1;
                let max_ahead_ms = self.strays.max_ahead_ms();
                report_stray(&self.notices, &self.name, &stray, &record, max_ahead_ms);
            }
            None => taken.first += usize::from(taken.holds_earlier),
        }
        taken.holds_earlier = false;
        self.records.extend(std::iter::from_fn(|| self.strays.next_ready()));
    }

    /// Ends a message. `failed` is the error of the whole message.
    fn end(&mut self, mut taken: Taken, failed: Option<RecordError>, gather: &mut Gather) -> Found {
        // A message has all of its records at once: packed ones are those of IPv4, and then those of IPv6.
        let records = self.records.get_mut(taken.first..).unwrap_or_default();
        if !records.is_sorted_by_key(|record| record.time_ms) {
            records.sort_by_key(|record| record.time_ms);
        }
        self.tally.leave_out(gather.take_without_window());
        if let Some(reason) = failed {
            *self.tally.bad.entry(reason.as_str()).or_default() += 1;
            taken.refused.get_or_insert(reason);
        }
        if let Some(reason) = taken.refused {
            if let RecordError::OwnOutput { kind } = reason {
                taken.found.own_output = Some(kind);
            }
            let why = format_args!("not counted: {reason}");
            self.notices.give(Kind::Unread, &Place(&self.name, taken.position), why);
        }
        taken.found
    }
}

impl Intake {
    pub(super) fn new(name: PartName, rules: &RecordRules, notices: &Notices) -> Self {
        let queue = RecordQueue {
            name,
            strays: StrayFilter::new(rules.max_ahead_ms),
            records: Vec::new(),
            next: 0,
            reached: 0,
            tally: RecordTally::default(),
            notices: notices.clone(),
        };
        Intake { decoder: rules.decoder.clone(), queue }
    }

    /// Takes the records of a message. Those of the tick that is gathered are added to it, the others wait.
    pub(super) fn take(
        &mut self,
        message: &Message<'_>,
        position: u64,
        gather: &mut Gather,
    ) -> Found {
        let Intake { decoder, queue } = self;
        queue.tally.messages += 1;
        let mut taken = queue.begin(position);
        let mut observe = |read| queue.observe(read, &mut taken, gather);
        let failed = decoder.decode(message, &mut observe).err();
        queue.end(taken, failed, gather)
    }

    /// Takes the record of a row in the same way.
    pub(super) fn take_row(&mut self, read: Observation, position: u64, gather: &mut Gather) {
        self.queue.tally.messages += 1;
        let mut taken = self.queue.begin(position);
        self.queue.observe(read, &mut taken, gather);
        self.queue.end(taken, None, gather);
    }

    /// Counts a message that can't be decoded.
    pub(super) fn refuse(&mut self, label: &'static str, why: &str, position: u64) {
        let RecordQueue { name, tally, notices, .. } = &mut self.queue;
        tally.messages += 1;
        *tally.bad.entry(label).or_default() += 1;
        let why = format_args!("not counted: {why}");
        notices.give(Kind::Unread, &Place(name, position), why);
    }

    /// Accepts the record that is held, if any: no other one follows.
    pub(super) fn end(&mut self) {
        let RecordQueue { strays, records, .. } = &mut self.queue;
        strays.release();
        records.extend(std::iter::from_fn(|| strays.next_ready()));
    }

    /// Gathers the records that were taken. Breaks if one belongs to a later tick.
    pub(super) fn gather(&mut self, gather: &mut Gather) -> ControlFlow<()> {
        let RecordQueue { records, next, tally, reached, .. } = &mut self.queue;
        let mut end = ControlFlow::Continue(());
        while let Some(record) = records.get(*next) {
            end = gather.add(record.time_ms, record.pair, record.volume);
            if end.is_break() {
                break;
            }
            tally.count(record.volume);
            *next += 1;
        }
        if let Some(last) = next.checked_sub(1) {
            *reached = records[last].time_ms;
        }
        tally.leave_out(gather.take_without_window());
        if *next == records.len() {
            records.clear();
            *next = 0;
        }
        end
    }

    /// Whether records wait to be gathered: they may belong to a later tick.
    pub(super) fn has_waiting(&self) -> bool {
        !self.queue.records.is_empty()
    }

    /// Returns the event time of the last record that was gathered.
    pub(super) fn reached(&self) -> u64 {
        self.queue.reached
    }

    pub(super) fn tally(&self) -> &RecordTally {
        &self.queue.tally
    }
}

#[cold]
fn report_stray(
    notices: &Notices,
    name: &PartName,
    stray: &Stray<Record>,
    next: &Record,
    max_ahead_ms: u64,
) {
    notices.give(
        Kind::Stray,
        &Place(name, stray.position),
        format_args!(
            "dropped as a stray: its time {} is more than {} ahead of that of the next record, {}; a greater \
             --max-ahead keeps it",
            format_ms(stray.record.time_ms),
            duration::text(max_ahead_ms),
            format_ms(next.time_ms)
        ),
    );
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
