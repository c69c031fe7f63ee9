//! Sends the messages of ticks to topics of one cluster, each tick in one transaction with its record.
//!
//! A thread of its own sends and commits, so that the sender never waits. Ticks that end while a transaction is being
//! committed share the next one. A transaction that fails is aborted, and its messages are sent again, without those
//! that the broker refuses for good.
//!
//! The records are messages of a topic of one partition ([`super::tick_log`]). Whoever starts with the id of the owner
//! ends the transactions of those before: the broker accepts nothing from them any more. So the records that a starting
//! process reads are all there are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _, PurgeConfig};

use super::guard::{Guard, TopicState};
use super::message::{Outgoing, OwnedMessage};
use super::producer::{base_record, producer_config};
use super::reports::{Refusal, ReturnReason};
use super::tick_log::TickLog;
use super::topics::TopicConfig;
use super::transaction_reports::TransactionReports;
use super::{Address, ClientOptions, Refused, TopicFault, Tuning, setup};
use crate::base::error::{Exit, Failure};

/// Bytes of messages that wait to be sent, and those of one transaction that are kept to be sent again.
const QUEUE_BYTES: usize = 64 << 20;

/// Time for which ticks without messages wait for others.
const QUIET_INTERVAL: Duration = Duration::from_secs(1);

/// Time limit for one request about a transaction, before it is made again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Time within which the broker must end the transactions of an earlier owner.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause before a transaction that was aborted is sent again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Longest wait for an event of the client.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

enum Item {
    /// A message to a topic, by its number.
    Message(usize, OwnedMessage),
    /// All messages of the tick came before.
    TickEnd { tick: u64, record: Vec<u8> },
    /// Records of ticks before this one are of no use any more.
    Forget { before: u64 },
}

/// The state that the owner and the thread share.
#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// The ends of ticks among these.
    ends: usize,
    bytes: usize,
    /// Messages that are not committed.
    messages: u64,
    /// Whether nothing more comes.
    is_closed: bool,
    refused: Vec<(usize, Refused)>,
    failure: Option<(Exit, String)>,
    unreachable_since: Option<Instant>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// The newest tick that was committed.
    durable: AtomicU64,
    /// Messages that were committed.
    delivered: AtomicU64,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The topics of one cluster that get the messages of ticks.
pub struct Transactions {
    shared: Arc<Shared>,
    addresses: Vec<Address>,
    guards: Vec<Arc<Guard>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// The settings of transactions.
pub struct TransactionOptions<'a> {
    /// The id of the owner, of which the broker lets one write at a time.
    pub id: String,
    /// The topics of messages.
    pub topics: Vec<TopicConfig>,
    /// The topic of the records of ticks.
    pub log: Address,
    /// The options of clients.
    pub client: &'a ClientOptions,
}

/// A producer of which the transactions of all earlier owners have ended.
pub struct FencedProducer {
    producer: BaseProducer<TransactionReports>,
    config: ClientConfig,
}

impl FencedProducer {
    /// Opens the producer, and ends the transactions of earlier owners.
    pub fn open(options: &TransactionOptions<'_>) -> Result<Self, Failure> {
        let mut config = producer_config(&options.log, options.client, Tuning::for_latency())?;
        config.set("transactional.id", &options.id);
        // The client gives a message up when the transaction is too old; it is sent again then.
        config.remove("message.timeout.ms");
        let producer = start(&config, &options.id)?;
        Ok(FencedProducer { producer, config })
    }

    /// Starts to send. `log` has the records that were read after the producer was opened, up to tick `durable`.
    pub fn start(
        self,
        options: &TransactionOptions<'_>,
        log: TickLog,
        durable: u64,
    ) -> Result<Transactions, Failure> {
        let guards: Result<Vec<_>, Failure> =
            options.topics.iter().map(|topic| Guard::of(topic, options.client)).collect();
        let guards = guards?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            durable: AtomicU64::new(durable),
            delivered: AtomicU64::new(0),
        });
        let addresses: Vec<Address> =
            options.topics.iter().map(|topic| topic.address.clone()).collect();
        let FencedProducer { producer, config } = self;
        let mut committer = Committer {
            id: options.id.clone(),
            topics: addresses.iter().map(|address| address.topic.clone()).collect(),
            log,
            producer,
            config,
            guards: guards.clone(),
            shared: shared.clone(),
            sent: 0,
            single_batches: false,
        };
        let thread = std::thread::Builder::new()
            .name("transactions".into())
            .spawn(move || {
                if let Err(failure) = committer.run() {
                    let why = (failure.exit, format!("{:#}", failure.error));
                    committer.shared.queue().failure.get_or_insert(why);
                }
            })
            .context("starting the thread that commits transactions")?;
        Ok(Transactions { shared, addresses, guards, thread: Some(thread) })
    }
}

impl Transactions {
    /// Queues a message of the tick under way.
    pub fn send(&self, topic: usize, message: OwnedMessage) {
        let mut queue = self.shared.queue();
        queue.bytes += message.size();
        queue.messages += 1;
        queue.items.push_back(Item::Message(topic, message));
        drop(queue);
        self.shared.changed.notify_one();
    }

    /// Ends a tick, with its record.
    pub fn end_tick(&self, tick: u64, record: Vec<u8>) {
        self.push(Item::TickEnd { tick, record });
    }

    /// Has the records of ticks before this one removed.
    pub fn forget(&self, before: u64) {
        self.push(Item::Forget { before });
    }

    fn push(&self, item: Item) {
        let mut queue = self.shared.queue();
        queue.ends += usize::from(matches!(item, Item::TickEnd { .. }));
        queue.items.push_back(item);
        drop(queue);
        self.shared.changed.notify_one();
    }

    /// Whether the queue has capacity for another tick.
    pub fn has_capacity(&self) -> bool {
        self.shared.queue().bytes < QUEUE_BYTES
    }

    /// Returns the newest tick that was committed.
    pub fn durable(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// Returns the number of messages that were committed, and of those that wait.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.delivered.load(Ordering::Relaxed), self.shared.queue().messages)
    }

    /// Returns the addresses of the topics.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Returns the reason why messages wait although brokers can be reached, by topic, if there is one.
    pub fn topic_fault(&self, topic: usize) -> Option<TopicFault> {
        TopicFault::of(self.guards[topic].topic_state())
    }

    /// Returns the time since which no broker can be reached, if none can.
    pub fn unreachable_since(&self) -> Option<Instant> {
        self.shared.queue().unreachable_since
    }

    /// Takes the messages that the broker has refused for good, each with its topic.
    pub fn take_refused(&self) -> Vec<(usize, Refused)> {
        std::mem::take(&mut self.shared.queue().refused)
    }

    /// Returns the failure that has ended the thread, if one has.
    pub fn check(&self) -> Result<(), Failure> {
        let failure = self.shared.queue().failure.clone();
        failure.map_or(Ok(()), |(exit, why)| Err(Failure::new(exit, anyhow!(why))))
    }

    /// Whether everything is committed.
    pub fn is_done(&self) -> bool {
        let queue = self.shared.queue();
        queue.items.is_empty() && queue.messages == 0
    }

    /// Has the thread end when everything is committed; ticks without messages do not wait for others any more.
    pub fn close(&self) {
        self.shared.queue().is_closed = true;
        self.shared.changed.notify_one();
    }

    /// Waits for the end of the thread.
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            return Err(Failure::from(anyhow!(
                "the thread that commits transactions has panicked"
            )));
        }
        self.check()
    }
}

/// Starts a client, and ends the transactions of earlier owners.
fn start(config: &ClientConfig, id: &str) -> Result<BaseProducer<TransactionReports>, Failure> {
    let starting = || format!("ending the transactions of earlier owners of \"{id}\"");
    let producer: BaseProducer<TransactionReports> =
        setup::create(config, TransactionReports::default())?;
    let until = Instant::now() + START_TIMEOUT;
    loop {
        match producer.init_transactions(REQUEST_TIMEOUT) {
            Ok(()) => return Ok(producer),
            Err(error) if is_retriable(&error) && Instant::now() < until => {}
            Err(error) => {
                let why = anyhow!(error).context(starting());
                return Err(Failure::new(Exit::Unavailable, why));
            }
        }
    }
}

fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable(),
        KafkaError::Flush(_) => true,
        _ => false,
    }
}

/// The reason why a transaction is not committed.
enum Stop {
    /// These messages are refused for good, alone or with others of their batch.
    Refused(Vec<(usize, Option<Refusal>)>),
    /// The same may succeed later.
    Failed(String),
    /// Nothing succeeds any more.
    Fatal(Failure),
}

/// The content of one transaction.
struct Batch {
    messages: Vec<(usize, OwnedMessage)>,
    bytes: usize,
    /// Whether all messages are kept, so that they can be sent again.
    is_kept: bool,
    /// Messages that were taken out of the queue.
    count: u64,
    /// Whether all messages of the last tick are there.
    is_at_end: bool,
    /// Whether no more ticks are added.
    is_complete: bool,
    ticks: Vec<(u64, Vec<u8>)>,
    /// The messages for the topic of records.
    log: Vec<(String, Option<Vec<u8>>)>,
}

impl Default for Batch {
    fn default() -> Self {
        Batch {
            messages: Vec::new(),
            bytes: 0,
            is_kept: true,
            count: 0,
            is_at_end: true,
            is_complete: false,
            ticks: Vec::new(),
            log: Vec::new(),
        }
    }
}

/// The thread.
struct Committer {
    id: String,
    topics: Vec<String>,
    log: TickLog,
    producer: BaseProducer<TransactionReports>,
    config: ClientConfig,
    guards: Vec<Arc<Guard>>,
    shared: Arc<Shared>,
    /// Messages that the client has accepted.
    sent: u64,
    /// Whether each message is sent in a batch of its own, so that the one that is refused is known.
    single_batches: bool,
}

impl Committer {
    fn run(&mut self) -> Result<(), Failure> {
        while self.wait() {
            let mut batch = Batch::default();
            loop {
                match self.send_all(&mut batch).and_then(|()| self.commit()) {
                    Ok(()) => break,
                    Err(Stop::Fatal(failure)) => return Err(failure),
                    Err(Stop::Refused(refused)) => self.take_out(refused, &mut batch)?,
                    Err(Stop::Failed(why)) => self.prepare_again(&why, &batch)?,
                }
            }
            self.note_committed(batch)?;
        }
        Ok(())
    }

    /// Waits until there is something to send; ticks without messages wait for more. `false`: nothing more comes.
    fn wait(&self) -> bool {
        let mut queue = self.shared.queue();
        let mut since = None::<Instant>;
        loop {
            if queue.messages > 0 || queue.is_closed {
                return !queue.items.is_empty();
            }
            let waits = !queue.items.is_empty();
            if waits && since.get_or_insert_with(Instant::now).elapsed() >= QUIET_INTERVAL {
                return true;
            }
            let waiting = self.shared.changed.wait_timeout(queue, POLL_INTERVAL);
            queue = waiting.unwrap_or_else(PoisonError::into_inner).0;
            self.producer.poll(Duration::ZERO);
            queue.unreachable_since = self.producer.context().context.unreachable_since();
        }
    }

    /// Waits until all topics accept messages.
    fn wait_for_topics(&self) {
        let is_fit = |guard: &Arc<Guard>| matches!(guard.topic_state(), TopicState::Fit { .. });
        while !self.guards.iter().all(is_fit) {
            self.producer.poll(POLL_INTERVAL);
        }
    }

    fn note_reachable(&self) {
        self.shared.queue().unreachable_since = self.producer.context().context.unreachable_since();
    }

    fn begin(&mut self) -> Result<(), Stop> {
        self.wait_for_topics();
        self.sent = self.producer.context().reported();
        self.producer.context().take_failed();
        self.producer.begin_transaction().map_err(|error| self.stop(&error))
    }

    /// Sends the messages of a transaction that was aborted, and then those of all ticks that have ended, at least of
    /// one tick.
    fn send_all(&mut self, batch: &mut Batch) -> Result<(), Stop> {
        self.begin()?;
        for (number, (topic, message)) in batch.messages.iter().enumerate() {
            self.send(*topic, message, number)?;
        }
        if !batch.is_complete {
            self.send_queued(batch)?;
            batch.is_complete = true;
            batch.log.extend(self.log.add(&batch.ticks));
        }
        self.send_log(batch)
    }

    fn send_queued(&mut self, batch: &mut Batch) -> Result<(), Stop> {
        while let Some(item) = self.next_item(batch) {
            match item {
                Item::Message(topic, message) => {
                    (batch.is_at_end, batch.count) = (false, batch.count + 1);
                    batch.bytes += message.size();
                    let sent = self.send(topic, &message, batch.messages.len());
                    batch.messages.push((topic, message));
                    if batch.bytes > QUEUE_BYTES {
                        batch.is_kept = false;
                        batch.messages.clear();
                    }
                    sent?;
                }
                Item::TickEnd { tick, record } => {
                    batch.is_at_end = true;
                    batch.ticks.push((tick, record));
                }
                Item::Forget { before } => batch.log.extend(self.log.forget(before)),
            }
        }
        Ok(())
    }

    /// Returns the next item for a transaction; `None`: the transaction is complete.
    fn next_item(&self, batch: &Batch) -> Option<Item> {
        let mut queue = self.shared.queue();
        loop {
            let is_started = !batch.ticks.is_empty() || !batch.log.is_empty();
            let is_full = queue.ends == 0 || batch.bytes >= QUEUE_BYTES;
            if batch.is_at_end && is_started && is_full {
                return None;
            }
            if let Some(item) = queue.items.pop_front() {
                match &item {
                    Item::Message(_, message) => {
                        queue.bytes = queue.bytes.saturating_sub(message.size());
                    }
                    Item::TickEnd { .. } => queue.ends -= 1,
                    Item::Forget { .. } => {}
                }
                return Some(item);
            }
            // A run that fails amid a tick leaves the transaction to its successor, which aborts it.
            let waiting = self.shared.changed.wait_timeout(queue, POLL_INTERVAL);
            queue = waiting.unwrap_or_else(PoisonError::into_inner).0;
            self.producer.poll(Duration::ZERO);
        }
    }

    fn send(&mut self, topic: usize, message: &OwnedMessage, number: usize) -> Result<(), Stop> {
        let topic = self.topics[topic].clone();
        self.offer(&topic, &message.outgoing(), number)
    }

    fn send_log(&mut self, batch: &Batch) -> Result<(), Stop> {
        let topic = self.log.address().topic.clone();
        for (key, payload) in &batch.log {
            let message = Outgoing {
                key: Some(key.as_bytes()),
                payload: payload.as_deref(),
                partition: Some(0),
                ..Outgoing::default()
            };
            self.offer(&topic, &message, usize::MAX)?;
        }
        Ok(())
    }

    fn offer(&mut self, topic: &str, message: &Outgoing<'_>, number: usize) -> Result<(), Stop> {
        loop {
            let record = base_record(topic, message, Box::new(number));
            let Err((error, _)) = self.producer.send(record) else {
                self.sent += 1;
                return Ok(());
            };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => {
                    self.producer.poll(POLL_INTERVAL);
                }
                // The client refuses the message by its own bounds.
                Some(code) if Refusal::of(code).is_some() => {
                    return Err(Stop::Refused(vec![(number, Refusal::of(code))]));
                }
                _ => return Err(self.stop(&error)),
            }
        }
    }

    /// Commits when all messages are delivered.
    fn commit(&mut self) -> Result<(), Stop> {
        while self.producer.context().reported() < self.sent {
            self.producer.poll(POLL_INTERVAL);
            self.note_reachable();
        }
        let failed = self.producer.context().take_failed();
        if let Some(stop) = self.stop_by(failed) {
            return Err(stop);
        }
        loop {
            match self.producer.commit_transaction(REQUEST_TIMEOUT) {
                Ok(()) => return Ok(()),
                Err(error) if is_retriable(&error) => {
                    tracing::debug!(%error, "a transaction is not committed yet");
                }
                Err(error) => return Err(self.stop(&error)),
            }
        }
    }

    /// Returns the reason to abort that reports about messages give.
    fn stop_by(&self, failed: Vec<(usize, Option<RDKafkaErrorCode>)>) -> Option<Stop> {
        let (_, first) = *failed.first()?;
        if let Some((_, reason)) = self.producer.client().fatal_error() {
            return Some(Stop::Fatal(self.fatal(&reason)));
        }
        let reasons = failed.iter().map(|(_, code)| code.and_then(ReturnReason::of));
        let refused =
            |reason| matches!(reason, Some(ReturnReason::Refused(_) | ReturnReason::Batch));
        if reasons.clone().any(refused) {
            let numbers = failed.iter().map(|(number, _)| *number);
            let refused = numbers.zip(reasons).filter_map(|(number, reason)| match reason? {
                ReturnReason::Refused(refusal) => Some((number, Some(refusal))),
                ReturnReason::Batch => Some((number, None)),
                ReturnReason::NoTopic | ReturnReason::Purged => None,
            });
            return Some(Stop::Refused(refused.collect()));
        }
        self.guards.iter().for_each(|guard| guard.check_now());
        let first = first.map_or("no reason".to_owned(), |code| code.to_string());
        Some(Stop::Failed(format!("{} messages are not delivered: {first}", failed.len())))
    }

    fn stop(&self, error: &KafkaError) -> Stop {
        if let Some((_, reason)) = self.producer.client().fatal_error() {
            return Stop::Fatal(self.fatal(&reason));
        }
        Stop::Failed(error.to_string())
    }

    fn fatal(&self, reason: &str) -> Failure {
        let error = anyhow!(
            "another run publishes as \"{}\" now, or the broker has ended the transaction of this one: {reason}; \
             this run publishes nothing more. Started again, it continues from its state",
            self.id
        );
        Failure::new(Exit::Unavailable, error)
    }

    /// Aborts the transaction, so that its messages can be sent again.
    fn abort(&mut self, batch: &Batch) -> Result<(), Failure> {
        self.producer.purge(PurgeConfig::default().queue().inflight());
        while self.producer.context().reported() < self.sent {
            self.producer.poll(POLL_INTERVAL);
        }
        loop {
            match self.producer.abort_transaction(REQUEST_TIMEOUT) {
                Ok(()) => break,
                Err(error) => {
                    if let Some((_, reason)) = self.producer.client().fatal_error() {
                        return Err(self.fatal(&reason));
                    }
                    // There may be no transaction to abort.
                    if !is_retriable(&error) {
                        break;
                    }
                }
            }
        }
        if !batch.is_kept {
            let error = anyhow!(
                "a transaction of more than {} MiB was aborted, and its messages are not kept: started again, the \
                 run continues from its state",
                QUEUE_BYTES >> 20
            );
            return Err(Failure::new(Exit::Unavailable, error));
        }
        Ok(())
    }

    fn prepare_again(&mut self, why: &str, batch: &Batch) -> Result<(), Failure> {
        tracing::warn!(id = self.id, why, "a transaction is aborted, and sent again");
        self.abort(batch)?;
        std::thread::sleep(RETRY_INTERVAL);
        Ok(())
    }

    /// Takes the messages that the broker refuses out of a transaction, once it is known which these are.
    fn take_out(
        &mut self,
        refused: Vec<(usize, Option<Refusal>)>,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        self.abort(batch)?;
        if refused.iter().any(|(number, _)| *number == usize::MAX) {
            let error = anyhow!(
                "topic \"{}\" refuses the records of ticks (see max.message.bytes of the topic)",
                self.log.address().topic
            );
            return Err(Failure::new(Exit::Unavailable, error));
        }
        if !self.single_batches && batch.messages.len() > 1 {
            self.single_batches = true;
            return self.restart();
        }
        let by_number: std::collections::BTreeMap<_, _> = refused.into_iter().collect();
        let mut number = 0;
        let mut taken = Vec::new();
        batch.messages.retain(|(topic, message)| {
            let refusal = by_number.get(&number).copied().flatten();
            number += 1;
            if let Some(refusal) = refusal {
                taken.push((*topic, Refused { message: message.clone(), refusal }));
            }
            refusal.is_none()
        });
        self.shared.queue().refused.extend(taken);
        Ok(())
    }

    /// Replaces the client, which sends batches or single messages from now on.
    fn restart(&mut self) -> Result<(), Failure> {
        let mut config = self.config.clone();
        if self.single_batches {
            config.set("batch.num.messages", "1");
        }
        self.producer = start(&config, &self.id)?;
        Ok(())
    }

    fn note_committed(&mut self, batch: Batch) -> Result<(), Failure> {
        self.shared.queue().messages -= batch.count;
        self.shared.delivered.fetch_add(batch.count, Ordering::Relaxed);
        if let Some((tick, _)) = batch.ticks.last() {
            self.shared.durable.store(*tick, Ordering::Release);
        }
        if std::mem::take(&mut self.single_batches) {
            self.restart()?;
        }
        Ok(())
    }
}
