//! Sends the messages of ticks to topics of one cluster, each tick in one transaction with its record.
//!
//! A thread of its own sends and commits, so that the sender never waits. Ticks that end while a transaction is being
//! committed share the next one. A transaction that fails is aborted, and its messages are sent again, without those
//! that the broker refuses for good.
//!
//! The records are messages of a topic of one partition ([`super::tick_log`]). Whoever starts with the id of the owner
//! ends the transactions of those before: the broker accepts nothing from them any more. So the records that a starting
//! process reads are all there are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::committer::Committer;
use super::fenced::FencedClients;
use super::guard::Guard;
use super::message::OwnedMessage;
use super::producer::producer_config;
use super::tick_log::TickLog;
use super::tick_queue::{Item, QUEUE_BYTES, Shared};
use super::topics::TopicConfig;
use super::{Address, ClientOptions, OnRefusal, Refused, TopicFault, Tuning};
use crate::base::error::Failure;
use anyhow::{Context as _, anyhow};

/// Time after which the broker ends a transaction that is not committed: longer than usual outages.
const TRANSACTION_TIMEOUT_MS: &str = "300000";

const PANICKED: &str = "the thread that commits transactions has panicked";

/// The topics of one cluster that get the messages of ticks.
pub struct Transactions {
    shared: Arc<Shared>,
    addresses: Vec<Address>,
    guards: Vec<Arc<Guard>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// The settings of transactions.
pub struct TransactionOptions<'a> {
    /// The id of the owner, of which the broker lets one write at a time; each client adds its number.
    pub id: String,
    /// The topics of messages, each with the treatment of those that the broker refuses for good: they are cut, or else
    /// kept for [`Transactions::take_refused`].
    pub topics: Vec<(TopicConfig, OnRefusal)>,
    /// The topic of the records of ticks.
    pub log: Address,
    /// The options of clients.
    pub client: &'a ClientOptions,
}

/// A producer of which the transactions of all earlier owners have ended.
pub struct FencedProducer(FencedClients);

impl FencedProducer {
    /// Opens the producer, and ends the transactions of earlier owners.
    pub fn open(options: &TransactionOptions<'_>) -> Result<Self, Failure> {
        let mut config = producer_config(&options.log, options.client, Tuning::for_latency())?;
        // The client gives a message up when the transaction is too old; it is sent again then.
        config.remove("message.timeout.ms");
        if config.get("transaction.timeout.ms").is_none() {
            config.set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS);
        }
        Ok(FencedProducer(FencedClients::start(&config, &options.id)?))
    }

    /// Claims the topics, and starts to send. `log` has the records that were read after the producer was opened, up
    /// to tick `durable`.
    pub fn start(
        self,
        options: &TransactionOptions<'_>,
        log: TickLog,
        durable: u64,
    ) -> Result<Transactions, Failure> {
        let guards: Result<Vec<_>, Failure> =
            options.topics.iter().map(|(topic, _)| Guard::of(topic, options.client)).collect();
        let guards = guards?;
        let shared = Arc::new(Shared::new(durable));
        let addresses: Vec<Address> =
            options.topics.iter().map(|(topic, _)| topic.address.clone()).collect();
        let topics = options.topics.iter();
        let topics = topics.map(|(topic, on_refusal)| (topic.address.topic.clone(), *on_refusal));
        let topics = topics.collect();
        let id = options.id.clone();
        let mut committer = Committer::new(id, topics, log, self.0, guards.clone(), shared.clone());
        committer.claim()?;
        let thread = std::thread::Builder::new()
            .name("transactions".into())
            .spawn(move || committer.run_to_end())
            .context("starting the thread that commits transactions")?;
        Ok(Transactions { shared, addresses, guards, thread: Some(thread) })
    }
}

impl Transactions {
    /// Queues a message of the tick under way.
    pub fn send(&self, topic: usize, message: OwnedMessage) {
        let mut queue = self.shared.queue();
        if queue.failure.is_some() {
            return;
        }
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
        if let Item::TickEnd { record, .. } = &item {
            queue.ends += 1;
            queue.bytes += record.len();
        }
        queue.items.push_back(item);
        drop(queue);
        self.shared.changed.notify_one();
    }

    /// Whether the queue has capacity for another tick.
    pub fn has_capacity(&self) -> bool {
        let queue = self.shared.queue();
        // After a failure nothing may wait for it.
        queue.failure.is_some() || queue.bytes < QUEUE_BYTES
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
        let queue = self.shared.queue();
        if let Some((exit, why)) = queue.failure.clone() {
            return Err(Failure::new(exit, anyhow!(why)));
        }
        let has_ended = self.thread.as_ref().is_some_and(std::thread::JoinHandle::is_finished);
        if has_ended && !queue.is_closed {
            return Err(Failure::from(anyhow!(PANICKED)));
        }
        Ok(())
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
            return Err(Failure::from(anyhow!(PANICKED)));
        }
        self.check()
    }
}
