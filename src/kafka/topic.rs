//! An open topic: its partitions, where each is read from, and its state at the brokers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;

use super::contents::Contents;
use super::ends::{Ends, Withheld};
use super::topic_client::isolation;
use super::watch::{SourceOptions, TopicWatch};
use super::{Address, ClientOptions, client_config};
use crate::base::error::Failure;

/// Greatest size of a response to one fetch, unless messages may be larger.
const FETCH_MAX_BYTES: u64 = 8 << 20;

/// An open topic. Each process opens it once.
pub struct Topic {
    pub(super) address: Address,
    pub(super) config: ClientConfig,
    pub(super) options: SourceOptions,
    pub(super) watch: TopicWatch,
    pub(super) starts: BTreeMap<i32, i64>,
    pub(super) contents: Contents,
    /// Partitions that had nothing left to read when the topic was opened, and had messages before.
    pub(super) exhausted: BTreeSet<i32>,
}

/// The settings of consumers, beside those of every client.
pub(super) fn consumer_config(
    address: &Address,
    options: &ClientOptions,
    group: &str,
) -> Result<ClientConfig, Failure> {
    let mut config = client_config(address, options)?;
    // No code reads the statistics of consumers: the state of the brokers comes from requests.
    config.set("statistics.interval.ms", "0");
    // The group only stores offsets; it never assigns partitions.
    config.set("group.id", group);
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    // A consumer must not silently skip from an expired offset to another one.
    config.set("auto.offset.reset", "error");
    // The end event gives the offset after control messages of transactions, too.
    config.set("enable.partition.eof", "true");
    // librdkafka rejects a fetch size smaller than the greatest message that the user allows.
    let message_max = config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
    let fetch_max = FETCH_MAX_BYTES.max(message_max.unwrap_or(0)).to_string();
    // An option that the user has set by -X takes precedence.
    let mut tune = |key: &str, value: &str| {
        if config.get(key).is_none() {
            config.set(key, value);
        }
    };
    // Prefetched from all partitions together: with fewer messages the worker sometimes waits for the client. Small
    // messages take ten times their size in the client, so there are two bounds.
    tune("queued.min.messages", "100000");
    tune("queued.max.messages.kbytes", "16384");
    // One response, with all partitions of a broker, adds to these bounds.
    tune("fetch.max.bytes", &fetch_max);
    // The broker responds once it has this many bytes, or after the wait: fewer, larger responses under load.
    tune("fetch.min.bytes", "1");
    tune("fetch.wait.max.ms", "100");
    // The client fetches a paused or full partition again after this time.
    tune("fetch.queue.backoff.ms", "10");
    Ok(config)
}

impl Topic {
    /// Opens a topic: requests its partitions and their first offsets to read.
    pub fn open(
        address: &Address,
        options: &ClientOptions,
        source: SourceOptions,
    ) -> Result<Self, Failure> {
        let config = consumer_config(address, options, &source.group)?;
        let (watch, starts) = TopicWatch::open(address, &config, &source)?;
        let known = watch.status().partitions.clone();
        let is_exhausted = |(partition, start): (&i32, &i64)| {
            let end = known.get(partition).copied().flatten()?.end;
            (*start > 0 && *start >= end).then_some(*partition)
        };
        let exhausted = starts.iter().filter_map(is_exhausted).collect();
        let ends = known.iter().filter_map(|(partition, ends)| Some((*partition, (*ends)?.stable)));
        let contents = Contents::new(&starts, ends);
        let (address, options) = (address.clone(), source);
        Ok(Topic { address, config, options, watch, starts, contents, exhausted })
    }

    /// Returns the kinds of messages found in the topic: records, or this program's own output.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Returns the id of the topic, if the brokers give ids.
    pub fn id(&self) -> Option<String> {
        self.watch.topic_id().map(ToString::to_string)
    }

    /// Returns the `isolation.level` of the consumers.
    pub fn isolation(&self) -> &str {
        isolation(&self.config)
    }

    /// Returns the context of a reading error.
    pub(super) fn reading(&self) -> String {
        format!("reading from \"{}\"", self.address)
    }

    /// Returns the address of the topic.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the known offsets at which partitions count as read to their ends: the last stable offset if an open
    /// transaction is skipped, or else the high watermark.
    pub fn ends(&self) -> BTreeMap<i32, i64> {
        let status = self.watch.status();
        let ends =
            status.partitions.iter().map(|(partition, ends)| Some((*partition, (*ends)?.due())));
        ends.flatten().collect()
    }

    /// Returns the offsets at which reading begins.
    pub fn starts(&self) -> &BTreeMap<i32, i64> {
        &self.starts
    }

    /// Returns the first offset of a partition, and the one after its last message, if they are known.
    pub fn range(&self, partition: i32) -> Option<(i64, i64)> {
        let ends = self.watch.status().partitions.get(&partition).copied().flatten()?;
        Some((ends.first, ends.end))
    }

    /// Returns an error if the topic was deleted, replaced or cut back.
    pub fn check(&self) -> Result<(), Failure> {
        self.watch.lost().map_or(Ok(()), |lost| Err(lost.failure(&self.address)))
    }

    /// Whether the topic was deleted, replaced or cut back.
    pub fn is_lost(&self) -> bool {
        self.watch.lost().is_some()
    }

    /// Returns the time for which no response has contained the topic, if it is missing.
    pub fn missing(&self) -> Option<Duration> {
        self.watch.status().missing.map(|since| since.elapsed())
    }

    /// Returns the time without messages after which a partition is idle.
    pub fn idle_timeout(&self) -> Duration {
        self.options.idle_timeout
    }

    /// Returns the last response about each partition that has one.
    pub fn responses(&self) -> Vec<BrokerResponse> {
        let status = self.watch.status();
        let responses = status.partitions.iter().filter_map(|(partition, ends)| {
            let ends = (*ends)?;
            let Ends { end, stable, withheld, requested_at, .. } = ends;
            Some(BrokerResponse {
                partition: *partition,
                end,
                stable,
                due: ends.due(),
                withheld,
                requested_at,
            })
        });
        responses.collect()
    }

    /// Returns the duration of the current outage and its reason, if the brokers do not respond.
    pub fn outage(&self) -> Option<(Duration, String)> {
        let status = self.watch.status();
        status.outage.as_ref().map(|(since, why)| (since.elapsed(), why.clone()))
    }
}

/// The last response of a broker about a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerResponse {
    /// The number of the partition.
    pub partition: i32,
    /// The high watermark: the offset after the last message.
    pub end: i64,
    /// The offset up to which consumers get messages: below `end` while a transaction is open.
    pub stable: i64,
    /// The offset at which the partition counts as read to its end.
    pub due: i64,
    /// The messages behind an open transaction, which consumers do not get.
    pub withheld: Option<Withheld>,
    /// The time of the request.
    pub requested_at: Instant,
}
