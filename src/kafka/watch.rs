//! Watches a topic: a thread requests its partitions, their first and last offsets, and its id from the brokers
//! again and again.
//!
//! A consumer's fetches would not do: only a response tells "there is nothing more" from "no broker responds".

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::asker::Asker;
use super::ends::{Bounds, Ends};
use super::error::similar_text;
use super::lost::Lost;
use super::topic_id::{Found, TopicId};
use super::topics::{self, REACH_TIMEOUT};
use super::{Address, Error};
use crate::base::date::format_ms;
use crate::base::error::{Exit, Failure};
use crate::base::quote::Quoted;

/// Time limit for a response, once the brokers were reached: a stuck broker must not delay the requests to the
/// others for long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for a response after another request of the same round had none.
const LATER_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before a request is repeated while the leader of its partition is unknown.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Greatest interval between two requests about partitions: an operator sees the lag move.
const INTERVAL_MAX: Duration = Duration::from_secs(5);

/// The longest time between two requests for the topic's id: for so long, messages of a new topic may be
/// taken for those of the old one.
const ID_INTERVAL: Duration = Duration::from_secs(1);

/// The longest time between two requests for the topic's id where there was no answer.
const ID_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Time limit for the answer to a request for the topic's id.
const ID_TIMEOUT: Duration = Duration::from_secs(2);

/// Least time for which a topic must be missing, or a partition end before its earlier end, to count as lost:
/// a broker that has just started, or has just become the leader, may not be up to date.
const DOUBT: Duration = Duration::from_secs(10);

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
    /// Whether a partition is read on as if there were nothing behind a transaction that is open for
    /// longer.
    pub skip_open_transactions: bool,
}

/// The state of a topic as the brokers have reported it.
#[derive(Debug)]
pub(super) struct Known {
    /// By partition, the last response; `None` before the first one. A request that fails changes nothing here.
    pub(super) partitions: BTreeMap<i32, Option<Ends>>,
    /// While requests fail: the time of the first failure, and the latest error.
    pub(super) trouble: Option<(Instant, String)>,
    /// The time since which all answers have said that there is no such topic.
    pub(super) missing: Option<Instant>,
}

/// The state that the watching thread shares with readers.
struct Shared {
    known: Mutex<Known>,
    /// The reason why the topic can't be read on, once there is one.
    lost: OnceLock<Lost>,
    /// The id of the topic, from the first answer that had one.
    id: OnceLock<TopicId>,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the topic on a thread of its own, until this is dropped.
pub(super) struct Watch {
    shared: Arc<Shared>,
    asker: Arc<Asker>,
    /// Has the thread ask for the topic's id at once. The thread ends when this is dropped.
    hurry: SyncSender<()>,
}

/// Time limits and intervals for watching a topic.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// The time between two requests about partitions.
    interval: Duration,
    /// Time for which a topic may be missing.
    missing_max: Duration,
    transactions: Bounds,
}

impl Limits {
    fn of(options: &SourceOptions) -> Self {
        let SourceOptions { idle_timeout, max_transaction, skip_open_transactions, .. } = *options;
        Limits {
            // Several responses must fit into the idle timeout, by which a partition counts as idle.
            interval: (idle_timeout / 4).clamp(Duration::from_millis(50), INTERVAL_MAX),
            missing_max: DOUBT.max(idle_timeout),
            transactions: Bounds { max_transaction, skip: skip_open_transactions },
        }
    }
}

impl Watch {
    /// Finds the partitions, and the offset to begin with in each.
    pub(super) fn open(
        address: &Address,
        config: &ClientConfig,
        options: &SourceOptions,
    ) -> Result<(Self, BTreeMap<i32, i64>), Failure> {
        let asker = Asker::new(&address.topic, config)?;
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
        // Before any offset is read: of a topic that is replaced meanwhile, offsets mean nothing.
        let id = match asker.topic_id(REACH_TIMEOUT) {
            Ok(Found::Id(id)) => Some(id),
            Ok(Found::NoId | Found::NoTopic) => None,
            Err(error) => {
                tracing::debug!(%error, "the broker does not tell the id of the topic");
                None
            }
        };
        let opening = Opening { address, asker: &asker, options, id: id.as_ref() };
        let mut known = Known { partitions: BTreeMap::new(), trouble: None, missing: None };
        let mut starts = BTreeMap::new();
        for partition in 0..count {
            let (ends, at) = opening.partition(partition)?;
            starts.insert(partition, at);
            known.partitions.insert(partition, Some(ends));
        }
        let shared =
            Shared { known: Mutex::new(known), lost: OnceLock::new(), id: OnceLock::new() };
        if let Some(id) = id {
            shared.id.get_or_init(|| id);
        }
        let (shared, asker) = (Arc::new(shared), Arc::new(asker));
        let (hurry, hear) = sync_channel(1);
        let watcher = Watcher {
            address: address.clone(),
            asker: asker.clone(),
            shared: shared.clone(),
            limits: Limits::of(options),
        };
        std::thread::Builder::new()
            .name("topic watch".into())
            .spawn(move || watcher.run(&hear))
            .context("starting the thread that watches the topic")?;
        Ok((Watch { shared, asker, hurry }, starts))
    }

    /// Locks and returns the state now.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.known()
    }

    /// Why the topic can't be read on, if it can't.
    pub(super) fn lost(&self) -> Option<&Lost> {
        self.shared.lost.get()
    }

    /// The id of the topic, if the brokers give one.
    pub(super) fn topic_id(&self) -> Option<&TopicId> {
        self.shared.id.get()
    }

    /// Has the topic's id compared at once: a consumer has reported that the topic is not there.
    pub(super) fn hurry(&self) {
        // The thread ends only after this, and one request that waits is enough.
        let _ = self.hurry.try_send(());
    }

    /// Finds out why a partition has no message at `next`, by asking the brokers now; `truncated` is
    /// whether the leader's log has another history up to there. `None`: the messages have expired.
    pub(super) fn missing_offset(
        &self,
        partition: i32,
        next: i64,
        truncated: bool,
    ) -> Option<Lost> {
        if let (Some(was), Ok(Found::Id(is))) = (self.topic_id(), self.asker.topic_id(ID_TIMEOUT))
            && *was != is
        {
            return Some(Lost::Replaced { was: was.clone(), is });
        }
        let ends = self.asker.ends(partition, None, ID_TIMEOUT).ok()?;
        let Ends { end, .. } = ends;
        (truncated || end < next).then_some(Lost::CutBack { partition, was: next, is: end })
    }
}

/// A topic that is being opened.
struct Opening<'a> {
    address: &'a Address,
    asker: &'a Asker,
    options: &'a SourceOptions,
    id: Option<&'a TopicId>,
}

impl Opening<'_> {
    /// The ends of a partition, and the offset to begin with.
    fn partition(&self, partition: i32) -> Result<(Ends, i64), Failure> {
        let asker = self.asker;
        let unreachable = |error: KafkaError| self.unreachable(&error);
        let ends = patiently(|left| asker.ends(partition, None, left)).map_err(unreachable)?;
        let at = match self.options.start {
            Start::Earliest => ends.first,
            // Messages behind an open transaction arrive later, when the transaction ends.
            Start::Latest => ends.stable,
            Start::At(time) => {
                let found = patiently(|left| asker.first_at(partition, time, left));
                let at = found.map_err(unreachable)?.unwrap_or(ends.end);
                tracing::debug!(partition, offset = at, time = %format_ms(time), "begins");
                at
            }
            Start::Committed => {
                let found = asker.committed(partition).map_err(unreachable)?;
                if let Some(committed) = &found
                    && let (Some(of), Some(is)) = (&committed.topic_id, self.id)
                    && of != is
                {
                    return Err(self.committed_elsewhere(partition, committed.offset, of, is));
                }
                let found = found.map(|committed| committed.offset);
                tracing::info!(partition, offset = found, first = ends.first, "goes on");
                found.unwrap_or(ends.first)
            }
        };
        Ok((ends, at))
    }

    fn unreachable(&self, error: &KafkaError) -> Failure {
        let why = self.asker.last_error().unwrap_or_else(|| error.to_string());
        let error = anyhow!("{why}").context(format!("reading from \"{}\"", self.address));
        Failure::new(Exit::Unavailable, error)
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
             of its partition {partition} (its id was {of} and is {is}): the offset says nothing about \
             the new topic. Give --from-offset earliest once, or a new --group",
            Quoted(&self.address.topic),
            self.address.brokers,
            Quoted(&self.options.group),
        );
        Failure::new(Exit::BadConfig, error)
    }
}

/// Repeats a request, for as long as a broker may take to respond, while the leader of a partition is unknown:
/// as for a moment after a topic was created, or a broker was started.
fn patiently<T>(ask: impl Fn(Duration) -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    let until = Instant::now() + REACH_TIMEOUT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let answer = ask(left.max(ASK_AGAIN_AFTER));
        let code = answer.as_ref().err().and_then(KafkaError::rdkafka_error_code);
        let unsettled = matches!(
            code,
            Some(
                RDKafkaErrorCode::NotLeaderForPartition
                    | RDKafkaErrorCode::LeaderNotAvailable
                    | RDKafkaErrorCode::UnknownTopicOrPartition
            )
        );
        if !unsettled || left.is_zero() {
            return answer;
        }
        std::thread::sleep(ASK_AGAIN_AFTER);
    }
}

/// Sends the requests, on a thread of its own.
struct Watcher {
    address: Address,
    asker: Arc<Asker>,
    shared: Arc<Shared>,
    limits: Limits,
}

impl Watcher {
    fn run(&self, hear: &Receiver<()>) {
        let mut next = Instant::now() + self.limits.interval;
        // A broker that does not respond with the id is asked less and less often.
        let (mut next_id, mut pause) = (Instant::now(), ID_INTERVAL);
        while self.shared.lost.get().is_none() {
            let left = next.saturating_duration_since(Instant::now());
            let heard = hear.recv_timeout(left.min(ID_INTERVAL));
            if heard == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            // While no broker responds, there is one request at a time.
            let troubled = self.shared.known().trouble.is_some();
            let due = heard.is_ok() || Instant::now() >= next_id;
            let answered = !troubled && due && self.compare_id();
            if due && !troubled {
                pause = if answered { ID_INTERVAL } else { (2 * pause).min(ID_PAUSE_MAX) };
                next_id = Instant::now() + if answered { Duration::ZERO } else { pause };
            }
            if Instant::now() >= next || (due && !answered) {
                self.ask();
                next = Instant::now() + self.limits.interval;
            }
        }
    }

    fn lose(&self, lost: Lost) {
        // The first reason is the one that counts.
        let _ = self.shared.lost.set(lost);
    }

    /// Compares the topic's id with the one that it had. Returns whether there was an answer.
    fn compare_id(&self) -> bool {
        match self.asker.topic_id(ID_TIMEOUT) {
            Ok(Found::Id(is)) => {
                self.shared.known().missing = None;
                let was = self.shared.id.get_or_init(|| is.clone());
                // One answer may come from a broker that is not up to date.
                if *was != is && self.asker.topic_id(ID_TIMEOUT) == Ok(Found::Id(is.clone())) {
                    self.lose(Lost::Replaced { was: was.clone(), is });
                }
                true
            }
            Ok(Found::NoId) => {
                self.shared.known().missing = None;
                true
            }
            Ok(Found::NoTopic) => {
                self.miss();
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the broker does not tell the id of the topic");
                false
            }
        }
    }

    /// Notes that a broker has no such topic.
    fn miss(&self) {
        let mut known = self.shared.known();
        if known.missing.is_none() {
            tracing::warn!(topic = self.address.topic, "the topic is not there any more");
        }
        let lasting = known.missing.get_or_insert_with(Instant::now).elapsed();
        drop(known);
        if lasting >= self.limits.missing_max {
            self.lose(Lost::Deleted { lasting });
        }
    }

    /// Requests the ends of all partitions once.
    fn ask(&self) {
        self.asker.poll();
        let mut failed = false;
        match self.asker.count(ANSWER_TIMEOUT) {
            Ok(count) => self.count(count),
            Err(error) => {
                failed = true;
                self.trouble(&error);
            }
        }
        // While the topic is missing, no broker knows the ends of its partitions.
        let missing = self.shared.known().missing.is_some();
        for (partition, before) in self.in_turn().into_iter().filter(|_| !missing) {
            // A partition without a leader says nothing about the others; but where no broker responds, waiting
            // for each partition takes long.
            let timeout = if failed { LATER_TIMEOUT } else { ANSWER_TIMEOUT };
            match self.asker.ends(partition, before.as_ref(), timeout) {
                Ok(ends) => self.learn(partition, ends, before.as_ref()),
                Err(error) => {
                    failed = true;
                    self.trouble(&error);
                }
            }
        }
        let mut known = self.shared.known();
        if let Some((since, _)) = known.trouble.take_if(|_| !failed) {
            let (topic, seconds) = (&self.address.topic, since.elapsed().as_secs());
            tracing::info!(topic, seconds, "the brokers answer again");
        }
    }

    /// Takes a new number of partitions.
    fn count(&self, count: i32) {
        let was = i32::try_from(self.shared.known().partitions.len()).unwrap_or(i32::MAX);
        // A topic that is being deleted has none for a while; the partitions that were there stay known.
        if count > 0 && count < was {
            // The id says more, where there is one.
            self.compare_id();
            self.lose(Lost::Shrunk { was, is: count });
        }
        let mut known = self.shared.known();
        for partition in 0..count {
            known.partitions.entry(partition).or_insert(None);
        }
    }

    /// Returns the partitions and their last responses, those with the latest responses first: a partition
    /// without a response must not delay the others.
    fn in_turn(&self) -> Vec<(i32, Option<Ends>)> {
        let known = self.shared.known();
        let mut partitions: Vec<(i32, Option<Ends>)> =
            known.partitions.iter().map(|(partition, ends)| (*partition, *ends)).collect();
        partitions
            .sort_by_key(|(partition, ends)| (Reverse(ends.map(|ends| ends.asked)), *partition));
        partitions
    }

    fn learn(&self, partition: i32, ends: Ends, before: Option<&Ends>) {
        let Some(before) = before else {
            self.shared.known().partitions.insert(partition, Some(ends));
            return;
        };
        // A longer time without a response counts as a break.
        let break_after = 4 * self.limits.interval;
        let connected = self.shared.known().trouble.is_none()
            && ends.asked.saturating_duration_since(before.asked) <= break_after;
        let ends = ends.after(before, connected, self.limits.transactions);
        // The log names an overdue transaction before a reader can end because of it.
        self.report_transaction(partition, &ends, before);
        self.shared.known().partitions.insert(partition, Some(ends));
        if ends.cut_back.is_some_and(|since| since.elapsed() >= DOUBT) {
            self.lose(Lost::CutBack { partition, was: ends.peak, is: ends.end });
        }
    }

    /// Logs a transaction that has become overdue, or an overdue one that has ended.
    fn report_transaction(&self, partition: i32, ends: &Ends, before: &Ends) {
        let overdue = |ends: &Ends| ends.withheld.filter(|withheld| withheld.overdue);
        let Address { topic, brokers } = &self.address;
        let (offset, messages) = (ends.stable, ends.end - ends.stable);
        match (overdue(before), overdue(ends)) {
            (None, Some(withheld)) => {
                let seconds = ends.asked.saturating_duration_since(withheld.since).as_secs();
                let consequence = match withheld.skipped {
                    true => {
                        "it counts as read to its end now (--skip-open-transactions), and messages \
                         that come after all may be too late"
                    }
                    false => "it holds the watermark until the transaction ends",
                };
                let producer = self.asker.producer(partition, offset);
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

    fn trouble(&self, error: &KafkaError) {
        let mut known = self.shared.known();
        if let Some((_, why)) = &mut known.trouble {
            *why = error.to_string();
            return;
        }
        let topic = &self.address.topic;
        tracing::warn!(topic, %error, "the brokers do not answer: nothing closes meanwhile");
        known.trouble = Some((Instant::now(), error.to_string()));
    }
}
