//! A producer with a queue for messages that its client can't accept at once, for senders that must not wait.
//!
//! A broker does one of three things with a message. It accepts the message. It refuses the message for good,
//! such as one that is too large: [`OnRefusal`] decides about that message, and the others go on. Or there is
//! no topic for the message: all undelivered messages wait here, in their order, until the [`Guard`] finds a
//! topic that fits.
//!
//! A broker refuses a whole batch because of one of its messages, and a client whose topic has vanished does not
//! soon look it up again. So in both cases the client returns all its messages, and a new client replaces it. After
//! a refusal, the new client sends each message in a batch of its own, so that the message at fault is known.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::counter;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

use super::guard::{Guard, TopicState};
use super::message::OwnedMessage;
use super::producer::producer_config;
use super::reports::{Refusal, ReturnReason, Returned};
use super::reports::{undeliverable, unfit_timestamp};
use super::topics::{self, TopicConfig};
use super::{Address, ClientOptions, Counts, Error, Outgoing, Producer, Tuning};
use crate::base::error::Failure;
use crate::base::logging::Sampler;
use crate::base::quote::Quoted;

/// Interval at which [`BufferedProducer::finish`] checks whether all is sent, while no client sends.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Interval between two requests to a client to return its messages.
const PURGE_INTERVAL: Duration = Duration::from_millis(20);

/// Time after a refusal during which each message is sent in a batch of its own.
const SINGLE_BATCHES_FOR: Duration = Duration::from_secs(60);

/// Greatest length of the logged key of a refused message, in characters.
const LOGGED_KEY_MAX: usize = 80;

/// The treatment of a message that a broker refuses for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRefusal {
    /// The producer fails.
    Fail,
    /// The message is counted, logged and kept for [`BufferedProducer::take_refused`].
    Keep,
    /// A message that is too large is cut until it fits; other messages are counted and logged.
    Cut,
}

/// A message that a broker refuses for good.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The message.
    pub message: OwnedMessage,
    /// The reason.
    pub refusal: Refusal,
}

impl Refused {
    /// Returns the error of a topic that refuses this message.
    pub fn error(&self, topic: &str) -> Error {
        let OwnedMessage { key, payload, .. } = &self.message;
        refusal_error(topic, self.refusal, key.as_ref().map_or(0, Vec::len) + payload.len())
    }
}

/// The reason why messages wait although brokers can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFault {
    /// The time of the first response that showed the fault.
    pub since: Instant,
    /// Whether the topic does not exist; otherwise it exists and does not fit.
    pub missing: bool,
    /// The setting that does not fit, and the remedy.
    pub why: String,
}

impl TopicFault {
    /// Returns the fault that a state of a topic is, if it is one.
    pub(super) fn of(state: TopicState) -> Option<Self> {
        match state {
            TopicState::Fit { .. } => None,
            TopicState::Missing { since } => {
                let why = "it does not exist".to_owned();
                Some(TopicFault { since, missing: true, why })
            }
            TopicState::Unfit { since, why } => Some(TopicFault { since, missing: false, why }),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The client accepts messages.
    Sending,
    /// The client returns its undelivered messages.
    Draining { purged: Option<Instant> },
    /// No client can send until the topic fits.
    Waiting,
}

/// Sends messages in their order, and queues those that the producer has no capacity for. The queue stays
/// bounded if the sender checks [`BufferedProducer::has_capacity`] before it goes on.
pub struct BufferedProducer {
    config: ClientConfig,
    producer: Producer,
    guard: Arc<Guard>,
    /// The generation of the topic that messages go to, among all topics that have had its name.
    generation: u64,
    mode: Mode,
    /// The time at which a client reported the topic as missing; only a later response clears it.
    suspected_at: Option<Instant>,
    /// The time of the last refusal, while each message must be sent in a batch of its own.
    last_refusal: Option<Instant>,
    /// Whether the client sends each message in a batch of its own.
    single_batches: bool,
    /// Returned messages, until the client has returned all.
    returned: Vec<Returned>,
    waiting: VecDeque<OwnedMessage>,
    /// Bytes of the waiting and the returned messages.
    waiting_bytes: usize,
    messages_max: usize,
    bytes_max: usize,
    on_refusal: OnRefusal,
    refused: Vec<Refused>,
    refused_total: u64,
    /// The first refusal, if refusals are failures.
    failure: Option<Error>,
    /// Counts of earlier clients.
    earlier: Counts,
    sampler: Sampler,
}

impl std::fmt::Debug for BufferedProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BufferedProducer")
            .field("producer", &self.producer)
            .field("mode", &self.mode)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl BufferedProducer {
    /// Opens a producer to a topic that exists, at a broker that can be reached.
    pub fn open(
        address: &Address,
        options: &ClientOptions,
        tuning: Tuning,
    ) -> Result<Self, Failure> {
        let partitions = topics::partitions(address, options)?;
        BufferedProducer::open_known(
            &TopicConfig::unknown(address.clone(), partitions),
            options,
            tuning,
        )
    }

    /// Opens a producer to a topic whose configuration was read before.
    pub fn open_known(
        topic: &TopicConfig,
        options: &ClientOptions,
        tuning: Tuning,
    ) -> Result<Self, Failure> {
        let mut config = producer_config(&topic.address, options, tuning)?;
        // A batch no larger than the broker's maximum is never refused for its size: if one is, the fault is
        // with a single message.
        if let Some(max) = topic.max_message_bytes
            && config.get("batch.size").is_none()
            && max < BATCH_SIZE
        {
            config.set("batch.size", max.max(1).to_string());
        }
        let guard = Guard::of(topic, options)?;
        let generation = match guard.topic_state() {
            TopicState::Fit { generation, .. } => generation,
            // The first poll sees the difference, and messages wait.
            TopicState::Missing { .. } | TopicState::Unfit { .. } => 0,
        };
        let number = |name: &str| config.get(name).and_then(|value| value.parse::<usize>().ok());
        let messages_max = number("queue.buffering.max.messages").filter(|max| *max > 0);
        Ok(BufferedProducer {
            producer: Producer::start(&topic.address, &config, true)?,
            messages_max: messages_max.unwrap_or(tuning.queue_messages as usize),
            bytes_max: number("queue.buffering.max.kbytes").unwrap_or(tuning.queue_kib as usize)
                << 10,
            config,
            guard,
            generation,
            mode: Mode::Sending,
            suspected_at: None,
            last_refusal: None,
            single_batches: false,
            returned: Vec::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            on_refusal: OnRefusal::Fail,
            refused: Vec::new(),
            refused_total: 0,
            failure: None,
            earlier: Counts::default(),
            sampler: Sampler::default(),
        })
    }

    /// Sets the treatment of messages that a broker refuses for good.
    pub fn on_refusal(self, on_refusal: OnRefusal) -> Self {
        for refusal in Refusal::ALL {
            self.refused_counter(refusal).increment(0);
        }
        BufferedProducer { on_refusal, ..self }
    }

    fn refused_counter(&self, refusal: Refusal) -> metrics::Counter {
        let sink = format!("kafka:{}", self.address().topic);
        counter!(
            "floodmark_sink_refused_messages_total",
            "sink" => sink, "error" => refusal.as_str()
        )
    }

    /// Returns the address of the topic.
    pub fn address(&self) -> &Address {
        self.producer.address()
    }

    /// Whether the producer has accepted all queued messages; while no client sends, whether the queue has capacity
    /// for more.
    pub fn has_capacity(&self) -> bool {
        match self.mode {
            Mode::Sending => self.waiting.is_empty(),
            Mode::Draining { .. } | Mode::Waiting => {
                self.waiting.len() + self.returned.len() < self.messages_max
                    && self.waiting_bytes < self.bytes_max
            }
        }
    }

    /// Queues a message.
    pub fn enqueue(&mut self, message: OwnedMessage) {
        self.waiting_bytes += message.size();
        self.waiting.push_back(message);
    }

    /// Sends a message; copies and queues it only if the producer has no capacity.
    ///
    /// # Errors
    /// The producer accepts no more messages.
    pub fn send(&mut self, message: &Outgoing<'_>) -> Result<(), Failure> {
        if self.mode == Mode::Sending
            && self.waiting.is_empty()
            && self.producer.offer(message).is_ok()
        {
            return Ok(());
        }
        self.enqueue(OwnedMessage {
            key: message.key.map(<[u8]>::to_vec),
            payload: message.payload.unwrap_or_default().to_vec(),
            timestamp_ms: message.timestamp_ms.map(i64::unsigned_abs),
            partition: message.partition,
            headers: [message.headers, message.common_headers].concat(),
            common_headers: None,
        });
        if self.mode == Mode::Sending { self.send_waiting() } else { Ok(()) }
    }

    /// Returns the numbers of messages by their outcome, over all clients, without the messages in this queue.
    pub fn counts(&self) -> Counts {
        let now = self.producer.counts();
        let delivered = self.earlier.delivered + now.delivered;
        Counts {
            queued: delivered + self.refused_total + now.waiting(),
            delivered,
            failed: self.refused_total,
            delivered_bytes: self.earlier.delivered_bytes + now.delivered_bytes,
        }
    }

    /// Returns the messages that a broker has refused since the last call.
    pub fn take_refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.refused)
    }

    /// Returns the reason why messages wait although brokers can be reached, if there is one.
    pub fn topic_fault(&self) -> Option<TopicFault> {
        TopicFault::of(self.guard.topic_state())
    }

    /// Sends as many messages as it can, without waiting.
    ///
    /// # Errors
    /// A message can never be delivered, and refusals are failures; or no message can be delivered any more.
    pub fn poll(&mut self) -> Result<(), Failure> {
        self.advance()?;
        self.failure.clone().map_or(Ok(()), |failure| Err(failure.into()))
    }

    fn advance(&mut self) -> Result<(), Failure> {
        self.producer.poll();
        self.collect_returned();
        match self.mode {
            Mode::Sending => self.check()?,
            Mode::Draining { purged } => self.drain(purged),
            Mode::Waiting => {}
        }
        if self.mode == Mode::Waiting {
            self.reopen()?;
        }
        if self.mode == Mode::Sending {
            self.send_waiting()?;
        }
        self.producer.failure().map_or(Ok(()), Err)
    }

    /// Replaces the client if the topic has changed, or if messages may share batches again.
    fn check(&mut self) -> Result<(), Failure> {
        let batches_again = self.single_batches
            && self.last_refusal.is_none_or(|last| last.elapsed() >= SINGLE_BATCHES_FOR);
        if batches_again {
            self.last_refusal = None;
        }
        if batches_again || !self.guard.is_fit(self.generation) {
            self.drain(None);
        }
        Ok(())
    }

    /// Makes the client return its messages. Messages in flight come back by themselves, or are delivered.
    fn drain(&mut self, mut purged: Option<Instant>) {
        if purged.is_none_or(|last| last.elapsed() >= PURGE_INTERVAL) {
            self.producer.purge();
            self.producer.poll();
            purged = Some(Instant::now());
        }
        self.mode = Mode::Draining { purged };
        let waits = self.producer.counts().waiting() > 0;
        self.collect_returned();
        if waits {
            return;
        }
        let mut returned = std::mem::take(&mut self.returned);
        returned.sort_by_key(|returned| returned.number);
        for Returned { message, .. } in returned.into_iter().rev() {
            self.waiting.push_front(message);
        }
        self.mode = Mode::Waiting;
    }

    /// Collects the messages that the client has returned.
    fn collect_returned(&mut self) {
        for returned in self.producer.take_returned() {
            match returned.reason {
                ReturnReason::Refused(refusal) if self.single_batches => {
                    self.last_refusal = Some(Instant::now());
                    self.refuse(returned.message, refusal);
                    continue;
                }
                // The refusal does not name the message at fault.
                ReturnReason::Refused(_) | ReturnReason::Batch => {
                    self.last_refusal = Some(Instant::now());
                    self.start_draining();
                }
                ReturnReason::NoTopic => {
                    self.suspect_topic();
                    self.start_draining();
                }
                ReturnReason::Purged => {}
            }
            self.waiting_bytes += returned.message.size();
            self.returned.push(returned);
        }
    }

    fn start_draining(&mut self) {
        if self.mode == Mode::Sending {
            self.mode = Mode::Draining { purged: None };
        }
    }

    fn suspect_topic(&mut self) {
        if self.suspected_at.is_none() {
            self.suspected_at = Some(Instant::now());
            self.guard.check_now();
        }
    }

    /// Starts a new client if there is a topic to send to.
    fn reopen(&mut self) -> Result<(), Failure> {
        let TopicState::Fit { generation, requested_at } = self.guard.topic_state() else {
            return Ok(());
        };
        if self.suspected_at.is_some_and(|since| requested_at <= since) {
            return Ok(());
        }
        let mut config = self.config.clone();
        self.single_batches = self.last_refusal.is_some();
        if self.single_batches {
            config.set("batch.num.messages", "1");
        }
        let new = Producer::start(self.producer.address(), &config, true)?;
        let old = std::mem::replace(&mut self.producer, new);
        let counts = old.counts();
        self.earlier.delivered += counts.delivered;
        self.earlier.delivered_bytes += counts.delivered_bytes;
        // The threads of a client may take a moment to end, so another thread drops it; if none can be started,
        // this thread waits.
        drop(std::thread::Builder::new().name("old client".into()).spawn(move || drop(old)));
        (self.generation, self.suspected_at, self.mode) = (generation, None, Mode::Sending);
        Ok(())
    }

    fn send_waiting(&mut self) -> Result<(), Failure> {
        while let Some(message) = self.waiting.front() {
            let Err(error) = self.producer.offer(&message.outgoing()) else {
                self.pop();
                continue;
            };
            let code = error.rdkafka_error_code();
            match code.and_then(ReturnReason::of) {
                _ if Producer::is_full(&error) => break,
                Some(ReturnReason::NoTopic) => {
                    self.suspect_topic();
                    self.start_draining();
                    break;
                }
                // The client refuses the message by its own bounds, whatever else is in a batch.
                Some(ReturnReason::Refused(refusal)) => {
                    if let Some(message) = self.pop() {
                        self.refuse(message, refusal);
                    }
                }
                _ => return Err(self.client_failure(&error)),
            }
        }
        Ok(())
    }

    /// Returns the failure of a client that accepts no more messages: an earlier failure, if there is one, since
    /// it is more precise.
    fn client_failure(&self, error: &KafkaError) -> Failure {
        self.producer.failure().unwrap_or_else(|| {
            let topic = &self.address().topic;
            undeliverable(topic, error.rdkafka_error_code(), error, 0).into()
        })
    }

    fn pop(&mut self) -> Option<OwnedMessage> {
        let message = self.waiting.pop_front()?;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(message.size());
        Some(message)
    }

    /// Cuts, counts, logs or keeps a message that the broker refuses for good.
    fn refuse(&mut self, message: OwnedMessage, refusal: Refusal) {
        let bytes = message.key.as_ref().map_or(0, Vec::len) + message.payload.len();
        if self.on_refusal == OnRefusal::Cut
            && refusal == Refusal::TooLarge
            && let Some(less) = message.clone().halved()
        {
            self.waiting_bytes += less.size();
            self.waiting.push_front(less);
            return;
        }
        self.refused_total += 1;
        self.refused_counter(refusal).increment(1);
        if self.on_refusal == OnRefusal::Fail {
            let topic = &self.address().topic;
            let error = refusal_error(topic, refusal, bytes);
            self.failure.get_or_insert(error);
            return;
        }
        if self.sampler.allows(refusal.as_str()) {
            let key = String::from_utf8_lossy(message.key.as_deref().unwrap_or_default());
            let key: String = key.chars().take(LOGGED_KEY_MAX).collect();
            tracing::error!(
                topic = self.address().topic,
                error = refusal.as_str(),
                bytes,
                key = %Quoted(&key),
                settings = refusal.settings(),
                "the broker refuses a message for good: it is not delivered"
            );
        }
        if self.on_refusal == OnRefusal::Keep {
            self.refused.push(Refused { message, refusal });
        }
    }

    /// Returns the number of undelivered messages.
    pub fn waiting(&self) -> u64 {
        (self.waiting.len() + self.returned.len()) as u64 + self.producer.counts().waiting()
    }

    /// Whether all messages were delivered.
    pub fn is_done(&self) -> bool {
        self.waiting() == 0
    }

    /// Returns the time since which no broker can be reached, if none can.
    pub fn unreachable_since(&self) -> Option<Instant> {
        self.producer.unreachable_since()
    }

    /// Waits until everything is delivered, or `give_up` returns true. A message that can't be delivered is an
    /// error once all others are delivered.
    pub fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), Failure> {
        loop {
            self.advance()?;
            if self.is_done() {
                return self.failure.clone().map_or(Ok(()), |failure| Err(failure.into()));
            }
            if give_up() {
                let failure = self.failure.clone();
                return Err(failure.unwrap_or_else(|| self.undelivered()).into());
            }
            match self.mode {
                Mode::Sending => {
                    self.producer.flush();
                }
                Mode::Draining { .. } | Mode::Waiting => std::thread::sleep(CHECK_INTERVAL),
            }
        }
    }

    fn undelivered(&self) -> Error {
        match self.topic_fault() {
            Some(TopicFault { why, .. }) => Error::Undelivered {
                topic: self.address().topic.clone(),
                messages: self.waiting(),
                reason: why,
            },
            None => self.producer.undelivered(self.waiting()),
        }
    }
}

/// The default `batch.size` of librdkafka.
const BATCH_SIZE: u64 = 1_000_000;

fn refusal_error(topic: &str, refusal: Refusal, bytes: usize) -> Error {
    match refusal {
        Refusal::TooLarge => Error::TooLarge { topic: topic.to_owned(), bytes },
        Refusal::Timestamp => Error::Unfit(unfit_timestamp(topic)),
        _ => Error::Unfit(format!(
            "topic {} refuses a message of {bytes} bytes (see {})",
            Quoted(topic),
            refusal.settings()
        )),
    }
}
