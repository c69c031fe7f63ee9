//! A topic as a source of records: assigns partitions to workers, chooses the first offset of each, and decides
//! which partitions hold the watermark.
//!
//! Worker `p % workers` reads partition `p` for as long as the program runs; consumer groups never move it. Workers
//! commit offsets so that others can see the lag, and never read them back. The first and last offsets are fixed
//! when the topic is opened, so that no later event skips records: an offset that the broker no longer has is an
//! error.
//!
//! Only a response of the broker shows that a partition has nothing more to read ([`TopicWatch`]). A partition is
//! idle if such a response is no older than the idle timeout, and for that long the broker has responded and no
//! message has arrived: after an outage, writers get the time to reconnect.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use floodmark_dataflows::watermark::PartitionProgress;
use metrics::{Counter, counter};
use rdkafka::consumer::CommitMode;

use super::Error;
use super::consumer::{Consumer, Headers, Polled, Step};
use super::partition::{
    Partition, ResumePosition, Times, Truncated, log_first_record, log_straggler,
};
use super::straggler::EventTime;
use super::topic::Topic;
use super::topic_client::commit_metadata;
use crate::base::error::{Exit, Failure};
use crate::record::Message;

/// Time limit for closing a consumer at its brokers.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Greatest number of partitions that the log lists one by one at level info; for more, it gives only their number.
const LISTED_MAX: usize = 16;

/// The state of a partition, for status reports.
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
    /// Whether the partition is paused, since others are far behind.
    pub paused: bool,
    /// Whether the watermark does not wait for the partition, since its event time stays behind.
    pub straggles: bool,
}

/// A message with its origin.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedMessage<'a> {
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

impl<'a> ReceivedMessage<'a> {
    /// Creates a message of a partition whose event time nobody keeps.
    pub(super) fn new(
        partition: i32,
        offset: i64,
        message: Message<'a>,
        headers: Headers<'a>,
    ) -> Self {
        ReceivedMessage { partition, offset, reached: None, message, headers }
    }

    /// Whether floodmark has written the message as a dead letter.
    pub fn is_dead_letter(&self) -> bool {
        self.headers.has(c"floodmark.error")
    }
}

/// A change in the state of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionChange {
    /// The new hold of the partition on the watermark.
    Progress(PartitionProgress),
    /// The partition is not read from its first message on; the value is the first event time read, once it is known.
    Truncated(Option<u64>),
}

/// The partitions of a topic that one worker reads.
pub struct TopicReader {
    topic: Arc<Topic>,
    index: usize,
    peers: usize,
    /// `None` while the worker has no partitions.
    pub(super) consumer: Option<Consumer>,
    /// The time at which the worker had last consumed all messages of the consumer.
    drained: Instant,
    wake: Arc<dyn Fn() + Send + Sync>,
    pub(super) partitions: BTreeMap<i32, Partition>,
    /// Counts replaced consumers.
    reopened: Counter,
    /// The positions at which an earlier run has left the partitions, if it is continued.
    resumed: Option<BTreeMap<i32, ResumePosition>>,
    /// Partitions that are not read while an earlier run is repeated, since they are ahead.
    pub(super) held: BTreeSet<i32>,
}

impl TopicReader {
    /// Opens the partitions of worker `index` among `peers`, where an earlier run has left them if it is continued. Another thread calls `wake` when there are messages to
    /// poll.
    pub fn open(
        topic: Arc<Topic>,
        index: usize,
        peers: usize,
        wake: Arc<dyn Fn() + Send + Sync>,
        resumed: Option<BTreeMap<i32, ResumePosition>>,
    ) -> Result<Self, Failure> {
        let (consumer, drained, partitions) = (None, Instant::now(), BTreeMap::new());
        let label = format!("kafka:{}", topic.address.topic);
        let reopened = counter!("floodmark_input_consumers_reopened_total", "source" => label);
        reopened.increment(0);
        let mut source = TopicReader {
            topic,
            index,
            peers,
            consumer,
            drained,
            wake,
            partitions,
            reopened,
            resumed,
            held: BTreeSet::new(),
        };
        source.find_partitions()?;
        Ok(source)
    }

    /// Opens a consumer without partitions.
    fn open_consumer(&self) -> Result<Consumer, Error> {
        let (topic, wake) = (&self.topic, self.wake.clone());
        Consumer::open(&topic.address.topic, &topic.config, move || wake())
    }

    /// Replaces the consumer; the new one continues at the same offsets. After an outage, a consumer of librdkafka may
    /// fetch nothing more, while other clients get responses.
    fn reopen(&mut self, stalled: &[i32]) -> Result<(), Failure> {
        let (topic, worker) = (&self.topic.address.topic, self.index);
        let consumer = match self.open_consumer() {
            Ok(consumer) => consumer,
            Err(error) => {
                tracing::warn!(topic, worker, %error, "cannot replace a stuck consumer");
                return Ok(());
            }
        };
        tracing::warn!(
            topic,
            worker,
            partitions = ?&stalled[..stalled.len().min(LISTED_MAX)],
            "a consumer returns nothing although the brokers have messages: it is replaced"
        );
        self.reopened.increment(1);
        let read = self.partitions.iter_mut().filter(|(_, state)| !state.paused);
        let read = read.map(|(partition, state)| {
            state.reopened();
            (*partition, state.next)
        });
        consumer.add(&read.collect::<Vec<_>>()).with_context(|| self.topic.reading())?;
        let stuck = self.consumer.replace(consumer);
        // Closing may wait for the brokers.
        let dropping = std::thread::Builder::new().name("close".into()).spawn(|| drop(stuck));
        if let Err(error) = dropping {
            tracing::debug!(%error, "cannot start a thread to close a stuck consumer: the worker closes it");
        }
        Ok(())
    }

    /// Whether this worker reads a partition.
    pub(super) fn is_ours(&self, partition: i32) -> bool {
        partition as usize % self.peers == self.index
    }

    /// Starts reading new partitions.
    pub(super) fn find_partitions(&mut self) -> Result<(), Failure> {
        let topic = &self.topic;
        let known: Vec<i32> = topic.watch.status().partitions.keys().copied().collect();
        let new: Vec<(i32, i64)> = known
            .into_iter()
            .filter(|partition| self.is_ours(*partition))
            .filter(|partition| !self.partitions.contains_key(partition))
            .map(|partition| (partition, self.start(partition)))
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
            tracing::info!(worker, partitions = new.len(), "reading more partitions");
        }
        for (partition, next) in new {
            if listed {
                tracing::info!(partition, offset = next, worker, "reading a partition");
            } else {
                tracing::debug!(partition, offset = next, worker, "reading a partition");
            }
            let state = match self.resumed.as_ref().map(|resumed| resumed.get(&partition)) {
                Some(Some(position)) if !position.is_first => Partition::resumed(*position),
                _ => {
                    let exhausted = topic.exhausted.contains(&partition);
                    let truncated =
                        (next > 0).then_some(Truncated { exhausted, first: None, reported: None });
                    Partition::new(next, truncated)
                }
            };
            self.partitions.insert(partition, state);
        }
        Ok(())
    }

    /// Returns the offset from which a partition is read. One added later is read from its beginning.
    fn start(&self, partition: i32) -> i64 {
        match &self.resumed {
            Some(resumed) => {
                resumed.get(&partition).map(|position| position.next).unwrap_or_else(|| {
                    let status = self.topic.watch.status();
                    let ends = status.partitions.get(&partition).copied().flatten();
                    ends.map_or(0, |ends| ends.first)
                })
            }
            None => self.topic.starts.get(&partition).copied().unwrap_or(0),
        }
    }

    /// Calls `each` for the available messages, at most a batch, without waiting, and returns the number of messages
    /// read. `each` returns the event times in the message, if it has any. If `each` breaks, it has read the message
    /// and has no capacity for another one: the next call continues with the rest of the batch.
    pub fn poll(
        &mut self,
        each: impl FnMut(ReceivedMessage<'_>) -> ControlFlow<Option<Times>, Option<Times>>,
    ) -> Result<usize, Failure> {
        self.poll_before(&|_| i64::MAX, each)
    }

    /// Calls `each` as [`TopicReader::poll`] does, for messages before an offset of their partition. Others wait.
    pub fn poll_before(
        &mut self,
        bound: &dyn Fn(i32) -> i64,
        mut each: impl FnMut(ReceivedMessage<'_>) -> ControlFlow<Option<Times>, Option<Times>>,
    ) -> Result<usize, Failure> {
        let Some(consumer) = &mut self.consumer else {
            return Ok(0);
        };
        self.topic.check()?;
        let are_listed = self.partitions.len() <= LISTED_MAX;
        let (partitions, topic) = (&mut self.partitions, &self.topic);
        let mut failure = None;
        let mut received = 0;
        let now = Instant::now();
        let drained = consumer.poll(|polled| {
            match polled {
                Polled::Message { partition, offset, .. } if offset >= bound(partition) => {
                    return Step::Keep;
                }
                Polled::End { partition, offset } if offset > bound(partition) => {
                    return Step::Keep;
                }
                Polled::Message { partition, offset, key, payload, timestamp_ms, headers } => {
                    let Some(state) = partitions.get_mut(&partition) else {
                        return Step::Next;
                    };
                    let message = Message { key, payload, timestamp_ms };
                    let reached = state.reached;
                    let read =
                        each(ReceivedMessage { partition, offset, reached, message, headers });
                    let (ControlFlow::Continue(times) | ControlFlow::Break(times)) = read;
                    if let Some(times) = times {
                        if state.reached.is_none() {
                            log_first_record(partition, offset, times.first, are_listed);
                        }
                        state.read(times);
                    }
                    state.next = offset + 1;
                    state.since = now;
                    received += 1;
                    return if read.is_break() { Step::Stop } else { Step::Next };
                }
                Polled::End { partition, offset } => {
                    if let Some(state) = partitions.get_mut(&partition) {
                        state.next = state.next.max(offset);
                    }
                }
                Polled::OutOfRange { partition, why } => {
                    let next = partitions.get(&partition).map_or(0, |state| state.next);
                    failure = Some(offset_error(topic, partition, next, &why));
                }
                Polled::Unknown => topic.watch.check_now(),
                Polled::Failed { why } => {
                    let error = anyhow!("{why}").context(topic.reading());
                    failure = Some(Failure::new(Exit::Failed, error));
                }
            }
            Step::Next
        });
        if drained {
            self.drained = now;
        }
        failure.map_or(Ok(received), Err)
    }

    /// Updates the holds of all partitions on the watermark, and finds stragglers if `event_time` is given. Returns the
    /// changes since the last call. Also starts reading new partitions, and replaces a stuck consumer.
    pub fn update_progress(
        &mut self,
        event_time: Option<EventTime>,
    ) -> Result<Vec<(i32, PartitionChange)>, Failure> {
        self.topic.check()?;
        self.find_partitions()?;
        let (topic, now) = (self.topic.clone(), Instant::now());
        let (mut changed, mut stalled) = (Vec::new(), Vec::new());
        let status = topic.watch.status();
        for (partition, state) in &mut self.partitions {
            let ends = status.partitions.get(partition).and_then(Option::as_ref);
            if state.stalls(ends, self.drained) {
                stalled.push(*partition);
            }
            let (holds, straggles) = state.update_progress(ends, &topic.options, event_time, now);
            if let Some(straggles) = straggles {
                log_straggler(*partition, straggles, state.reached);
            }
            if state.holds.replace(holds) != Some(holds) {
                changed.push((*partition, PartitionChange::Progress(holds)));
            }
            let Some(truncated) = &mut state.truncated else { continue };
            let now = event_time.map_or(0, |event_time| event_time.now);
            // A first event time that was reported does not change.
            if let None | Some(None) = truncated.reported {
                let first = truncated.first(now, holds == PartitionProgress::Idle);
                if truncated.reported.replace(first) != Some(first) {
                    changed.push((*partition, PartitionChange::Truncated(first)));
                }
            }
        }
        drop(status);
        if !stalled.is_empty() {
            self.reopen(&stalled)?;
        }
        Ok(changed)
    }

    /// Whether the event time of this partition has advanced by half of `max_skew_ms` or more since its hold on the
    /// watermark was last reported: other partitions may wait for it.
    pub fn has_advanced(&self, partition: u32) -> bool {
        let state = i32::try_from(partition).ok().and_then(|at| self.partitions.get(&at));
        state.is_some_and(|state| {
            let far = match state.holds {
                Some(PartitionProgress::At(reported) | PartitionProgress::Waiting(reported)) => {
                    reported.saturating_add((self.topic.options.max_skew_ms / 2).max(1))
                }
                _ => 0,
            };
            state.reached.is_some_and(|reached| reached >= far)
        })
    }

    /// Pauses partitions that are too far ahead of the event time of the slowest one, and resumes them when it has
    /// caught up.
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
                tracing::debug!(partition, "pausing a partition until the slowest one catches up");
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

    /// Returns the next offset to read of each partition.
    pub fn positions(&self) -> Vec<(i32, i64)> {
        self.partitions.iter().map(|(partition, state)| (*partition, state.next)).collect()
    }

    /// Commits offsets, so that others can see the lag. A failed commit is not retried: the next one supersedes it.
    pub fn commit(&self, positions: &[(i32, i64)], last: bool) {
        let Some(consumer) = self.consumer.as_ref().filter(|_| !positions.is_empty()) else {
            return;
        };
        // The offsets would apply to the topic that has the name now.
        if self.topic.watch.lost().is_some() {
            return;
        }
        let mode = if last { CommitMode::Sync } else { CommitMode::Async };
        let metadata = self.topic.watch.topic_id().map(commit_metadata);
        if let Err(error) = consumer.commit(positions, metadata.as_deref(), mode) {
            tracing::warn!(%error, "cannot commit offsets");
        }
    }

    /// Commits offsets and closes the consumer, within 5 s: committed offsets only show the lag, and an outage must not
    /// delay the shutdown.
    pub fn close(self, positions: Vec<(i32, i64)>) {
        let (topic, worker) = (self.topic.address.topic.clone(), self.index);
        let (ended, end) = channel::<()>();
        let close = move || {
            let _ended = ended;
            self.commit(&positions, true);
            // Dropping the consumer closes its connections.
            drop(self);
        };
        let closing = std::thread::Builder::new().name("close".into()).spawn(close);
        if closing.is_ok() && end.recv_timeout(CLOSE_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                topic,
                worker,
                "the brokers do not respond: the last offsets are not committed"
            );
        }
    }

    /// Returns the states of the partitions.
    pub fn states(&self) -> Vec<PartitionState> {
        let of = |(partition, state): (&i32, &Partition)| PartitionState {
            partition: *partition,
            first: self.start(*partition),
            next: state.next,
            reached: state.reached,
            holds: state.holds,
            paused: state.paused,
            straggles: state.straggler.straggles(),
        };
        self.partitions.iter().map(of).collect()
    }
}

/// Returns the failure of a partition that has no message at `next`.
pub(super) fn offset_error(topic: &Topic, partition: i32, next: i64, why: &str) -> Failure {
    // librdkafka reports a cut-back log by the same code as an expired offset.
    let truncated = why.contains("truncation") || why.contains("No epoch found");
    if let Some(lost) = topic.watch.missing_offset(partition, next, truncated) {
        return lost.failure(&topic.address);
    }
    let status = topic.watch.status();
    let ends = status.partitions.get(&partition).and_then(Option::as_ref);
    let has = ends.map_or(String::new(), |ends| {
        format!(" (the partition has {} to {})", ends.first, ends.end)
    });
    let error = anyhow!(
        "\"{}\", partition {partition}: offset {next} does not exist any more{has}: {why}; records were \
         lost before they were read. Start again with --from-offset earliest, and give the topic a \
         longer retention.ms",
        topic.address
    );
    Failure::new(Exit::Failed, error)
}
