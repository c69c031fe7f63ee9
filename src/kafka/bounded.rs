//! A topic that is read from one fixed offset of each partition to another: each partition by itself, so that one that
//! is not read for a while delays no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::consumer::{PartitionQueue, Polled, SplitConsumer, Step};
use super::source::{ReceivedMessage, offset_error};
use super::topic::Topic;
use super::watch::{SourceOptions, Start};
use super::{Address, ClientOptions, client_config};
use crate::base::error::{Exit, Failure};
use crate::record::Message;

/// Time without a message after which reading fails: while no broker responds, and while brokers do. They may have
/// nothing but messages of aborted transactions for a while.
const OUTAGE_MAX: Duration = Duration::from_secs(60);
const SILENCE_MAX: Duration = Duration::from_secs(10 * 60);

/// Longest wait for a message, before the state of the topic is looked at.
const WAIT: Duration = Duration::from_millis(100);

/// Prefetched messages of all partitions of a topic, in number and in KiB, and the least numbers for one of them. The
/// client fetches while a partition has fewer, so that one fetch, of messages that are compressed, adds to them.
const QUEUED_MESSAGES: usize = 100_000;
const QUEUED_KIB: usize = 64 << 10;
const QUEUED_MESSAGES_MIN: usize = 500;
const QUEUED_KIB_MIN: usize = 256;

/// Bytes that a fetch asks for from all partitions, and the least and greatest number for one of them.
const FETCH_BYTES: usize = 16 << 20;
const FETCH_BYTES_MIN: usize = 64 << 10;
const FETCH_BYTES_MAX: usize = 1 << 20;

/// The end of reading in each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The end that the partition has when the topic is opened. Messages behind a transaction that is open then are not
    /// part of it.
    Latest,
    /// The first message at or after this time, in milliseconds since 1970.
    Time(u64),
    /// This offset.
    Offset(i64),
}

/// A range of the messages of a topic.
pub struct BoundedTopic {
    topic: Arc<Topic>,
    /// By partition, the first offset and the one after the last.
    ranges: BTreeMap<i32, (i64, i64)>,
    /// Messages at the end of partitions that an open transaction withholds.
    withheld: u64,
}

impl BoundedTopic {
    /// Opens a topic, and fixes the range to read.
    ///
    /// # Errors
    /// The topic does not exist, the brokers can't be reached, or a partition has nothing at the first offset any more.
    pub fn open(
        address: &Address,
        options: &ClientOptions,
        from: Start,
        until: Until,
    ) -> Result<Self, Failure> {
        let source = SourceOptions { start: from, ..SourceOptions::default() };
        let mut topic = Topic::open(address, options, source)?;
        let (mut ranges, mut withheld) = (BTreeMap::new(), 0);
        for (partition, start) in &topic.starts {
            let ends = topic.watch.status().partitions.get(partition).copied().flatten();
            let Some(ends) = ends else { continue };
            let wanted = match until {
                Until::Latest => None,
                Until::Offset(offset) => Some(offset),
                Until::Time(time) => topic.watch.first_at(address, *partition, time)?,
            };
            let end = wanted.unwrap_or(ends.end);
            withheld += u64::try_from(end.min(ends.end) - ends.stable.max(*start)).unwrap_or(0);
            ranges.insert(*partition, (*start, end.min(ends.stable).max(*start)));
        }
        let (given, partitions) = (client_config(address, options)?, ranges.len().max(1));
        let fetch = (FETCH_BYTES / partitions).clamp(FETCH_BYTES_MIN, FETCH_BYTES_MAX);
        // Each with its other name.
        for (option, other, value) in [
            ("queued.min.messages", "", (QUEUED_MESSAGES / partitions).max(QUEUED_MESSAGES_MIN)),
            ("queued.max.messages.kbytes", "", (QUEUED_KIB / partitions).max(QUEUED_KIB_MIN)),
            ("fetch.message.max.bytes", "max.partition.fetch.bytes", fetch),
        ] {
            if given.get(option).is_none() && given.get(other).is_none() {
                topic.config.set(option, value.to_string());
            }
        }
        Ok(BoundedTopic { topic: Arc::new(topic), ranges, withheld })
    }

    /// Returns the address of the topic.
    pub fn address(&self) -> &Address {
        &self.topic.address
    }

    /// Whether another one is the same topic, by whatever address.
    pub fn is_same(&self, other: &BoundedTopic) -> bool {
        let id = self.topic.id();
        self.topic.address == other.topic.address || id.is_some() && id == other.topic.id()
    }

    /// Returns the number of offsets that are left out at the ends of partitions, since a transaction before them was
    /// open when the topic was opened.
    pub fn withheld(&self) -> u64 {
        self.withheld
    }

    /// Returns the number of offsets in the range. Some may have no message.
    pub fn size(&self) -> u64 {
        self.ranges.values().map(|(from, to)| u64::try_from(to - from).unwrap_or(0)).sum()
    }

    /// Opens the partitions that have something in the range.
    pub fn partitions(&self) -> Result<Vec<BoundedPartition>, Failure> {
        let ranges = self.ranges.iter().filter(|(_, (from, to))| from < to);
        let starts: Vec<(i32, i64)> =
            ranges.map(|(partition, (from, _))| (*partition, *from)).collect();
        if starts.is_empty() {
            return Ok(Vec::new());
        }
        let topic = &self.topic;
        let queues = SplitConsumer::open(&topic.address.topic, &topic.config, &starts)?;
        let open = |queue: PartitionQueue| {
            let (next, end) = self.ranges[&queue.partition()];
            BoundedPartition { topic: topic.clone(), queue, next, end }
        };
        Ok(queues.into_iter().map(open).collect())
    }
}

/// A range of the messages of a partition.
pub struct BoundedPartition {
    topic: Arc<Topic>,
    queue: PartitionQueue,
    next: i64,
    end: i64,
}

impl BoundedPartition {
    /// Returns the number of the partition.
    pub fn number(&self) -> i32 {
        self.queue.partition()
    }

    /// Returns the topic.
    pub fn topic(&self) -> &Arc<Topic> {
        &self.topic
    }

    /// Returns the offset to be read next.
    pub fn next_offset(&self) -> i64 {
        self.next
    }

    /// Waits for messages, and calls `each` for them until it returns false. Returns whether more follow in the range.
    ///
    /// # Errors
    /// The topic can't be read to the end of the range.
    pub fn read(
        &mut self,
        mut each: impl FnMut(&ReceivedMessage<'_>) -> bool,
    ) -> Result<bool, Failure> {
        let Self { topic, queue, next, end } = self;
        let mut heard = Instant::now();
        while *next < *end {
            let (number, mut read, mut failure) = (queue.partition(), false, None);
            let polled = queue.poll(WAIT, |polled| {
                match polled {
                    Polled::Message { offset, .. } if offset >= *end => {
                        *next = *end;
                        return Step::Stop;
                    }
                    Polled::Message { offset, key, payload, timestamp_ms, headers, .. } => {
                        let message = Message { key, payload, timestamp_ms };
                        let goes_on = each(&ReceivedMessage::new(number, offset, message, headers));
                        (*next, read) = (offset + 1, true);
                        return if goes_on { Step::Next } else { Step::Stop };
                    }
                    Polled::End { offset, .. } => *next = offset.max(*next),
                    Polled::OutOfRange { why, .. } => {
                        failure = Some(offset_error(topic, number, *next, &why));
                    }
                    Polled::Unknown => topic.watch.check_now(),
                    Polled::Failed { why } => {
                        let error = anyhow!("{why}").context(topic.reading());
                        failure = Some(Failure::new(Exit::Failed, error));
                    }
                }
                Step::Next
            });
            if let Some(failure) = failure {
                return Err(failure);
            }
            topic.check()?;
            if read && *next < *end {
                return Ok(true);
            }
            if polled {
                heard = Instant::now();
            }
            let outage = topic.outage();
            let silence_max = if outage.is_some() { OUTAGE_MAX } else { SILENCE_MAX };
            if heard.elapsed() >= silence_max {
                let why = outage.map_or(String::new(), |(_, why)| format!(": {why}"));
                let error = anyhow!(
                    "\"{}\", partition {number}: no message for {silence_max:?}, at offset {next} of {end}{why}; \
                     start again when its broker responds",
                    topic.address
                );
                return Err(Failure::new(Exit::Unavailable, error));
            }
        }
        queue.stop();
        Ok(false)
    }
}
