//! A topic as a source of records: assigns partitions to workers, chooses the first offset of each, and decides
//! which partitions hold the watermark.
//!
//! Partition `p` is read by worker `p % workers`, for as long as the program runs; no group of consumers
//! ever moves it. Offsets are committed so that others can see the lag, and never read back. What "first"
//! and "last" are is settled when the topic is opened, so that nothing later can jump over records: an
//! offset that the broker no longer has is an error.
//!
//! The broker's answer, and it alone, says that a partition has nothing more to read ([`Watch`]). A
//! partition is idle if such an answer is no older than the idle time-out, and for that long the broker
//! has answered and nothing came: after an outage, those who write to the topic get the time to come back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use floodmark_dataflows::watermark::PartitionProgress;
use metrics::{Counter, counter};
use rdkafka::ClientConfig;
use rdkafka::consumer::CommitMode;

use super::asker::{commit_metadata, isolation};
use super::consumer::{Consumer, Headers, Polled};
use super::contents::Contents;
use super::ends::{Ends, Withheld};
use super::partition::{Partition, Times, Truncated, log_straggler};
use super::straggler::EventTime;
use super::watch::{SourceOptions, Watch};
use super::{Address, ClientOptions, Error, client_config};
use crate::base::error::{Exit, Failure};
use crate::record::Message;

/// The greatest answer of a broker to one fetch, unless messages may be larger.
const FETCH_MAX_BYTES: u64 = 8 << 20;

/// Time limit for closing a consumer at its brokers.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Greatest number of partitions that the log lists one by one at level info; of more it has the number.
const LISTED_MAX: usize = 16;

/// A topic that was opened: once in each process.
pub struct Topic {
    address: Address,
    config: ClientConfig,
    options: SourceOptions,
    watch: Watch,
    starts: BTreeMap<i32, i64>,
    contents: Contents,
    /// Partitions that had nothing left to read when the topic was opened, and had messages before.
    spent: BTreeSet<i32>,
}

/// The settings of consumers, beside those of every client.
fn consumer_config(
    address: &Address,
    options: &ClientOptions,
    group: &str,
) -> Result<ClientConfig, Failure> {
    let mut config = client_config(address, options)?;
    // No code reads the statistics of consumers: the state of the brokers comes from requests.
    config.set("statistics.interval.ms", "0");
    // Only offsets are kept under it; no partition is ever assigned by it.
    config.set("group.id", group);
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    // An offset that has expired must not turn into another one.
    config.set("auto.offset.reset", "error");
    // It says up to where the broker has nothing, control messages of transactions included.
    config.set("enable.partition.eof", "true");
    // librdkafka refuses an answer smaller than a message that the user allows.
    let message_max = config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
    let fetch_max = FETCH_MAX_BYTES.max(message_max.unwrap_or(0)).to_string();
    // An option that the user has set by -X takes precedence.
    let mut tune = |key: &str, value: &str| {
        if config.get(key).is_none() {
            config.set(key, value);
        }
    };
    // Prefetched of all partitions together: with fewer messages the worker waits for the client now
    // and then; small ones take ten times their size in the client, and both bounds hold.
    tune("queued.min.messages", "100000");
    tune("queued.max.messages.kbytes", "16384");
    // One answer comes on top of that, of all partitions of a broker.
    tune("fetch.max.bytes", &fetch_max);
    // The broker answers when it has this much, or after the wait: fewer, larger answers under load.
    tune("fetch.min.bytes", "1");
    tune("fetch.wait.max.ms", "100");
    // A partition that was paused, or is full, is asked again this soon.
    tune("fetch.queue.backoff.ms", "10");
    Ok(config)
}

impl Topic {
    /// Opens a topic: finds its partitions, and the offsets to begin with.
    pub fn open(
        address: &Address,
        options: &ClientOptions,
        source: SourceOptions,
    ) -> Result<Self, Failure> {
        let config = consumer_config(address, options, &source.group)?;
        let (watch, starts) = Watch::open(address, &config, &source)?;
        let known = watch.known().partitions.clone();
        let is_spent = |(partition, start): (&i32, &i64)| {
            let end = known.get(partition).copied().flatten()?.end;
            (*start > 0 && *start >= end).then_some(*partition)
        };
        let spent = starts.iter().filter_map(is_spent).collect();
        let ends = known.iter().filter_map(|(partition, ends)| Some((*partition, (*ends)?.stable)));
        let contents = Contents::new(&starts, ends);
        let (address, options) = (address.clone(), source);
        Ok(Topic { address, config, options, watch, starts, contents, spent })
    }

    /// Returns the kinds of messages found in the topic: records, or this program's own output.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The id of the topic, if the brokers have told one.
    pub fn id(&self) -> Option<String> {
        self.watch.topic_id().map(ToString::to_string)
    }

    /// The kind of messages that are read as to transactions, as `isolation.level` names it.
    pub fn isolation(&self) -> &str {
        isolation(&self.config)
    }

    /// The context of an error of reading.
    fn reading(&self) -> String {
        format!("reading from \"{}\"", self.address)
    }

    /// Returns the address of the topic.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The offsets up to which partitions are to be read, as far as is known: those after the last
    /// messages that there were, or that there are after those of transactions that are skipped.
    pub fn ends(&self) -> BTreeMap<i32, i64> {
        let known = self.watch.known();
        let ends =
            known.partitions.iter().map(|(partition, ends)| Some((*partition, (*ends)?.due())));
        ends.flatten().collect()
    }

    /// Fails if the topic can't be read on: it was deleted, or is another one by now.
    pub fn check(&self) -> Result<(), Failure> {
        self.watch.lost().map_or(Ok(()), |lost| Err(lost.failure(&self.address)))
    }

    /// Whether the topic can't be read on.
    pub fn is_lost(&self) -> bool {
        self.watch.lost().is_some()
    }

    /// For how long all answers have said that there is no such topic, if they do.
    pub fn missing(&self) -> Option<Duration> {
        self.watch.known().missing.map(|since| since.elapsed())
    }

    /// Returns the time without messages after which a partition is idle.
    pub fn idle_timeout(&self) -> Duration {
        self.options.idle_timeout
    }

    /// Returns the last response about each partition that has one.
    pub fn answers(&self) -> Vec<BrokerResponse> {
        let known = self.watch.known();
        let answered = known.partitions.iter().filter_map(|(partition, ends)| {
            let ends = (*ends)?;
            let Ends { end, stable, withheld, asked, .. } = ends;
            Some(BrokerResponse {
                partition: *partition,
                end,
                stable,
                due: ends.due(),
                withheld,
                asked,
            })
        });
        answered.collect()
    }

    /// Since when, and why, the brokers don't answer, if they don't.
    pub fn trouble(&self) -> Option<(Duration, String)> {
        let known = self.watch.known();
        known.trouble.as_ref().map(|(since, why)| (since.elapsed(), why.clone()))
    }
}

/// The state of a partition, for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// The number of the partition.
    pub partition: i32,
    /// The offset at which reading began.
    pub first: i64,
    /// The offset to be read next.
    pub next: i64,
    /// The greatest event time read.
    pub reached: Option<u64>,
    /// The hold on the watermark that was reported last; `None` before the first report.
    pub holds: Option<PartitionProgress>,
    /// Whether it waits for others that are behind.
    pub paused: bool,
    /// Whether nobody waits for it, since its event time stays behind.
    pub straggles: bool,
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
    /// The messages that consumers do not get.
    pub withheld: Option<Withheld>,
    /// The time of the request.
    pub asked: Instant,
}

/// A message, and where it was.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    /// The partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The greatest event time read from the partition before.
    pub reached: Option<u64>,
    /// The message itself.
    pub message: Message<'a>,
    headers: Headers<'a>,
}

impl Taken<'_> {
    /// Whether it was set aside by this program, as a message that could not be used.
    pub fn is_dead_letter(&self) -> bool {
        self.headers.has(c"floodmark.error")
    }
}

/// A change in the state of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Its hold on the watermark.
    Progress(PartitionProgress),
    /// Messages before the first one read were not read; the first event time read, once it is known.
    Truncated(Option<u64>),
}

/// The partitions of a topic that one worker reads.
pub struct TopicReader {
    topic: Arc<Topic>,
    index: usize,
    peers: usize,
    /// `None` until there is a partition to read.
    consumer: Option<Consumer>,
    /// When all that the consumer had brought had been taken.
    drained: Instant,
    wake: Arc<dyn Fn() + Send + Sync>,
    partitions: BTreeMap<i32, Partition>,
    /// Consumers that were replaced.
    reopened: Counter,
}

impl TopicReader {
    /// Opens the partitions of worker `index` among `peers`. `wake` is called, from another thread, when there
    /// is something to take.
    pub fn open(
        topic: Arc<Topic>,
        index: usize,
        peers: usize,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, Failure> {
        let (consumer, drained, partitions) = (None, Instant::now(), BTreeMap::new());
        let label = format!("kafka:{}", topic.address.topic);
        let reopened = counter!("floodmark_input_consumers_reopened_total", "source" => label);
        reopened.increment(0);
        let mut source =
            TopicReader { topic, index, peers, consumer, drained, wake, partitions, reopened };
        source.find_partitions()?;
        Ok(source)
    }

    /// A consumer that reads nothing yet.
    fn open_consumer(&self) -> Result<Consumer, Error> {
        let (topic, wake) = (&self.topic, self.wake.clone());
        Consumer::open(&topic.address.topic, &topic.config, move || wake())
    }

    /// Goes on with another consumer, from where it is. librdkafka's may fetch nothing more after brokers
    /// were away, while other clients get answers.
    fn reopen(&mut self, stalled: &[i32]) -> Result<(), Failure> {
        let (topic, worker) = (&self.topic.address.topic, self.index);
        let consumer = match self.open_consumer() {
            Ok(consumer) => consumer,
            Err(error) => {
                tracing::warn!(topic, worker, %error, "a stuck consumer was not opened anew");
                return Ok(());
            }
        };
        tracing::warn!(
            topic,
            worker,
            partitions = ?&stalled[..stalled.len().min(LISTED_MAX)],
            "a consumer brings nothing though the brokers have messages: it is opened anew"
        );
        self.reopened.increment(1);
        let read = self.partitions.iter_mut().filter(|(_, state)| !state.paused);
        let read = read.map(|(partition, state)| {
            state.reopened();
            (*partition, state.next)
        });
        consumer.add(&read.collect::<Vec<_>>()).with_context(|| self.topic.reading())?;
        let stuck = self.consumer.replace(consumer);
        // It may wait for its brokers.
        let dropping = std::thread::Builder::new().name("close".into()).spawn(|| drop(stuck));
        if let Err(error) = dropping {
            tracing::debug!(%error, "a stuck consumer was closed by its worker");
        }
        Ok(())
    }

    /// Begins to read the partitions that are new.
    fn find_partitions(&mut self) -> Result<(), Failure> {
        let topic = &self.topic;
        let ours = |partition: &i32| *partition as usize % self.peers == self.index;
        let known: Vec<i32> = topic.watch.known().partitions.keys().copied().collect();
        let new: Vec<(i32, i64)> = known
            .into_iter()
            .filter(ours)
            .filter(|partition| !self.partitions.contains_key(partition))
            // One that came into being since then is read from its beginning.
            .map(|partition| (partition, topic.starts.get(&partition).copied().unwrap_or(0)))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        if self.consumer.is_none() {
            self.consumer = Some(self.open_consumer()?);
        }
        let consumer = self.consumer.as_ref().expect("it was opened just now");
        consumer.add(&new).with_context(|| topic.reading())?;
        let (worker, listed) = (self.index, new.len() <= LISTED_MAX);
        if !listed {
            tracing::info!(worker, partitions = new.len(), "reads more partitions");
        }
        for (partition, next) in new {
            if listed {
                tracing::info!(partition, offset = next, worker, "reads a partition");
            } else {
                tracing::debug!(partition, offset = next, worker, "reads a partition");
            }
            let spent = topic.spent.contains(&partition);
            let truncated = (next > 0).then_some(Truncated { spent, first: None, reported: None });
            self.partitions.insert(partition, Partition::new(next, truncated));
        }
        Ok(())
    }

    /// Hands over messages that are there, a batch at most, without waiting; `each` returns the event
    /// times in the message, if it has any. Where `each` breaks, it has read the message and has no capacity
    /// for another one: the rest of the batch is for the next call. Returns how many messages were read.
    pub fn take(
        &mut self,
        mut each: impl FnMut(Taken<'_>) -> ControlFlow<Option<Times>, Option<Times>>,
    ) -> Result<usize, Failure> {
        let Some(consumer) = &mut self.consumer else {
            return Ok(0);
        };
        self.topic.check()?;
        let (partitions, topic) = (&mut self.partitions, &self.topic);
        let mut failure = None;
        let mut taken = 0;
        let now = Instant::now();
        let drained = consumer.poll(|polled| {
            match polled {
                Polled::Message { partition, offset, key, payload, timestamp_ms, headers } => {
                    let Some(state) = partitions.get_mut(&partition) else {
                        return ControlFlow::Continue(());
                    };
                    let message = Message { key, payload, timestamp_ms };
                    let reached = state.reached;
                    let read = each(Taken { partition, offset, reached, message, headers });
                    let (ControlFlow::Continue(times) | ControlFlow::Break(times)) = read;
                    if let Some(times) = times {
                        state.read(times);
                    }
                    state.next = offset + 1;
                    state.since = now;
                    taken += 1;
                    return read.map_break(|_| ()).map_continue(|_| ());
                }
                Polled::End { partition, offset } => {
                    if let Some(state) = partitions.get_mut(&partition) {
                        state.next = state.next.max(offset);
                    }
                }
                Polled::OutOfRange { partition, why } => {
                    let next = partitions.get(&partition).map_or(0, |state| state.next);
                    failure = Some(not_there(topic, partition, next, &why));
                }
                Polled::Unknown => topic.watch.hurry(),
                Polled::Failed { why } => {
                    let error = anyhow!("{why}").context(topic.reading());
                    failure = Some(Failure::new(Exit::Failed, error));
                }
            }
            ControlFlow::Continue(())
        });
        if drained {
            self.drained = now;
        }
        failure.map_or(Ok(taken), Err)
    }

    /// Finds out how its partitions hold the watermark, and which of them straggle if `event_time` is given.
    /// Returns what has changed since the last time. Partitions that are new are read from now on, and a
    /// consumer that is stuck is replaced.
    pub fn holds(&mut self, event_time: Option<EventTime>) -> Result<Vec<(i32, Changed)>, Failure> {
        self.topic.check()?;
        self.find_partitions()?;
        let (topic, now) = (self.topic.clone(), Instant::now());
        let (mut changed, mut stalled) = (Vec::new(), Vec::new());
        let known = topic.watch.known();
        for (partition, state) in &mut self.partitions {
            let ends = known.partitions.get(partition).and_then(Option::as_ref);
            if state.stalls(ends, self.drained) {
                stalled.push(*partition);
            }
            let (holds, straggles) = state.holds(ends, &topic.options, event_time, now);
            if let Some(straggles) = straggles {
                log_straggler(*partition, straggles, state.reached);
            }
            if state.holds.replace(holds) != Some(holds) {
                changed.push((*partition, Changed::Progress(holds)));
            }
            let Some(truncated) = &mut state.truncated else { continue };
            let now = event_time.map_or(0, |event_time| event_time.now);
            // A first event time that was reported does not change.
            if let None | Some(None) = truncated.reported {
                let first = truncated.first(now, holds == PartitionProgress::Idle);
                if truncated.reported.replace(first) != Some(first) {
                    changed.push((*partition, Changed::Truncated(first)));
                }
            }
        }
        drop(known);
        if !stalled.is_empty() {
            self.reopen(&stalled)?;
        }
        Ok(changed)
    }

    /// Whether this partition, which others may wait for, has come on by half of `max_skew_ms` or more since
    /// its hold on the watermark was last reported.
    pub fn has_come_on(&self, partition: u32) -> bool {
        let state = i32::try_from(partition).ok().and_then(|at| self.partitions.get(&at));
        state.is_some_and(|state| {
            let far = match state.holds {
                Some(PartitionProgress::At(said) | PartitionProgress::Waiting(said)) => {
                    said.saturating_add((self.topic.options.max_skew_ms / 2).max(1))
                }
                _ => 0,
            };
            state.reached.is_some_and(|reached| reached >= far)
        })
    }

    /// Pauses partitions that are too far ahead of this event time, that of the slowest one, until it has
    /// come up.
    pub fn bound_skew(&mut self, slowest: u64) -> Result<(), Failure> {
        let Some(consumer) = &mut self.consumer else {
            return Ok(());
        };
        let bound = slowest.saturating_add(self.topic.options.max_skew_ms);
        let pausing = || format!("pausing a partition of \"{}\"", self.topic.address);
        for (partition, state) in &mut self.partitions {
            let ahead = state.reached.is_some_and(|reached| reached > bound);
            if ahead && !state.paused {
                consumer.remove(*partition).with_context(pausing)?;
                tracing::debug!(partition, "waits for partitions that are behind");
            } else if !ahead && state.paused {
                consumer.add(&[(*partition, state.next)]).with_context(pausing)?;
            }
            state.paused = ahead;
        }
        Ok(())
    }

    /// Returns the topic.
    pub fn topic(&self) -> &Arc<Topic> {
        &self.topic
    }

    /// The offsets to be read next.
    pub fn positions(&self) -> Vec<(i32, i64)> {
        self.partitions.iter().map(|(partition, state)| (*partition, state.next)).collect()
    }

    /// Commits offsets, for those who look at the lag. What fails is tried again with the next ones.
    pub fn commit(&self, positions: &[(i32, i64)], last: bool) {
        let Some(consumer) = self.consumer.as_ref().filter(|_| !positions.is_empty()) else {
            return;
        };
        // They would be taken for offsets of the topic that has the name now.
        if self.topic.watch.lost().is_some() {
            return;
        }
        let mode = if last { CommitMode::Sync } else { CommitMode::Async };
        let metadata = self.topic.watch.topic_id().map(commit_metadata);
        if let Err(error) = consumer.commit(positions, metadata.as_deref(), mode) {
            tracing::warn!(%error, "the offsets read were not committed");
        }
    }

    /// Commits offsets and closes the consumer, for 5 s at most: they are for those who look
    /// at the lag, and an outage must not hold up the end of a run.
    pub fn close(self, positions: Vec<(i32, i64)>) {
        let (topic, worker) = (self.topic.address.topic.clone(), self.index);
        let (ended, end) = channel::<()>();
        let close = move || {
            let _ended = ended;
            self.commit(&positions, true);
            // By this it leaves the brokers.
            drop(self);
        };
        let closing = std::thread::Builder::new().name("close".into()).spawn(close);
        if closing.is_ok() && end.recv_timeout(CLOSE_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                topic,
                worker,
                "the brokers do not answer: the run ends without a commit of the last offsets"
            );
        }
    }

    /// The states of its partitions.
    pub fn states(&self) -> Vec<PartitionState> {
        let of = |(partition, state): (&i32, &Partition)| PartitionState {
            partition: *partition,
            first: self.topic.starts.get(partition).copied().unwrap_or(0),
            next: state.next,
            reached: state.reached,
            holds: state.holds,
            paused: state.paused,
            straggles: state.straggler.straggles(),
        };
        self.partitions.iter().map(of).collect()
    }
}

/// The failure of a partition that has no message at `next`.
fn not_there(topic: &Topic, partition: i32, next: i64, why: &str) -> Failure {
    // librdkafka reports a cut-back log by the same code as an expired offset.
    let truncated = why.contains("truncation") || why.contains("No epoch found");
    if let Some(lost) = topic.watch.missing_offset(partition, next, truncated) {
        return lost.failure(&topic.address);
    }
    let known = topic.watch.known();
    let ends = known.partitions.get(&partition).and_then(Option::as_ref);
    let has =
        ends.map_or(String::new(), |ends| format!(" (it has {} to {})", ends.first, ends.end));
    let error = anyhow!(
        "\"{}\", partition {partition}: offset {next} is not there any more{has}: {why}; records were \
         lost before they were read. Start again with --from-offset earliest, and give the topic a \
         longer retention.ms",
        topic.address
    );
    Failure::new(Exit::Failed, error)
}
