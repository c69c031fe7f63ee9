//! Outlet that sends records to a topic of Kafka.
//!
//! Packed messages have no key, and go to the partitions in turn: a reader waits for the partition whose event time is
//! furthest behind, and librdkafka's own choice sends many messages in a row to one partition. Messages of one record
//! have the pair as their key, so that a pair is in one partition. The timestamp of a message is its greatest event time, which the
//! broker checks. So before a message is sent, its times are compared with the settings of the topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::outlet::{Format, Outlet, Sent};
use crate::base::error::Failure;
use crate::kafka::topics::{self, Plan, TopicConfig};
use crate::kafka::{
    Address, BufferedProducer, ClientOptions, OnRefusal, Outgoing, TopicFault, Tuning,
};
use crate::output::WriteError;
use crate::record::{Packer, Record, write_json, write_kv};

/// Settings of the outlet.
#[derive(Clone, Debug)]
pub struct Options {
    /// The format of messages.
    pub format: Format,
    /// Longest time for which a record waits for others to fill a message.
    pub linger: Duration,
    /// If the topic does not exist, the plan to create it by; `None` creates none.
    pub create: Option<Plan>,
    /// The treatment of messages that the broker refuses for good.
    pub on_refusal: OnRefusal,
}

/// Records of one future message.
#[derive(Default)]
struct Packing {
    packer: Packer,
    /// The range of its records' event times.
    times: Option<TimeRange>,
    /// The time at which the first record was added.
    since: Option<Instant>,
}

/// A range of event times: those of records, or those known to be accepted by the topic.
#[derive(Clone, Copy)]
struct TimeRange {
    oldest_ms: u64,
    newest_ms: u64,
}

/// A topic that records are sent to.
pub struct Topic {
    buffered: BufferedProducer,
    config: TopicConfig,
    /// Number of partitions of the topic when it was opened.
    partitions: i32,
    format: Format,
    linger: Duration,
    /// Unfinished messages by their partition of this topic; `None`: partitions in turn.
    packings: BTreeMap<Option<i32>, Packing>,
    /// The partition of the following records; `None`: partitions in turn.
    partition: Option<i32>,
    /// The partition that was last in turn.
    last_in_turn: i32,
    checked: Option<TimeRange>,
    sent: Sent,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Topic {
    /// Connects to the brokers, and reads how the topic treats timestamps.
    pub fn open(
        address: &Address,
        client: &ClientOptions,
        options: &Options,
    ) -> Result<Self, Failure> {
        if let Some(plan) = &options.create {
            topics::create(address, client, plan)?;
        }
        let config = topics::describe(address, client)?;
        if options.format == Format::Kv {
            config.check_timestamps_kept()?;
        }
        Topic::open_known(client, options, config)
    }

    /// Connects to the brokers of a topic whose configuration is known.
    pub fn open_known(
        client: &ClientOptions,
        options: &Options,
        config: TopicConfig,
    ) -> Result<Self, Failure> {
        let buffered = BufferedProducer::open_known(&config, client, Tuning::for_throughput())?
            .on_refusal(options.on_refusal);
        let partitions = i32::try_from(config.partitions).unwrap_or(i32::MAX).max(1);
        Ok(Topic {
            buffered,
            config,
            partitions,
            format: options.format,
            linger: options.linger,
            packings: BTreeMap::new(),
            partition: None,
            // Senders of a few records each must not all begin with the same partition.
            last_in_turn: (now_ms() % u64::from(partitions.unsigned_abs())) as i32,
            checked: None,
            sent: Sent::default(),
            key: Vec::new(),
            value: Vec::new(),
        })
    }

    /// Checks that the topic accepts the times of a message.
    fn check_times(&mut self, times: TimeRange) -> Result<(), WriteError> {
        let (mut oldest_ms, mut newest_ms) = (times.oldest_ms, times.newest_ms);
        if let Some(checked) = self.checked {
            if checked.oldest_ms <= oldest_ms && newest_ms <= checked.newest_ms {
                return Ok(());
            }
            oldest_ms = oldest_ms.min(checked.oldest_ms);
            newest_ms = newest_ms.max(checked.newest_ms);
        }
        // Only the times of this message: earlier records may have become too old meanwhile.
        topics::check_times(&self.config, times.oldest_ms, times.newest_ms, now_ms())
            .map_err(WriteError::Failed)?;
        self.checked = Some(TimeRange { oldest_ms, newest_ms });
        Ok(())
    }

    fn accept_packed(&mut self, records: &[Record]) -> Result<(), WriteError> {
        let mut packing = self.packings.remove(&self.partition).unwrap_or_default();
        for record in records {
            if packing.packer.push(record).is_err() {
                self.sent.unsendable += 1;
                continue;
            }
            self.sent.count(record);
            let time_ms = record.time_ms;
            let times = TimeRange { oldest_ms: time_ms, newest_ms: time_ms };
            let packed = packing.times.get_or_insert(times);
            packed.oldest_ms = packed.oldest_ms.min(time_ms);
            packed.newest_ms = packed.newest_ms.max(time_ms);
            packing.since.get_or_insert_with(Instant::now);
            if packing.packer.is_full() {
                self.send_packed(self.partition, &mut packing)?;
            }
        }
        self.packings.insert(self.partition, packing);
        Ok(())
    }

    /// Sends the packed records as a message.
    fn send_packed(
        &mut self,
        partition: Option<i32>,
        packing: &mut Packing,
    ) -> Result<(), WriteError> {
        packing.since = None;
        if let Some(times) = packing.times.take() {
            self.check_times(times)?;
        }
        let Some(packed) = packing.packer.take() else { return Ok(()) };
        let timestamp_ms = timestamp(packed.greatest_ms);
        let partition = partition.unwrap_or_else(|| {
            self.last_in_turn = (self.last_in_turn + 1) % self.partitions;
            self.last_in_turn
        });
        self.send(None, &packed.payload, timestamp_ms, Some(partition))
    }

    /// Counts refused messages, if refusals are no failures. If no message at all was delivered, the topic is at fault
    /// and not the message.
    fn count_refused(&mut self) -> Result<(), WriteError> {
        for refused in self.buffered.take_refused() {
            if self.buffered.counts().delivered == 0 {
                let topic = &self.config.address.topic;
                return Err(WriteError::Failed(refused.error(topic).into()));
            }
            self.sent.refused += 1;
        }
        Ok(())
    }

    /// Sends the messages whose first record was added before this moment; `None`: all messages.
    fn send_packed_before(&mut self, before: Option<Instant>) -> Result<(), WriteError> {
        let old = |packing: &Packing| match (packing.since, before) {
            (Some(since), Some(before)) => since <= before,
            (since, _) => since.is_some(),
        };
        let ready: Vec<Option<i32>> =
            self.packings.iter().filter(|(_, packing)| old(packing)).map(|(at, _)| *at).collect();
        for partition in ready {
            if let Some(mut packing) = self.packings.remove(&partition) {
                self.send_packed(partition, &mut packing)?;
                self.packings.insert(partition, packing);
            }
        }
        Ok(())
    }

    fn accept_single(&mut self, records: &[Record]) -> Result<(), WriteError> {
        let (mut key, mut value) = (std::mem::take(&mut self.key), std::mem::take(&mut self.value));
        for record in records {
            self.check_times(TimeRange { oldest_ms: record.time_ms, newest_ms: record.time_ms })?;
            key.clear();
            value.clear();
            match self.format {
                Format::Kv => write_kv(record, &mut key, &mut value),
                Format::Json | Format::Packed => write_json(record, &mut key, &mut value),
            }
            self.sent.count(record);
            self.send(Some(&key), &value, timestamp(record.time_ms), None)?;
        }
        (self.key, self.value) = (key, value);
        Ok(())
    }

    fn send(
        &mut self,
        key: Option<&[u8]>,
        payload: &[u8],
        timestamp_ms: i64,
        partition: Option<i32>,
    ) -> Result<(), WriteError> {
        let (payload, timestamp_ms) = (Some(payload), Some(timestamp_ms));
        let message = Outgoing { key, payload, timestamp_ms, partition, ..Outgoing::default() };
        Ok(self.buffered.send(&message)?)
    }
}

impl Outlet for Topic {
    fn accept(&mut self, records: &[Record]) -> Result<(), WriteError> {
        match self.format {
            Format::Packed => self.accept_packed(records),
            Format::Kv | Format::Json => self.accept_single(records),
        }
    }

    fn accept_text(&mut self, record: &Record, text: &[u8]) -> Result<(), WriteError> {
        self.check_times(TimeRange { oldest_ms: record.time_ms, newest_ms: record.time_ms })?;
        let (mut key, mut value) = (std::mem::take(&mut self.key), std::mem::take(&mut self.value));
        key.clear();
        value.clear();
        // Only the key is used.
        write_kv(record, &mut key, &mut value);
        self.sent.count(record);
        self.send(Some(&key), text, timestamp(record.time_ms), None)?;
        (self.key, self.value) = (key, value);
        Ok(())
    }

    /// Packed records have no key. Records of one partition stay together, so that they stay as far behind or ahead of
    /// others as they were.
    fn begin_partition(&mut self, partition: i32) {
        self.partition = Some(partition % self.partitions);
    }

    fn unfit(&mut self, time_ms: u64) -> Option<Failure> {
        match self.check_times(TimeRange { oldest_ms: time_ms, newest_ms: time_ms }) {
            Err(WriteError::Failed(failure)) => Some(failure),
            Err(WriteError::Closed) | Ok(()) => None,
        }
    }

    fn flush(&mut self) -> Result<bool, WriteError> {
        self.send_packed_before(None)?;
        self.poll()?;
        Ok(self.buffered.is_done())
    }

    fn poll(&mut self) -> Result<(), WriteError> {
        if let Some(before) = Instant::now().checked_sub(self.linger) {
            self.send_packed_before(Some(before))?;
        }
        self.buffered.poll()?;
        self.count_refused()
    }

    fn due(&self) -> Option<Instant> {
        let since = self.packings.values().filter_map(|packing| packing.since).min();
        since.map(|since| since + self.linger)
    }

    fn is_full(&self) -> bool {
        !self.buffered.has_capacity()
    }

    fn unreachable_since(&self) -> Option<Instant> {
        self.buffered.unreachable_since()
    }

    fn topic_fault(&self) -> Option<TopicFault> {
        self.buffered.topic_fault()
    }

    fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), WriteError> {
        self.send_packed_before(None)?;
        let finished = self.buffered.finish(give_up);
        self.count_refused()?;
        Ok(finished?)
    }

    fn sent(&self) -> Sent {
        let counts = self.buffered.counts();
        Sent { messages: counts.delivered, message_bytes: counts.delivered_bytes, ..self.sent }
    }
}

/// Converts a time to a timestamp of Kafka. Times beyond the range of timestamps exceed every bound of a topic.
fn timestamp(time_ms: u64) -> i64 {
    i64::try_from(time_ms).unwrap_or(i64::MAX)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
