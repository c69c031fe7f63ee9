//! Requests to the brokers about a topic.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataBroker};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::ends::Ends;
use super::producers::{self, TransactionProducer};
use super::topic_id::{self, IdResponse, TopicId};
use super::topics::REACH_TIMEOUT;
use super::{Context, Error, setup};

/// The option that decides whether a consumer gets messages of open and aborted transactions.
const ISOLATION: &str = "isolation.level";

/// The values of that option; the first is librdkafka's default.
const COMMITTED: &str = "read_committed";
const UNCOMMITTED: &str = "read_uncommitted";

/// Returns the effective `isolation.level` of a consumer with this configuration.
pub(super) fn isolation(config: &ClientConfig) -> &'static str {
    let level = config.get(ISOLATION);
    match level.is_some_and(|level| level.eq_ignore_ascii_case(UNCOMMITTED)) {
        true => UNCOMMITTED,
        false => COMMITTED,
    }
}

/// Time limit for naming the leader of a partition whose transaction is overdue.
const PRODUCER_TIMEOUT: Duration = Duration::from_secs(2);

/// The prefix of a topic's id in the metadata of a committed offset.
const ID_IN_COMMIT: &str = "topic-id=";

/// An offset that a group has committed.
pub(super) struct Committed {
    pub(super) offset: i64,
    /// The id of the topic that the offset belongs to, if it was committed by this program.
    pub(super) topic_id: Option<TopicId>,
}

/// Returns the metadata to commit with an offset, which ties the offset to this topic and not to another one of
/// the same name.
pub(super) fn commit_metadata(topic_id: &TopicId) -> String {
    format!("{ID_IN_COMMIT}{topic_id}")
}

/// Sends requests about one topic.
pub(super) struct TopicClient {
    topic: String,
    /// The client whose responses include messages of open transactions.
    client: BaseConsumer<Context>,
    /// The client whose responses end at the last stable offset; `None` if consumers read beyond that offset.
    stable: Option<BaseConsumer<Context>>,
    /// Whether connections use neither TLS nor passwords.
    plaintext: bool,
    /// The broker that responded last; -1 before the first response.
    broker: AtomicI32,
}

impl TopicClient {
    /// Sets up the clients; `config` is that of consumers of the topic.
    pub(super) fn new(topic: &str, config: &ClientConfig) -> Result<Self, Error> {
        let mut all = config.clone();
        all.set(ISOLATION, UNCOMMITTED);
        let committed = isolation(config) == COMMITTED;
        let open = |config: &ClientConfig| setup::create(config, Context::new());
        let stable = committed.then(|| open(config)).transpose()?;
        let protocol = config.get("security.protocol");
        let plaintext = protocol.is_none_or(|protocol| protocol.eq_ignore_ascii_case("plaintext"));
        let (topic, client, broker) = (topic.to_owned(), open(&all)?, AtomicI32::new(-1));
        Ok(TopicClient { topic, client, stable, plaintext, broker })
    }

    /// Runs callbacks, such as those of logs.
    pub(super) fn poll(&self) {
        for client in std::iter::once(&self.client).chain(&self.stable) {
            drop(client.poll(Duration::ZERO));
        }
    }

    /// Returns the last connection error.
    pub(super) fn last_error(&self) -> Option<String> {
        self.client.context().last_error()
    }

    fn metadata(&self, timeout: Duration) -> Result<Metadata, KafkaError> {
        let metadata = self.client.fetch_metadata(Some(&self.topic), timeout)?;
        // A bootstrap broker has no number yet.
        let first = metadata.brokers().first().map(MetadataBroker::id);
        let responder = Some(metadata.orig_broker_id()).filter(|broker| *broker >= 0);
        self.broker.store(responder.or(first).unwrap_or(-1), Ordering::Relaxed);
        Ok(metadata)
    }

    /// Requests the number of partitions.
    pub(super) fn partition_count(&self, timeout: Duration) -> Result<i32, KafkaError> {
        let metadata = self.metadata(timeout)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        let count = topic.map_or(0, |topic| topic.partitions().len());
        Ok(i32::try_from(count).expect("Kafka counts partitions in 32 bits"))
    }

    /// Requests the id of the topic.
    #[expect(unsafe_code, reason = "the id is in the C interface of librdkafka alone")]
    pub(super) fn topic_id(&self, timeout: Duration) -> Result<IdResponse, RDKafkaErrorCode> {
        if self.broker.load(Ordering::Relaxed) < 0 {
            let fetched = self.metadata(timeout);
            fetched
                .map_err(|error| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))?;
        }
        let (client, broker) = (self.client.client(), self.broker.load(Ordering::Relaxed));
        let client = client.native_ptr();
        // SAFETY: the client is valid.
        let found = unsafe { topic_id::fetch(client, Some(broker), &self.topic, timeout) };
        if found.is_err() {
            // Another broker may respond.
            self.broker.store(-1, Ordering::Relaxed);
        }
        found
    }

    /// Requests the ends of a partition. The last stable offset is requested after the high watermark: if it is
    /// lower, messages are withheld, not merely new. `before` is the previous response.
    pub(super) fn ends(
        &self,
        partition: i32,
        before: Option<&Ends>,
        timeout: Duration,
    ) -> Result<Ends, KafkaError> {
        let requested_at = Instant::now();
        let (first, end) = self.client.fetch_watermarks(&self.topic, partition, timeout)?;
        let known_stable = before.is_some_and(|before| before.stable == end);
        let stable = match &self.stable {
            Some(client) if !known_stable => {
                let left =
                    timeout.saturating_sub(requested_at.elapsed()).max(Duration::from_millis(100));
                client.fetch_watermarks(&self.topic, partition, left)?.1
            }
            _ => end,
        };
        Ok(Ends::new(first, end, stable, requested_at))
    }

    /// Requests the producer of the transaction that begins at an offset; `None` if the brokers do not report it.
    pub(super) fn producer(&self, partition: i32, offset: i64) -> Option<TransactionProducer> {
        if !self.plaintext {
            return None;
        }
        let metadata = self.metadata(PRODUCER_TIMEOUT).ok()?;
        let address = |broker: &MetadataBroker| {
            Some((broker.host().to_owned(), u16::try_from(broker.port()).ok()?))
        };
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic)?;
        let leader = topic.partitions().iter().find(|one| one.id() == partition)?.leader();
        let leader = metadata.brokers().iter().find(|broker| broker.id() == leader)?;
        let brokers: Vec<_> = metadata.brokers().iter().filter_map(address).collect();
        let found = producers::find(&address(leader)?, &brokers, &self.topic, partition, offset);
        found.unwrap_or_else(|error| {
            tracing::debug!(partition, %error, "cannot read the producer of the transaction");
            None
        })
    }

    /// Requests the first offset at or after a time; `None` if there is none.
    pub(super) fn first_at(
        &self,
        partition: i32,
        time: u64,
        timeout: Duration,
    ) -> Result<Option<i64>, KafkaError> {
        let time = i64::try_from(time).unwrap_or(i64::MAX);
        let mut times = TopicPartitionList::new();
        times.add_partition_offset(&self.topic, partition, Offset::Offset(time))?;
        let found = self.client.offsets_for_times(times, timeout)?;
        let found = found.find_partition(&self.topic, partition).map(|found| found.offset());
        Ok(found.and_then(|offset| match offset {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }

    /// Requests the last committed offset of the group, if there is one.
    pub(super) fn committed(&self, partition: i32) -> Result<Option<Committed>, KafkaError> {
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(&self.topic, partition);
        let list = self.client.committed_offsets(wanted, REACH_TIMEOUT)?;
        let found = list.find_partition(&self.topic, partition).map(|found| found.offset());
        let Some(Offset::Offset(offset)) = found else {
            return Ok(None);
        };
        let metadata = topic_id::metadata(&list);
        let topic_id = metadata.and_then(|text| text.strip_prefix(ID_IN_COMMIT));
        Ok(Some(Committed { offset, topic_id: topic_id.map(TopicId::new) }))
    }
}
