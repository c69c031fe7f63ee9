//! What the brokers say about a topic, asked again and again: which partitions it has, and where each
//! begins and ends.
//!
//! It is asked for, rather than taken from what a consumer fetches on the way: only an answer tells
//! "there is nothing more" from "nobody answers".

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::error::similar_text;
use super::topics::{self, REACH_TIMEOUT};
use super::{Address, Context, Error, setup};
use crate::error::{Exit, Failure};
use crate::limits::date::format_ms;

/// How long an answer may take, once the brokers were reached: a stuck one must not hold up the
/// questions to the others for long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one may take after another had none in the same round.
const LATER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait before a question that had no answer yet is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Where to begin in each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what the broker has first.
    Earliest,
    /// With what comes after this program has started.
    Latest,
    /// With the first message at or after this time, in milliseconds since 1970.
    At(u64),
    /// Where the group has committed that it was; of partitions where it has not, with the first message.
    Committed,
}

/// What a broker said of a partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The first offset it has.
    pub(super) first: i64,
    /// The offset after the last one.
    pub(super) end: i64,
    /// When it was asked.
    pub(super) asked: Instant,
    /// Since when it has answered without a break. When it comes back, those who wrote during the break
    /// may take longer to come back than we do.
    pub(super) unbroken: Instant,
}

/// What is known of a topic.
#[derive(Debug)]
pub(super) struct Known {
    /// By partition. What the answers said, not when they failed to come.
    pub(super) partitions: BTreeMap<i32, Option<Ends>>,
    /// Since when questions fail, and why, if they do.
    pub(super) trouble: Option<(Instant, String)>,
}

type Shared = Arc<Mutex<Known>>;

/// Asks until it is dropped.
pub(super) struct Watch {
    known: Shared,
    /// The thread ends when this does.
    _stop: Sender<()>,
}

fn lock(known: &Shared) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Finds the partitions, and the offset to begin with in each.
    pub(super) fn open(
        address: &Address,
        config: &ClientConfig,
        start: Start,
        interval: Duration,
    ) -> Result<(Self, BTreeMap<i32, i64>), Failure> {
        let client: BaseConsumer<Context> = setup::create(config, Context::new())?;
        let asker = Asker { topic: address.topic.clone(), client, break_after: 4 * interval };
        let failed = |error: Error| {
            let exit = error.exit();
            let error = anyhow::Error::new(error).context(format!("reading from \"{address}\""));
            Failure::new(exit, error)
        };
        let unreachable = |error: KafkaError| {
            let why = asker.client.context().last_error().unwrap_or_else(|| error.to_string());
            let error = anyhow!("{why}").context(format!("reading from \"{address}\""));
            Failure::new(Exit::Unavailable, error)
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
        let mut known = Known { partitions: BTreeMap::new(), trouble: None };
        let mut starts = BTreeMap::new();
        for partition in 0..count {
            let ends = patiently(|left| asker.ends(partition, left)).map_err(unreachable)?;
            let at = match start {
                Start::Earliest => ends.first,
                Start::Latest => ends.end,
                Start::At(time) => {
                    let found = patiently(|left| asker.first_at(partition, time, left));
                    let found = found.map_err(unreachable)?;
                    found.unwrap_or(ends.end)
                }
                Start::Committed => {
                    let found = asker.committed(partition).map_err(unreachable)?;
                    tracing::info!(partition, offset = found, first = ends.first, "goes on");
                    found.unwrap_or(ends.first)
                }
            };
            if let Start::At(time) = start {
                tracing::debug!(partition, offset = at, time = %format_ms(time), "begins");
            }
            starts.insert(partition, at);
            known.partitions.insert(partition, Some(ends));
        }
        let known = Arc::new(Mutex::new(known));
        let (stop, stopped) = channel();
        let shared = known.clone();
        std::thread::Builder::new()
            .name("topic watch".into())
            .spawn(move || {
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    asker.ask(&shared);
                }
            })
            .context("starting the thread that watches the topic")?;
        Ok((Watch { known, _stop: stop }, starts))
    }

    /// What is known now.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

/// Asks again, for as long as a broker may take to answer, while it is not known yet who leads a
/// partition: as for a moment after a topic was made, or a broker was started.
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

struct Asker {
    topic: String,
    client: BaseConsumer<Context>,
    /// How long without an answer is a break.
    break_after: Duration,
}

impl Asker {
    fn count(&self, timeout: Duration) -> Result<i32, KafkaError> {
        let metadata = self.client.fetch_metadata(Some(&self.topic), timeout)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        let count = topic.map_or(0, |topic| topic.partitions().len());
        Ok(i32::try_from(count).expect("Kafka counts partitions in 32 bits"))
    }

    fn ends(&self, partition: i32, timeout: Duration) -> Result<Ends, KafkaError> {
        let asked = Instant::now();
        let (first, end) = self.client.fetch_watermarks(&self.topic, partition, timeout)?;
        Ok(Ends { first, end, asked, unbroken: asked })
    }

    /// The first offset at or after a time; `None` if there is none.
    fn first_at(
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

    /// The offset that was committed last, if any was.
    fn committed(&self, partition: i32) -> Result<Option<i64>, KafkaError> {
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(&self.topic, partition);
        let found = self.client.committed_offsets(wanted, REACH_TIMEOUT)?;
        let found = found.find_partition(&self.topic, partition).map(|found| found.offset());
        Ok(found.and_then(|offset| match offset {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }

    /// Asks everything once.
    fn ask(&self, known: &Shared) {
        // Callbacks, such as those of logs, run in this.
        drop(self.client.poll(Duration::ZERO));
        let mut failed = false;
        match self.count(ANSWER_TIMEOUT) {
            // A topic that is being deleted has none for a while; those that were there stay known.
            Ok(count) => {
                let mut known = lock(known);
                for partition in 0..count {
                    known.partitions.entry(partition).or_insert(None);
                }
            }
            Err(error) => {
                failed = true;
                self.trouble(known, &error);
            }
        }
        for partition in self.in_turn(known) {
            // One without a leader says nothing about the others; but where nobody answers, to wait for
            // each takes long.
            let timeout = if failed { LATER_TIMEOUT } else { ANSWER_TIMEOUT };
            match self.ends(partition, timeout) {
                Ok(ends) => self.learn(&mut lock(known), partition, ends),
                Err(error) => {
                    failed = true;
                    self.trouble(known, &error);
                }
            }
        }
        let mut known = lock(known);
        if let Some((since, _)) = known.trouble.take_if(|_| !failed) {
            let (topic, seconds) = (&self.topic, since.elapsed().as_secs());
            tracing::info!(topic, seconds, "the brokers answer again");
        }
    }

    /// The partitions, those first that have answered last: one that does not is to hold up no other.
    fn in_turn(&self, known: &Shared) -> Vec<i32> {
        let known = lock(known);
        let mut partitions: Vec<(Option<Instant>, i32)> =
            known.partitions.iter().map(|(at, ends)| (ends.map(|ends| ends.asked), *at)).collect();
        partitions.sort_by_key(|(asked, partition)| (Reverse(*asked), *partition));
        partitions.into_iter().map(|(_, partition)| partition).collect()
    }

    fn learn(&self, known: &mut Known, partition: i32, mut ends: Ends) {
        let before = known.partitions.get(&partition).copied().flatten();
        if let Some(before) = before.filter(|_| known.trouble.is_none())
            && ends.asked.saturating_duration_since(before.asked) <= self.break_after
        {
            ends.unbroken = before.unbroken;
        }
        known.partitions.insert(partition, Some(ends));
    }

    fn trouble(&self, known: &Shared, error: &KafkaError) {
        let mut known = lock(known);
        if let Some((_, why)) = &mut known.trouble {
            *why = error.to_string();
            return;
        }
        let topic = &self.topic;
        tracing::warn!(topic, %error, "the brokers do not answer: nothing closes meanwhile");
        known.trouble = Some((Instant::now(), error.to_string()));
    }
}
