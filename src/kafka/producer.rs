//! Sends messages: each is delivered once, and none is lost in silence.
//!
//! The producer never blocks and never gives a message up: accepted messages wait for their broker in a queue
//! of bounded size, and [`Producer::send`] returns [`Sent::Full`] when the queue is full. The sender decides
//! whether to wait (a file) or to count and drop (a live capture). Delivery is known from delivery reports,
//! which are served when the producer is polled.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};
use rdkafka::util::IntoOpaque;

use super::message::Outgoing;
use super::reports::{Counts, Mark, Reports, Returned, sending, undeliverable};
use super::topics::existing;
use super::{Address, ClientOptions, Error, client_config, message, setup};
use crate::base::error::Failure;

/// Time limit for one wait for delivery reports, before `give_up` is called again.
const GIVE_UP_INTERVAL: Duration = Duration::from_millis(100);

/// The settings of a producer for its purpose. Users can override each of them by `-X`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Greatest time that a message waits for others of its batch, in milliseconds.
    pub linger_ms: u32,
    /// The compression of batches: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: &'static str,
    /// Greatest size of all undelivered messages, in KiB.
    pub queue_kib: u32,
    /// Greatest number of undelivered messages. Each takes a few hundred bytes beside its own.
    pub queue_messages: u32,
}

impl Tuning {
    /// For alerts: each is sent at once. While earlier ones are on their way, those that wait share a batch.
    pub const fn for_latency() -> Self {
        Tuning { linger_ms: 0, compression: "lz4", queue_kib: 64 << 10, queue_messages: 100_000 }
    }

    /// For records: batches fill. lz4 costs the consumer least.
    pub const fn for_throughput() -> Self {
        Tuning { linger_ms: 50, compression: "lz4", queue_kib: 64 << 10, queue_messages: 200_000 }
    }
}

/// Whether the producer has accepted a message.
#[must_use = "a message that was not accepted must be sent again, or counted as dropped"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The message will be delivered as soon as possible.
    Queued,
    /// The queue is full: poll ([`Producer::poll_for`] waits meanwhile), and send the message again.
    Full,
}

/// Sends messages to one topic. Threads may share it.
///
/// A producer that is dropped before [`Producer::finish`] drops its undelivered messages.
pub struct Producer {
    address: Address,
    inner: BaseProducer<Reports>,
    queued: AtomicU64,
    /// The number of the next message.
    number: AtomicUsize,
}

/// Returns the configuration of a producer. The user's options by -X win over the tuning, but not over the
/// settings that delivery depends on.
pub(super) fn producer_config(
    address: &Address,
    options: &ClientOptions,
    tuning: Tuning,
) -> Result<ClientConfig, Failure> {
    let common = client_config(address, options)?;
    let mut config = common.clone();
    let mut tune = |key: &str, value: String| {
        if common.get(key).is_none() {
            config.set(key, value);
        }
    };
    // These two options have a second name each.
    if common.get("queue.buffering.max.ms").is_none() {
        tune("linger.ms", tuning.linger_ms.to_string());
    }
    if common.get("compression.codec").is_none() {
        tune("compression.type", tuning.compression.to_owned());
    }
    tune("queue.buffering.max.kbytes", tuning.queue_kib.to_string());
    tune("queue.buffering.max.messages", tuning.queue_messages.to_string());
    // Keys land where the clients in Java put them, so that topics can be joined with theirs.
    tune("partitioner", "murmur2_random".to_owned());
    // A retry doubles nothing and keeps the order.
    config.set("enable.idempotence", "true");
    // A message waits as long as an outage lasts: the queue is bounded, and the sender sees when it is full.
    config.set("message.timeout.ms", "0");
    Ok(config)
}

/// Returns a message as the client accepts it. Its delivery report has `mark`.
pub(super) fn base_record<'a, T: IntoOpaque>(
    topic: &'a str,
    message: &Outgoing<'a>,
    mark: T,
) -> BaseRecord<'a, [u8], [u8], T> {
    let mut record = BaseRecord::with_opaque_to(topic, mark);
    record.key = message.key;
    record.payload = message.payload;
    record.partition = message.partition;
    let count = message.headers.len() + message.common_headers.len();
    if count > 0 {
        let headers = OwnedHeaders::new_with_capacity(count);
        let add = |headers: OwnedHeaders, (key, value): &message::Header| {
            headers.insert(Header { key, value: Some(value) })
        };
        let all = message.headers.iter().chain(message.common_headers);
        record.headers = Some(all.fold(headers, add));
    }
    record.timestamp = message.timestamp_ms.map(|ms| ms.max(1));
    record
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("address", &self.address)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl Producer {
    /// Opens a producer to a topic that exists, at a broker that can be reached.
    pub fn open(
        address: &Address,
        options: &ClientOptions,
        tuning: Tuning,
    ) -> Result<Self, Failure> {
        let config = producer_config(address, options, tuning)?;
        existing(address, &config)?;
        Ok(Producer::start(address, &config, false)?)
    }

    /// Starts a client. With `keeps_returned`, it keeps messages that come back, and its owner takes them by
    /// [`Producer::take_returned`]; otherwise a message that comes back is a failure.
    pub(super) fn start(
        address: &Address,
        config: &ClientConfig,
        keeps_returned: bool,
    ) -> Result<Self, Error> {
        let reports = Reports::new(address.topic.clone(), keeps_returned);
        let inner = setup::create(config, reports)?;
        let (queued, number) = (AtomicU64::new(0), AtomicUsize::new(0));
        Ok(Producer { address: address.clone(), inner, queued, number })
    }

    /// Returns the address of the topic.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Accepts a message, if the queue has capacity; never waits.
    pub fn send(&self, message: &Outgoing<'_>) -> Result<Sent, Failure> {
        match self.offer(message) {
            Ok(()) => Ok(Sent::Queued),
            Err(error) if Producer::is_full(&error) => Ok(Sent::Full),
            // An earlier failure is more precise: after a fatal one the client accepts nothing.
            Err(error) => Err(self.failure().unwrap_or_else(|| {
                let bytes =
                    message.key.map_or(0, <[u8]>::len) + message.payload.map_or(0, <[u8]>::len);
                let code = error.rdkafka_error_code();
                undeliverable(&self.address.topic, code, &error, bytes).into()
            })),
        }
    }

    /// Accepts a message as [`Producer::send`] does, but returns the error of the client as it is.
    pub(super) fn offer(&self, message: &Outgoing<'_>) -> Result<(), KafkaError> {
        let mark = Box::new(Mark {
            number: self.number.fetch_add(1, Ordering::Relaxed),
            partition: message.partition,
            timestamp_ms: message.timestamp_ms,
        });
        let record = base_record(&self.address.topic, message, mark);
        // Counted before the client accepts it: its delivery report may come at once, and no more messages may
        // be delivered than are queued.
        self.queued.fetch_add(1, Ordering::Relaxed);
        self.inner.send(record).map_err(|(error, _)| {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            error
        })
    }

    /// Whether an error means that the queue is full.
    pub(super) fn is_full(error: &KafkaError) -> bool {
        error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
    }

    /// Makes the client return the messages that it has not sent.
    pub(super) fn purge(&self) {
        self.inner.purge(PurgeConfig::default().queue().non_blocking());
    }

    /// Takes the returned messages, if the client keeps them.
    pub(super) fn take_returned(&self) -> Vec<Returned> {
        self.inner.context().take_returned()
    }

    /// Serves all pending events, without waiting.
    pub fn poll(&self) {
        let reports = &self.inner.context().context;
        loop {
            let events = reports.events();
            // One call serves at most one event, and its result does not show whether there was one.
            self.inner.poll(Duration::ZERO);
            if reports.events() == events {
                return;
            }
        }
    }

    /// Serves events for this long: for a sender that has nothing to do until the queue has capacity again.
    pub fn poll_for(&self, duration: Duration) {
        self.inner.poll(duration);
    }

    /// Returns the numbers of messages by their outcome.
    pub fn counts(&self) -> Counts {
        // The parts are read before the whole, so that they never exceed it.
        let reports = self.inner.context().counts();
        Counts { queued: self.queued.load(Ordering::Relaxed), ..reports }
    }

    /// Returns the failure of the producer, if there is one: the first message that can never be delivered, or a fatal
    /// error of the client.
    pub fn failure(&self) -> Option<Failure> {
        self.inner.context().failure().or_else(|| self.fatal()).map(Failure::from)
    }

    fn fatal(&self) -> Option<Error> {
        let (_, reason) = self.inner.client().fatal_error()?;
        Some(Error::Failed { doing: sending(&self.address.topic), reason })
    }

    /// Returns the time since which no broker can be reached, if none can.
    pub fn unreachable_since(&self) -> Option<Instant> {
        self.inner.context().context.unreachable_since()
    }

    /// Whether a broker can be reached, as far as the client knows.
    pub fn reachable(&self) -> bool {
        self.unreachable_since().is_none()
    }

    /// Waits until all messages are delivered, or until `give_up`, called every 100 ms, returns true. A message that
    /// can't be delivered is an error once all others are delivered.
    pub fn finish(&self, give_up: &mut dyn FnMut() -> bool) -> Result<(), Failure> {
        loop {
            let flushed = self.flush();
            let waiting = self.counts().waiting();
            if flushed && waiting == 0 {
                return self.failure().map_or(Ok(()), Err);
            }
            if give_up() {
                return Err(self.failure().unwrap_or_else(|| self.undelivered(waiting).into()));
            }
        }
    }

    /// Waits for deliveries for a moment, and returns whether no message is in flight. While flushing, librdkafka does
    /// not wait for batches to fill.
    pub(super) fn flush(&self) -> bool {
        let flushed = self.inner.flush(GIVE_UP_INTERVAL);
        self.poll();
        flushed.is_ok()
    }

    pub(super) fn undelivered(&self, messages: u64) -> Error {
        let reason = match (self.reachable(), self.inner.context().context.last_error()) {
            (false, Some(reason)) => reason,
            _ => "the wait for their delivery was given up".to_owned(),
        };
        Error::Undelivered { topic: self.address.topic.clone(), messages, reason }
    }
}
