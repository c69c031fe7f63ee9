//! Turns messages of a topic into the records that a tick counts, on one worker.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::time::{Window, Windows};

use super::counts::InputCounts;
use super::refused::Refused;
use super::set_aside::SetAside;
use crate::base::date::format_ms;
use crate::base::error::Failure;
use crate::base::logging::Sampler;
use crate::computation::EventTimeReached;
use crate::kafka::{
    BufferedProducer, Contents, EventTime, OwnedMessage, PartitionChange, PartitionState,
    ReceivedMessage, Times, TopicReader, origin,
};
use crate::record::{self, Decoder, Format, Observation, Record, RecordError};
use crate::source::{Filter, LeaderTime, ReadingRules, TickRecords};

/// Maximum number of updates of (window, pair) that a worker gathers before it requests a tick, up to the records
/// of one message ([`record::RECORDS_MAX`]) beyond. More would leave the caches of the processor, and make single
/// ticks long.
const TICK_UPDATES_MAX: usize = 1 << 16;

/// Maximum capacity, in records, that the buffer of one message's records keeps for the next message.
const RECORDS_KEPT: usize = 1 << 14;

/// Name of the sink of dead letters in errors. Some of these messages may be readable by now, or in part, and were
/// counted.
const DEAD_LETTERS: &str = "dead letters (--dead-letter)";

/// Rules that assign a record to a window or reject it.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) windows: Windows,
    pub(super) filter: Filter,
    pub(super) reading: ReadingRules,
    /// The interval of ticks.
    pub(super) tick: Duration,
}

impl Rules {
    /// The time after a tick for which the leader's clock, as of the tick, tells which records are of the future: half
    /// of what records may be ahead, so that none of the present is taken for one of the future.
    fn read_for(&self) -> Duration {
        self.tick + Duration::from_millis(self.reading.max_ahead_ms / 2)
    }

    fn decoder(&self) -> Result<Decoder, Failure> {
        Ok(Decoder::new(record::Options { input_timezone: self.reading.zone()? }))
    }
}

/// The event times of records that count.
#[derive(Clone, Copy)]
struct Bounds {
    earliest: u64,
    latest: u64,
}

/// The reading half of one worker: it consumes messages, and gathers their records for ticks.
pub(super) struct Ingest {
    reader: TopicReader,
    decoder: Decoder,
    rules: Rules,
    gathered: Gathered,
    /// `None` until the first tick: before it, the worker does not know the current time.
    clock: Option<Clock>,
    /// Whether the worker reads nothing, since the leader's clock was set forward and may be wrong.
    undecided: bool,
    sampler: Sampler,
    set_aside: SetAside,
    /// The records of a message whose event times may be far from each other, each with whether it states
    /// packets.
    records: Vec<(Record, bool)>,
}

/// Gathers the records of a message. Breaks if there is no capacity for another one.
type EachMessage<'a> =
    dyn FnMut(ReceivedMessage<'_>) -> ControlFlow<Option<Times>, Option<Times>> + 'a;

/// Everything gathered for the next tick.
struct Gathered {
    combiner: Combiner,
    seen: BTreeSet<Window>,
    /// The last window put into `seen`: most records are of the same window.
    last_seen: Option<Window>,
    counts: InputCounts,
}

/// The leader's clock as of the last tick that took records, by which records are too far in the future. The time since
/// then does not count, so that the same messages lead to the same tick when they are read again.
struct Clock {
    horizon: u64,
    set_at: Instant,
}

impl Gathered {
    /// Whether it holds as much as a tick should. Windows of records that the filter leaves out (`--source`,
    /// `--destination`) are part of a tick, too.
    fn is_full(&self) -> bool {
        self.combiner.len().max(self.seen.len()) >= TICK_UPDATES_MAX
    }

    /// Counts a record. Returns the reason if the record is rejected.
    #[inline]
    fn add(&mut self, record: &Record, rules: &Rules, bounds: Bounds) -> Option<Refused> {
        if record.time_ms > bounds.latest {
            return Some(Refused::Future);
        }
        if record.time_ms < bounds.earliest {
            return Some(Refused::Past);
        }
        let Some(window) = rules.windows.of(record.time_ms) else {
            return Some(Refused::NoWindow);
        };
        if self.last_seen != Some(window) {
            self.last_seen = Some(window);
            self.seen.insert(window);
        }
        if rules.filter.admits(&record.pair) {
            self.combiner.add(window, record.pair, record.volume);
        }
        None
    }
}

/// The results for the records of one message.
struct Tally<'a> {
    gathered: &'a mut Gathered,
    rules: &'a Rules,
    /// Event times of the records that count.
    times: Option<Times>,
    /// The number of these records.
    counted: u64,
    /// The reason why the first record that does not count is refused, and its event time. Of one message the first is
    /// named, and all are counted.
    refused: Option<(Refused, Option<u64>)>,
}

impl Tally<'_> {
    #[inline]
    fn record(&mut self, record: &Record, has_packets: bool, bounds: Bounds) {
        match self.gathered.add(record, self.rules, bounds) {
            None => {
                if !has_packets {
                    self.gathered.counts.without_packets();
                }
                self.counted += 1;
                self.times = Some(Times::add(self.times, record.time_ms));
            }
            Some(why) => self.refuse(why, Some(record.time_ms)),
        }
    }

    /// Decodes a message and counts its records. Records after `latest` are of the future. `records` is a buffer.
    fn decode(
        &mut self,
        decoder: &mut Decoder,
        received: &ReceivedMessage<'_>,
        latest: u64,
        records: &mut Vec<(Record, bool)>,
    ) -> Result<Option<Format>, RecordError> {
        let max_behind_ms = self.rules.reading.max_behind_ms;
        let span_max = record::span_max(received.message.payload.unwrap_or_default());
        if span_max <= max_behind_ms {
            let earliest = received.reached.unwrap_or(0).saturating_sub(max_behind_ms);
            let bounds = Bounds { earliest, latest };
            return decoder.decode(&received.message, &mut |read| match read {
                Observation::Record(record) => self.record(&record, true, bounds),
                Observation::WithoutPackets(record) => self.record(&record, false, bounds),
                read => self.other(read),
            });
        }
        let format = decoder.decode(&received.message, &mut |read| match read {
            Observation::Record(record) => records.push((record, true)),
            Observation::WithoutPackets(record) => records.push((record, false)),
            read => self.other(read),
        });
        // The greatest event time counts from the first record of the message on.
        let times = records.iter().map(|(record, _)| record.time_ms);
        let greatest = times.filter(|time| *time <= latest).max();
        let reached = greatest.max(received.reached).unwrap_or(0);
        let bounds = Bounds { earliest: reached.saturating_sub(max_behind_ms), latest };
        for (record, has_packets) in records.drain(..) {
            self.record(&record, has_packets, bounds);
        }
        records.shrink_to(RECORDS_KEPT);
        format
    }

    fn refuse(&mut self, why: Refused, time: Option<u64>) {
        self.gathered.counts.refuse(why);
        self.refused.get_or_insert((why, time));
    }

    /// Handles a read that is no record.
    fn other(&mut self, read: Observation) {
        match read {
            Observation::Record(_) | Observation::WithoutPackets(_) => {}
            Observation::Skipped(skip) => self.gathered.counts.skip(skip),
            Observation::Bad(reason) => self.refuse(Refused::Unread(reason), None),
        }
    }
}

impl Ingest {
    pub(super) fn new(
        reader: TopicReader,
        rules: Rules,
        peers: usize,
        set_aside: SetAside,
    ) -> Result<Self, Failure> {
        let counts = InputCounts::new(reader.topic().address());
        Ok(Ingest {
            reader,
            decoder: rules.decoder()?,
            rules,
            gathered: Gathered {
                combiner: Combiner::new(peers),
                seen: BTreeSet::new(),
                last_seen: None,
                counts,
            },
            clock: None,
            undecided: false,
            sampler: Sampler::default(),
            set_aside,
            records: Vec::new(),
        })
    }

    /// Sets the rules for what is read from now on.
    pub(super) fn set_rules(&mut self, reading: ReadingRules) -> Result<(), Failure> {
        self.rules.reading = reading;
        self.decoder = self.rules.decoder()?;
        Ok(())
    }

    /// Whether it has gathered as much as a tick should hold.
    pub(super) fn is_full(&self) -> bool {
        self.gathered.is_full() || self.set_aside.needs_tick()
    }

    /// Notes the leader's time.
    pub(super) fn set_time(&mut self, time: LeaderTime) {
        self.clock = Some(Clock { horizon: time.horizon, set_at: Instant::now() });
        self.undecided = time.undecided;
    }

    /// Consumes messages that are there, a batch at most, as long as there is capacity for their records. Returns the
    /// number of messages.
    pub(super) fn read(&mut self) -> Result<usize, Failure> {
        if !self.set_aside.has_capacity()? || self.is_full() || self.undecided {
            return Ok(0);
        }
        let is_recent = |clock: &&Clock| clock.set_at.elapsed() <= self.rules.read_for();
        let Some(clock) = self.clock.as_ref().filter(is_recent) else {
            return Ok(0);
        };
        let latest = clock.horizon.saturating_add(self.rules.reading.max_ahead_ms);
        let mut messages = 0;
        self.consume(latest, false, |reader, each| {
            messages = reader.poll(each)?;
            Ok(())
        })?;
        self.gathered.counts.messages(messages);
        Ok(messages)
    }

    /// Consumes the messages that a tick of an earlier run has taken, as its marks tell. Returns whether all are.
    pub(super) fn repeat(&mut self, marks: &[SourceProgress]) -> Result<bool, Failure> {
        let partition = |partition: u32| i32::try_from(partition).unwrap_or(i32::MAX);
        let bounds = marks.iter().filter_map(|mark| match mark {
            SourceProgress::ReadTo { partition: of, offset, .. } => {
                Some((partition(*of), i64::try_from(*offset).unwrap_or(i64::MAX)))
            }
            _ => None,
        });
        let bounds: BTreeMap<i32, i64> = bounds.collect();
        // A tick that is repeated holds as much as it did.
        if !self.set_aside.needs_tick() && !self.set_aside.has_capacity()? {
            return Ok(false);
        }
        let horizon = self.clock.as_ref().map_or(0, |clock| clock.horizon);
        let latest = horizon.saturating_add(self.rules.reading.max_ahead_ms);
        let mut is_done = false;
        self.consume(latest, true, |reader, each| {
            is_done = reader.read_until(&bounds, each)?;
            Ok(())
        })?;
        for mark in marks.iter().filter(|_| is_done) {
            if let SourceProgress::Truncated { partition: of, first: Some(_) } = mark {
                self.reader.set_first_reported(partition(*of));
            }
        }
        Ok(is_done)
    }

    /// Ends the repetition of ticks.
    pub(super) fn end_repetition(&mut self) -> Result<(), Failure> {
        // The clock of the earlier run would tell records of the time since then as of the future.
        self.clock = None;
        self.reader.end_repetition()
    }

    /// Consumes the messages that `poll` passes on. Records after `latest` are of the future. A tick that is repeated
    /// holds as much as it did.
    fn consume(
        &mut self,
        latest: u64,
        is_repeated: bool,
        poll: impl FnOnce(&mut TopicReader, &mut EachMessage<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let topic = self.reader.topic().clone();
        let name = &topic.address().topic;
        // Once it is known that the topic holds records, no message is inspected for this.
        let contents = Some(topic.contents()).filter(|contents| !contents.is_decided());
        let Ingest { reader, decoder, rules, gathered, sampler, set_aside, records, .. } = self;
        let mut bytes = 0;
        poll(reader, &mut |received| {
            let mut message = Tally { gathered, rules, times: None, counted: 0, refused: None };
            if contents.is_some_and(|contents| !contents.is_decided() && received.is_dead_letter())
            {
                let why = Refused::Unread(RecordError::OwnOutput { kind: DEAD_LETTERS });
                message.refuse(why, None);
                note_contents(contents, Some(why), 0);
                log_sample(sampler, name, &received, why, None);
                return ControlFlow::Continue(None);
            }
            match message.decode(decoder, &received, latest, records) {
                Ok(Some(format)) => message.gathered.counts.count(format, message.counted),
                Ok(None) => {}
                Err(reason) => message.refuse(Refused::Unread(reason), None),
            }
            let Tally { times, refused, counted, .. } = message;
            note_contents(contents, refused.map(|(why, _)| why), counted);
            if let Some((why, time)) = refused {
                log_sample(sampler, name, &received, why, time);
                if set_aside.is_kept() {
                    let origin = origin(name, received.partition, received.offset);
                    let letter = OwnedMessage::dead(&received.message, origin, why.as_str());
                    bytes += set_aside.add(letter);
                }
            }
            let is_full = gathered.is_full() || set_aside.needs_tick();
            match !is_repeated && is_full || SetAside::is_enough(bytes) {
                true => ControlFlow::Break(times),
                false => ControlFlow::Continue(times),
            }
        })?;
        if let Some(contents) = contents {
            contents.decide(topic.address(), &reader.positions())?;
        }
        Ok(())
    }

    /// Takes out everything gathered: updates, the windows of all records, and messages that can't be counted.
    pub(super) fn take_gathered(&mut self) -> TickRecords {
        let gathered = &mut self.gathered;
        let seen = std::mem::take(&mut gathered.seen);
        gathered.last_seen = None;
        let update_batches = gathered.combiner.take();
        let dead_letters = self.set_aside.take();
        match self.reader.topic().is_lost() {
            // The records may be of another topic, which has the name now.
            true => TickRecords::default(),
            false => TickRecords { update_batches, seen, dead_letters, ..TickRecords::default() },
        }
    }

    /// Returns what holds the watermark and where reading began, as far as that has changed. `now` is the leader's
    /// time.
    pub(super) fn progress(
        &mut self,
        now: u64,
        event_time: EventTimeReached,
    ) -> Result<Vec<SourceProgress>, Failure> {
        let event_time = EventTime { now, front: event_time.front };
        let of_partition = |(partition, changed): (i32, PartitionChange)| {
            // Kafka counts partitions from 0.
            let partition = partition.unsigned_abs();
            match changed {
                PartitionChange::Progress(progress) => {
                    SourceProgress::Partition { partition, progress }
                }
                PartitionChange::Truncated(first) => SourceProgress::Truncated { partition, first },
            }
        };
        Ok(self.reader.update_progress(Some(event_time))?.into_iter().map(of_partition).collect())
    }

    /// Returns the positions of partitions that are not among `before`, as marks.
    pub(super) fn moved_from(&self, before: &[(i32, i64)]) -> Vec<SourceProgress> {
        let states = self.reader.states().into_iter();
        let moved = states.filter(|at| before.binary_search(&(at.partition, at.next)).is_err());
        let mark = |PartitionState { partition, next, reached, .. }| SourceProgress::ReadTo {
            partition: partition.unsigned_abs(),
            offset: next.unsigned_abs(),
            reached,
        };
        moved.map(mark).collect()
    }

    /// Returns the topic to which messages that can't be counted are sent at once, if they are.
    pub(super) fn dead_letters(&self) -> Option<&BufferedProducer> {
        self.set_aside.topic()
    }

    /// Keeps partitions from running too far ahead of the slowest one.
    pub(super) fn bound_skew(&mut self, event_time: EventTimeReached) -> Result<(), Failure> {
        let EventTimeReached { slowest, slowest_in, .. } = event_time;
        self.reader.bound_skew(slowest_in.map_or(u64::MAX, |_| slowest))
    }

    /// Whether others may wait for what this worker has read.
    pub(super) fn is_waited_for(&self, event_time: EventTimeReached) -> bool {
        event_time.slowest_in.is_some_and(|slowest| self.reader.has_advanced(slowest))
    }

    /// Returns the reader, for its offsets and states.
    pub(super) fn reader(&self) -> &TopicReader {
        &self.reader
    }

    /// Returns the reader, to be closed.
    pub(super) fn into_reader(self) -> TopicReader {
        self.reader
    }

    /// Waits until what it has set aside is kept.
    pub(super) fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), Failure> {
        self.set_aside.finish(give_up)
    }
}

/// Notes whether a message is a record or output of floodmark, until the contents of the topic are known.
#[inline]
fn note_contents(contents: Option<&Contents>, refused: Option<Refused>, records: u64) {
    let Some(contents) = contents else { return };
    // Some are records, if none that count now.
    if records > 0 || matches!(refused, Some(Refused::Future | Refused::NoWindow)) {
        contents.saw_record();
    } else if let Some(Refused::Unread(RecordError::OwnOutput { kind })) = refused {
        contents.saw_output(kind);
    }
}

/// Logs what can't be counted, each kind now and then, and where it was.
fn log_sample(
    sampler: &mut Sampler,
    topic: &str,
    received: &ReceivedMessage<'_>,
    why: Refused,
    time: Option<u64>,
) {
    if !sampler.allows(why.as_str()) {
        return;
    }
    let ReceivedMessage { partition, offset, .. } = *received;
    let time = time.map(|time| format_ms(time).to_string());
    tracing::warn!(
        topic,
        partition,
        offset,
        error = why.as_str(),
        time,
        "a record is not counted: {why}"
    );
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
