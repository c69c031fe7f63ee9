//! Outlet that sends records to a topic of Kafka.
//!
//! Packed messages have no key, and go to the partitions in turn: a reader waits for the one whose event
//! time is furthest behind, and a client left to choose sends many in a row to one. Those of one record have the pair
//! as their key, so that a pair is in one partition. A message's timestamp is the greatest event time in it, which
//! the broker judges it by: so before a message leaves, the topic is held against the times in it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::outlet::{Format, Outlet, Sent};
use crate::base::error::Failure;
use crate::kafka::topics::{self, Plan, TopicConfig};
use crate::kafka::{
    Address, BufferedProducer, ClientOptions, OnRefusal, Outgoing, TopicTrouble, Tuning,
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

/// Records that are to become one message.
#[derive(Default)]
struct Packing {
    packer: Packer,
    /// The range of its records' event times.
    times: Option<Times>,
    /// Time of its first record.
    since: Option<Instant>,
}

/// A range of event times, of records or of those that the topic was found to accept.
#[derive(Clone, Copy)]
struct Times {
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
    /// Messages under way by their partition of this topic; `None`: partitions in turn.
    packings: BTreeMap<Option<i32>, Packing>,
    /// The partition of records taken from now on; `None`: partitions in turn.
    partition: Option<i32>,
    /// The partition that was last in turn.
    turn: i32,
    checked: Option<Times>,
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
            turn: (now_ms() % u64::from(partitions.unsigned_abs())) as i32,
            checked: None,
            sent: Sent::default(),
            key: Vec::new(),
            value: Vec::new(),
        })
    }

    /// Checks that the topic accepts the times of a message.
    fn check(&mut self, times: Times) -> Result<(), WriteError> {
        let (mut oldest_ms, mut newest_ms) = (times.oldest_ms, times.newest_ms);
        if let Some(checked) = self.checked {
            if checked.oldest_ms <= oldest_ms && newest_ms <= checked.newest_ms {
                return Ok(());
            }
            oldest_ms = oldest_ms.min(checked.oldest_ms);
            newest_ms = newest_ms.max(checked.newest_ms);
        }
        // Of the times of this message only: what was sent before may have aged meanwhile.
        topics::check_times(&self.config, times.oldest_ms, times.newest_ms, now_ms())
            .map_err(WriteError::Failed)?;
        self.checked = Some(Times { oldest_ms, newest_ms });
        Ok(())
    }

    fn take_packed(&mut self, records: &[Record]) -> Result<(), WriteError> {
        let mut packing = self.packings.remove(&self.partition).unwrap_or_default();
        for record in records {
            if packing.packer.push(record).is_err() {
                self.sent.unsendable += 1;
                continue;
            }
            self.sent.count(record);
            let time_ms = record.time_ms;
            let times = Times { oldest_ms: time_ms, newest_ms: time_ms };
            let packed = packing.times.get_or_insert(times);
            packed.oldest_ms = packed.oldest_ms.min(time_ms);
            packed.newest_ms = packed.newest_ms.max(time_ms);
            packing.since.get_or_insert_with(Instant::now);
            if packing.packer.is_full() {
                self.close(self.partition, &mut packing)?;
            }
        }
        self.packings.insert(self.partition, packing);
        Ok(())
    }

    /// Sends the packed records as a message.
    fn close(&mut self, partition: Option<i32>, packing: &mut Packing) -> Result<(), WriteError> {
        packing.since = None;
        if let Some(times) = packing.times.take() {
            self.check(times)?;
        }
        let Some(packed) = packing.packer.take() else { return Ok(()) };
        let timestamp_ms = timestamp(packed.greatest_ms);
        let partition = partition.unwrap_or_else(|| {
            self.turn = (self.turn + 1) % self.partitions;
            self.turn
        });
        self.send(None, &packed.payload, timestamp_ms, Some(partition))
    }

    /// Counts messages that were refused where that is no failure. If not even one was delivered, the topic
    /// is at fault and not the message.
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

    /// Makes messages of what was packed before this moment.
    fn close_since(&mut self, before: Option<Instant>) -> Result<(), WriteError> {
        let old = |packing: &Packing| match (packing.since, before) {
            (Some(since), Some(before)) => since <= before,
            (since, _) => since.is_some(),
        };
        let ready: Vec<Option<i32>> =
            self.packings.iter().filter(|(_, packing)| old(packing)).map(|(at, _)| *at).collect();
        for partition in ready {
            if let Some(mut packing) = self.packings.remove(&partition) {
                self.close(partition, &mut packing)?;
                self.packings.insert(partition, packing);
            }
        }
        Ok(())
    }

    fn take_single(&mut self, records: &[Record]) -> Result<(), WriteError> {
        let (mut key, mut value) = (std::mem::take(&mut self.key), std::mem::take(&mut self.value));
        for record in records {
            self.check(Times { oldest_ms: record.time_ms, newest_ms: record.time_ms })?;
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
    fn take(&mut self, records: &[Record]) -> Result<(), WriteError> {
        match self.format {
            Format::Packed => self.take_packed(records),
            Format::Kv | Format::Json => self.take_single(records),
        }
    }

    fn take_text(&mut self, record: &Record, text: &[u8]) -> Result<(), WriteError> {
        self.check(Times { oldest_ms: record.time_ms, newest_ms: record.time_ms })?;
        let (mut key, mut value) = (std::mem::take(&mut self.key), std::mem::take(&mut self.value));
        key.clear();
        value.clear();
        // Of it only the key is wanted.
        write_kv(record, &mut key, &mut value);
        self.sent.count(record);
        self.send(Some(&key), text, timestamp(record.time_ms), None)?;
        (self.key, self.value) = (key, value);
        Ok(())
    }

    /// Packed records have no key. What came from one partition stays together, and as far behind or
    /// ahead of others as it was.
    fn begin_partition(&mut self, partition: i32) {
        self.partition = Some(partition % self.partitions);
    }

    fn unfit(&mut self, time_ms: u64) -> Option<Failure> {
        match self.check(Times { oldest_ms: time_ms, newest_ms: time_ms }) {
            Err(WriteError::Failed(failure)) => Some(failure),
            Err(WriteError::Closed) | Ok(()) => None,
        }
    }

    fn settle(&mut self) -> Result<bool, WriteError> {
        self.close_since(None)?;
        self.poll()?;
        Ok(self.buffered.is_done())
    }

    fn poll(&mut self) -> Result<(), WriteError> {
        if let Some(before) = Instant::now().checked_sub(self.linger) {
            self.close_since(Some(before))?;
        }
        self.buffered.poll()?;
        self.count_refused()
    }

    fn due(&self) -> Option<Instant> {
        let since = self.packings.values().filter_map(|packing| packing.since).min();
        since.map(|since| since + self.linger)
    }

    fn is_full(&self) -> bool {
        !self.buffered.has_room()
    }

    fn unreachable_since(&self) -> Option<Instant> {
        self.buffered.unreachable_since()
    }

    fn trouble(&self) -> Option<TopicTrouble> {
        self.buffered.trouble()
    }

    fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), WriteError> {
        self.close_since(None)?;
        let finished = self.buffered.finish(give_up);
        self.count_refused()?;
        Ok(finished?)
    }

    fn sent(&self) -> Sent {
        let counts = self.buffered.counts();
        Sent { messages: counts.delivered, message_bytes: counts.delivered_bytes, ..self.sent }
    }
}

/// As Kafka has it. Times that it has no numbers for are beyond every bound of a topic.
fn timestamp(time_ms: u64) -> i64 {
    i64::try_from(time_ms).unwrap_or(i64::MAX)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
