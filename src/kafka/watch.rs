//! Watches a topic: a thread regularly requests its partitions, their first and last offsets, and its id from the
//! brokers.
//!
//! The fetches of a consumer are not enough: they do not distinguish "no more messages" from "no broker responds".

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::ends::{Bounds, Ends};
use super::error::similar_text;
use super::lost::TopicLoss;
use super::topic_client::TopicClient;
use super::topic_id::{IdResponse, TopicId};
use super::topics::{self, REACH_TIMEOUT};
use super::{Address, Error};
use crate::base::date::format_ms;
use crate::base::error::{Exit, Failure};
use crate::base::quote::Quoted;

/// Time limit for a response, once the brokers were reached: a stuck broker must not delay the requests to the
/// others for long.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for a response after another request of the same round has failed.
const LATER_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before a request is repeated while the leader of its partition is unknown.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Greatest interval between two requests about partitions, so that operators see a current lag.
const INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Longest time between two requests for the topic's id: for this long, messages of a new topic may count as messages
/// of the old one.
const ID_INTERVAL: Duration = Duration::from_secs(1);

/// Longest time between two requests for the topic's id while there is no response.
const ID_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Time limit for the response to a request for the topic's id.
const ID_TIMEOUT: Duration = Duration::from_secs(2);

/// Least time for which a topic must be missing, or a partition end before its earlier end, to count as lost:
/// a broker that has just started, or has just become the leader, may not be up to date.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// The position at which reading starts in each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first message that the broker has.
    Earliest,
    /// The first message that arrives after this program has started.
    Latest,
    /// The first message at or after this time, in milliseconds since 1970.
    At(u64),
    /// The offset that the group has committed; in partitions where it has committed none, the first message.
    Committed,
    /// This offset of each partition.
    Offset(i64),
}

/// The options for reading a topic.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The first message to read.
    pub start: Start,
    /// Time of silence after which a partition is idle.
    pub idle_timeout: Duration,
    /// Greatest lead of a partition over the slowest one, in milliseconds of event time.
    pub max_skew_ms: u64,
    /// The group under which offsets are committed.
    pub group: String,
    /// Time after which an open transaction is an error.
    pub max_transaction: Duration,
    /// Whether a partition counts as read to its end at a transaction that has been open for longer.
    pub skip_open_transactions: bool,
}

impl Default for SourceOptions {
    fn default() -> Self {
        SourceOptions {
            start: Start::Earliest,
            idle_timeout: Duration::from_secs(30),
            max_skew_ms: u64::MAX,
            group: "floodmark".into(),
            max_transaction: Duration::from_secs(15 * 60),
            skip_open_transactions: false,
        }
    }
}

/// The state of a topic as the brokers have reported it.
#[derive(Debug)]
pub(super) struct TopicStatus {
    /// By partition, the last response; `None` before the first one. A request that fails changes nothing here.
    pub(super) partitions: BTreeMap<i32, Option<Ends>>,
    /// While requests fail: the time of the first failure, and the latest error.
    pub(super) outage: Option<(Instant, String)>,
    /// The time since which no response has contained the topic, if it is missing.
    pub(super) missing: Option<Instant>,
}

/// The state that the watching thread shares with readers.
struct SharedStatus {
    status: Mutex<TopicStatus>,
    /// The reason why reading ends, once there is one.
    lost: OnceLock<TopicLoss>,
    /// The id of the topic, from the first response with an id.
    id: OnceLock<TopicId>,
}

impl SharedStatus {
    fn status(&self) -> MutexGuard<'_, TopicStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the topic on its own thread, until it is dropped.
pub(super) struct TopicWatch {
    shared: Arc<SharedStatus>,
    client: Arc<TopicClient>,
    /// Makes the thread request the topic's id at once. The thread ends when this sender is dropped.
    wake: SyncSender<()>,
}

/// Time limits and intervals for watching a topic.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// The time between two requests about partitions.
    interval: Duration,
    /// Time for which a topic may be missing.
    missing_max: Duration,
    transactions: Bounds,
}

impl Timing {
    fn of(options: &SourceOptions) -> Self {
        let SourceOptions { idle_timeout, max_transaction, skip_open_transactions, .. } = *options;
        Timing {
            // Several responses must fit into the idle timeout, by which a partition counts as idle.
            interval: (idle_timeout / 4).clamp(Duration::from_millis(50), INTERVAL_MAX),
            missing_max: LOST_AFTER.max(idle_timeout),
            transactions: Bounds { max_transaction, skip: skip_open_transactions },
        }
    }
}

impl TopicWatch {
    /// Requests the partitions, and the first offset to read of each.
    pub(super) fn open(
        address: &Address,
        config: &ClientConfig,
        options: &SourceOptions,
    ) -> Result<(Self, BTreeMap<i32, i64>), Failure> {
        let client = TopicClient::new(&address.topic, config)?;
        let failed = |error: Error| {
            let exit = error.exit();
            let error = anyhow::Error::new(error).context(format!("reading from \"{address}\""));
            Failure::new(exit, error)
        };
        let count = match topics::existing(address, config) {
            Err(Error::UnknownTopic { topic, brokers, similar, .. }) => {
                let error = anyhow!(
                    "there is no topic \"{topic}\" at {brokers}{} (check the name, or create it first: \
                     floodmark capture --create-topic does)",
                    similar_text(similar.as_deref())
                );
                return Err(Failure::new(Exit::NoInput, error));
            }
            count => count.map_err(failed)?,
        };
        let count = i32::try_from(count).expect("Kafka counts partitions in 32 bits");
        // Read before any offset: if the topic is replaced meanwhile, the offsets mean nothing.
        let id = match client.topic_id(REACH_TIMEOUT) {
            Ok(IdResponse::Id(id)) => Some(id),
            Ok(IdResponse::NoId | IdResponse::NoTopic) => None,
            Err(error) => {
                tracing::debug!(%error, "cannot read the id of the topic");
                None
            }
        };
        let opening = Opening { address, client: &client, options, id: id.as_ref() };
        let mut status = TopicStatus { partitions: BTreeMap::new(), outage: None, missing: None };
        let mut starts = BTreeMap::new();
        for partition in 0..count {
            let (ends, at) = opening.partition(partition)?;
            starts.insert(partition, at);
            status.partitions.insert(partition, Some(ends));
        }
        let shared =
            SharedStatus { status: Mutex::new(status), lost: OnceLock::new(), id: OnceLock::new() };
        if let Some(id) = id {
            shared.id.get_or_init(|| id);
        }
        let (shared, client) = (Arc::new(shared), Arc::new(client));
        let (wake, wakeups) = sync_channel(1);
        let watcher = TopicWatcher {
            address: address.clone(),
            client: client.clone(),
            shared: shared.clone(),
            timing: Timing::of(options),
        };
        std::thread::Builder::new()
            .name("topic watch".into())
            .spawn(move || watcher.run(&wakeups))
            .context("starting the thread that watches the topic")?;
        Ok((TopicWatch { shared, client, wake }, starts))
    }

    /// Locks and returns the current status.
    pub(super) fn status(&self) -> MutexGuard<'_, TopicStatus> {
        self.shared.status()
    }

    /// Returns the reason why reading ends, if there is one.
    pub(super) fn lost(&self) -> Option<&TopicLoss> {
        self.shared.lost.get()
    }

    /// Returns the id of the topic, if the brokers have topic ids.
    pub(super) fn topic_id(&self) -> Option<&TopicId> {
        self.shared.id.get()
    }

    /// Requests a comparison of the topic's id at once: a consumer has reported the topic as missing.
    pub(super) fn check_now(&self) {
        // The thread outlives this sender, and one pending request is enough.
        let _ = self.wake.try_send(());
    }

    /// Requests the first offset of a partition at or after a time; `None` if there is none.
    pub(super) fn first_at(
        &self,
        address: &Address,
        partition: i32,
        time: u64,
    ) -> Result<Option<i64>, Failure> {
        first_at(&self.client, address, partition, time)
    }

    /// Asks the brokers why a partition has no message at `next`. `truncated`: the leader's log has another history
    /// up to there. `None`: the messages have expired.
    pub(super) fn missing_offset(
        &self,
        partition: i32,
        next: i64,
        truncated: bool,
    ) -> Option<TopicLoss> {
        if let (Some(was), Ok(IdResponse::Id(is))) =
            (self.topic_id(), self.client.topic_id(ID_TIMEOUT))
            && *was != is
        {
            return Some(TopicLoss::Replaced { was: was.clone(), is });
        }
        let ends = self.client.ends(partition, None, ID_TIMEOUT).ok()?;
        let Ends { end, .. } = ends;
        (truncated || end < next).then_some(TopicLoss::CutBack { partition, was: next, is: end })
    }
}

/// A topic that is being opened.
struct Opening<'a> {
    address: &'a Address,
    client: &'a TopicClient,
    options: &'a SourceOptions,
    id: Option<&'a TopicId>,
}

impl Opening<'_> {
    /// Requests the ends of a partition and the first offset to read.
    fn partition(&self, partition: i32) -> Result<(Ends, i64), Failure> {
        let client = self.client;
        let unreachable = |error: KafkaError| unreachable(client, self.address, &error);
        let ends = retry_until_leader_known(|left| client.ends(partition, None, left))
            .map_err(unreachable)?;
        let at = match self.options.start {
            Start::Earliest => ends.first,
            // Messages behind an open transaction arrive later, when the transaction ends.
            Start::Latest => ends.stable,
            Start::At(time) => {
                let at = first_at(client, self.address, partition, time)?.unwrap_or(ends.end);
                tracing::debug!(partition, offset = at, time = %format_ms(time), "first offset found");
                at
            }
            Start::Committed => {
                let found = client.committed(partition).map_err(unreachable)?;
                if let Some(committed) = &found
                    && let (Some(of), Some(is)) = (&committed.topic_id, self.id)
                    && of != is
                {
                    return Err(self.committed_elsewhere(partition, committed.offset, of, is));
                }
                let found = found.map(|committed| committed.offset);
                tracing::info!(
                    partition,
                    offset = found,
                    first = ends.first,
                    "committed offset found"
                );
                found.unwrap_or(ends.first)
            }
            Start::Offset(offset) if offset < ends.first => {
                let error = anyhow!(
                    "\"{}\", partition {partition}: offset {offset} (--from-offset) does not exist any more: the \
                     partition begins at {}; give --from-offset earliest, or a later one",
                    self.address,
                    ends.first
                );
                return Err(Failure::new(Exit::NoInput, error));
            }
            Start::Offset(offset) => offset.min(ends.end),
        };
        Ok((ends, at))
    }

    fn committed_elsewhere(
        &self,
        partition: i32,
        offset: i64,
        of: &TopicId,
        is: &TopicId,
    ) -> Failure {
        let error = anyhow!(
            "topic {} at {} was deleted and created again since group {} has committed offset {offset} \
             of its partition {partition} (its id was {of} and is {is}): the offset means nothing in \
             the new topic. Give --from-offset earliest once, or a new --group",
            Quoted(&self.address.topic),
            self.address.brokers,
            Quoted(&self.options.group),
        );
        Failure::new(Exit::BadConfig, error)
    }
}

fn first_at(
    client: &TopicClient,
    address: &Address,
    partition: i32,
    time: u64,
) -> Result<Option<i64>, Failure> {
    let found = retry_until_leader_known(|left| client.first_at(partition, time, left));
    found.map_err(|error| unreachable(client, address, &error))
}

fn unreachable(client: &TopicClient, address: &Address, error: &KafkaError) -> Failure {
    let why = client.last_error().unwrap_or_else(|| error.to_string());
    let error = anyhow!("{why}").context(format!("reading from \"{address}\""));
    Failure::new(Exit::Unavailable, error)
}

/// Repeats a request while the leader of a partition is unknown, for at most [`REACH_TIMEOUT`]. The leader is unknown
/// for a moment after a topic was created or a broker was started.
fn retry_until_leader_known<T>(
    request: impl Fn(Duration) -> Result<T, KafkaError>,
) -> Result<T, KafkaError> {
    let until = Instant::now() + REACH_TIMEOUT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let response = request(left.max(RETRY_PAUSE));
        let code = response.as_ref().err().and_then(KafkaError::rdkafka_error_code);
        let unsettled = matches!(
            code,
            Some(
                RDKafkaErrorCode::NotLeaderForPartition
                    | RDKafkaErrorCode::LeaderNotAvailable
                    | RDKafkaErrorCode::UnknownTopicOrPartition
            )
        );
        if !unsettled || left.is_zero() {
            return response;
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// The thread that sends the requests.
struct TopicWatcher {
    address: Address,
    client: Arc<TopicClient>,
    shared: Arc<SharedStatus>,
    timing: Timing,
}

impl TopicWatcher {
    fn run(&self, wakeups: &Receiver<()>) {
        let mut next = Instant::now() + self.timing.interval;
        // The pause between requests for the id grows while brokers do not respond with it.
        let (mut next_id, mut pause) = (Instant::now(), ID_INTERVAL);
        while self.shared.lost.get().is_none() {
            let left = next.saturating_duration_since(Instant::now());
            let woken = wakeups.recv_timeout(left.min(ID_INTERVAL));
            if woken == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            // During an outage, only the ends are requested, so that one request waits at a time.
            let failing = self.shared.status().outage.is_some();
            let due = woken.is_ok() || Instant::now() >= next_id;
            let responded = !failing && due && self.compare_id();
            if due && !failing {
                pause = if responded { ID_INTERVAL } else { (2 * pause).min(ID_PAUSE_MAX) };
                next_id = Instant::now() + if responded { Duration::ZERO } else { pause };
            }
            if Instant::now() >= next || (due && !responded) {
                self.request_ends();
                next = Instant::now() + self.timing.interval;
            }
        }
    }

    fn set_lost(&self, lost: TopicLoss) {
        // The first reason wins.
        let _ = self.shared.lost.set(lost);
    }

    /// Compares the topic's id with the earlier one. Returns whether a broker responded.
    fn compare_id(&self) -> bool {
        match self.client.topic_id(ID_TIMEOUT) {
            Ok(IdResponse::Id(is)) => {
                self.shared.status().missing = None;
                let was = self.shared.id.get_or_init(|| is.clone());
                // A single response may come from a broker that is not up to date.
                if *was != is && self.client.topic_id(ID_TIMEOUT) == Ok(IdResponse::Id(is.clone()))
                {
                    self.set_lost(TopicLoss::Replaced { was: was.clone(), is });
                }
                true
            }
            Ok(IdResponse::NoId) => {
                self.shared.status().missing = None;
                true
            }
            Ok(IdResponse::NoTopic) => {
                self.note_missing();
                true
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read the id of the topic");
                false
            }
        }
    }

    /// Notes that a broker has no such topic.
    fn note_missing(&self) {
        let mut status = self.shared.status();
        if status.missing.is_none() {
            tracing::warn!(topic = self.address.topic, "the topic does not exist any more");
        }
        let lasting = status.missing.get_or_insert_with(Instant::now).elapsed();
        drop(status);
        if lasting >= self.timing.missing_max {
            self.set_lost(TopicLoss::Deleted { lasting });
        }
    }

    /// Requests the ends of all partitions once.
    fn request_ends(&self) {
        self.client.poll();
        let mut failed = false;
        match self.client.partition_count(RESPONSE_TIMEOUT) {
            Ok(count) => self.update_partition_count(count),
            Err(error) => {
                failed = true;
                self.note_failure(&error);
            }
        }
        // While the topic is missing, no broker knows the ends of its partitions.
        let missing = self.shared.status().missing.is_some();
        for (partition, before) in self.poll_order().into_iter().filter(|_| !missing) {
            // A partition without a leader does not affect the others; but if no broker responds, waiting for each
            // partition takes long.
            let timeout = if failed { LATER_TIMEOUT } else { RESPONSE_TIMEOUT };
            match self.client.ends(partition, before.as_ref(), timeout) {
                Ok(ends) => self.update_ends(partition, ends, before.as_ref()),
                Err(error) => {
                    failed = true;
                    self.note_failure(&error);
                }
            }
        }
        let mut status = self.shared.status();
        if let Some((since, _)) = status.outage.take_if(|_| !failed) {
            let (topic, seconds) = (&self.address.topic, since.elapsed().as_secs());
            tracing::info!(topic, seconds, "the brokers respond again");
        }
    }

    /// Adds new partitions. A smaller number of partitions ends reading.
    fn update_partition_count(&self, count: i32) {
        let was = i32::try_from(self.shared.status().partitions.len()).unwrap_or(i32::MAX);
        // A topic that is being deleted has no partitions for a while; the earlier ones stay in the status.
        if count > 0 && count < was {
            // A changed id is the more precise reason, so it is compared first.
            self.compare_id();
            self.set_lost(TopicLoss::Shrunk { was, is: count });
        }
        let mut status = self.shared.status();
        for partition in 0..count {
            status.partitions.entry(partition).or_insert(None);
        }
    }

    /// Returns the partitions and their last responses, those with the latest responses first: a partition
    /// without a response must not delay the others.
    fn poll_order(&self) -> Vec<(i32, Option<Ends>)> {
        let status = self.shared.status();
        let mut partitions: Vec<(i32, Option<Ends>)> =
            status.partitions.iter().map(|(partition, ends)| (*partition, *ends)).collect();
        partitions.sort_by_key(|(partition, ends)| {
            (Reverse(ends.map(|ends| ends.requested_at)), *partition)
        });
        partitions
    }

    fn update_ends(&self, partition: i32, ends: Ends, before: Option<&Ends>) {
        let Some(before) = before else {
            self.shared.status().partitions.insert(partition, Some(ends));
            return;
        };
        // A longer time without a response counts as an interruption.
        let break_after = 4 * self.timing.interval;
        let connected = self.shared.status().outage.is_none()
            && ends.requested_at.saturating_duration_since(before.requested_at) <= break_after;
        let ends = ends.after(before, connected, self.timing.transactions);
        // The log names an overdue transaction before a reader can end because of it.
        self.report_transaction(partition, &ends, before);
        self.shared.status().partitions.insert(partition, Some(ends));
        if ends.cut_back.is_some_and(|since| since.elapsed() >= LOST_AFTER) {
            self.set_lost(TopicLoss::CutBack { partition, was: ends.peak, is: ends.end });
        }
    }

    /// Logs a transaction that has become overdue, or an overdue one that has ended.
    fn report_transaction(&self, partition: i32, ends: &Ends, before: &Ends) {
        let overdue = |ends: &Ends| ends.withheld.filter(|withheld| withheld.overdue);
        let Address { topic, brokers } = &self.address;
        let (offset, messages) = (ends.stable, ends.end - ends.stable);
        match (overdue(before), overdue(ends)) {
            (None, Some(withheld)) => {
                let seconds = ends.requested_at.saturating_duration_since(withheld.since).as_secs();
                let consequence = match withheld.skipped {
                    true => {
                        "the partition counts as read to its end (--skip-open-transactions), and \
                         messages that the broker releases later may be late"
                    }
                    false => "the partition holds the watermark until the transaction ends",
                };
                let producer = self.client.producer(partition, offset);
                let producer = producer.as_ref();
                tracing::error!(
                    topic,
                    partition,
                    offset,
                    messages,
                    seconds,
                    producer_id = producer.map(|producer| producer.id),
                    producer_epoch = producer.map(|producer| producer.epoch),
                    transactional_id = producer.and_then(|one| one.transactional_id.as_deref()),
                    "topic \"{topic}\", partition {partition}: a transaction that begins at offset \
                     {offset} has been open for longer than --max-transaction, and the broker \
                     withholds all messages from there on; {consequence}. See its producer with \
                     kafka-transactions.sh --bootstrap-server {brokers} describe-producers --topic \
                     {topic} --partition {partition}, and end it with kafka-transactions.sh \
                     --bootstrap-server {brokers} abort --topic {topic} --partition {partition} \
                     --start-offset {offset}"
                );
            }
            (Some(_), None) => {
                tracing::info!(topic, partition, offset, "the overdue transaction has ended");
            }
            _ => {}
        }
    }

    fn note_failure(&self, error: &KafkaError) {
        let mut status = self.shared.status();
        if let Some((_, why)) = &mut status.outage {
            *why = error.to_string();
            return;
        }
        let topic = &self.address.topic;
        tracing::warn!(topic, %error, "the brokers do not respond: no window closes meanwhile");
        status.outage = Some((Instant::now(), error.to_string()));
    }
}
