//! Messages out: each delivered once, none lost in silence.
//!
//! The producer never blocks and never gives a message up: what it has taken waits for its broker in a
//! queue of bounded size, and when that is full it says so. Whoever sends decides whether to wait (a
//! file) or to count and drop (a live capture). Delivery is known from delivery reports, which are
//! served when the producer is polled.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext,
};
use rdkafka::statistics::Statistics;

use super::topics::{denied, existing};
use super::{Address, ClientOptions, Context, Error, client_config, setup};
use crate::error::Failure;
use crate::limits::quote::Quoted;

/// How long to wait for reports before asking again whether to go on.
const GIVE_UP_INTERVAL: Duration = Duration::from_millis(100);

/// What a producer is made for. Users can override each of it by `-X`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long a message may wait for others that go with it.
    pub linger_ms: u32,
    /// How messages that go together are compressed: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: &'static str,
    /// How many KiB of messages may wait to be delivered.
    pub queue_kib: u32,
    /// How many messages may wait to be delivered. Each takes a few hundred bytes beside its own.
    pub queue_messages: u32,
}

impl Tuning {
    /// For alerts: each goes at once. Of many at a time those that wait for the ones before go
    /// together.
    pub const fn for_latency() -> Self {
        Tuning { linger_ms: 0, compression: "lz4", queue_kib: 64 << 10, queue_messages: 100_000 }
    }

    /// For records: batches fill. lz4 costs the consumer least.
    pub const fn for_throughput() -> Self {
        Tuning { linger_ms: 50, compression: "lz4", queue_kib: 64 << 10, queue_messages: 200_000 }
    }
}

/// A message to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// What it is about: messages of one key go to one partition.
    pub key: Option<&'a [u8]>,
    /// What it says; without it, it removes its key from a compacted topic.
    pub payload: Option<&'a [u8]>,
    /// Its timestamp; without it, the time of sending. 0 is what librdkafka takes for "without", so
    /// 1 is sent instead.
    pub timestamp_ms: Option<i64>,
    /// Its partition, if not by its key.
    pub partition: Option<i32>,
    /// What is said about it beside it, by name.
    pub headers: &'a [(&'static str, String)],
}

/// Whether a message was taken.
#[must_use = "a message that was not taken must be sent again, or counted as dropped"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It will be delivered as soon as possible.
    Queued,
    /// There is no room: poll ([`Producer::poll_for`] waits meanwhile), and send it again.
    Full,
}

/// What has become of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Taken, since the producer was opened.
    pub queued: u64,
    /// Of these, those that a broker has confirmed.
    pub delivered: u64,
    /// Of these, those that can never be delivered.
    pub failed: u64,
    /// Keys and values of what was delivered.
    pub delivered_bytes: u64,
}

impl Counts {
    /// Messages of which nothing is known yet.
    pub fn waiting(&self) -> u64 {
        self.queued.saturating_sub(self.delivered.saturating_add(self.failed))
    }
}

/// Sends messages to one topic. Threads may share it.
///
/// Dropped before [`Producer::finish`], it drops what waits.
pub struct Producer {
    address: Address,
    inner: BaseProducer<Reports>,
    queued: AtomicU64,
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
        let common = client_config(address, options)?;
        existing(address, &common)?;
        // What the user has set by -X wins over the tuning, and nothing over what must hold.
        let mut config = common.clone();
        let mut tune = |key: &str, value: String| {
            if common.get(key).is_none() {
                config.set(key, value);
            }
        };
        // These two have another name each.
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
        // As long as an outage lasts: the queue is bounded, and whoever sends is told.
        config.set("message.timeout.ms", "0");
        let reports = Reports::new(address.topic.clone());
        let inner = setup::create(&config, reports)?;
        Ok(Producer { address: address.clone(), inner, queued: AtomicU64::new(0) })
    }

    /// Where it sends to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Takes a message, if there is room; never waits.
    pub fn send(&self, message: &Outgoing<'_>) -> Result<Sent, Failure> {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.address.topic);
        record.key = message.key;
        record.payload = message.payload;
        record.partition = message.partition;
        if !message.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(message.headers.len());
            let add = |headers: OwnedHeaders, (key, value): &(&'static str, String)| {
                headers.insert(Header { key, value: Some(value) })
            };
            record.headers = Some(message.headers.iter().fold(headers, add));
        }
        record.timestamp = message.timestamp_ms.map(|ms| ms.max(1));
        // Before it is taken: its report may come first, and counts must not be less than nothing.
        self.queued.fetch_add(1, Ordering::Relaxed);
        let Err((error, _)) = self.inner.send(record) else { return Ok(Sent::Queued) };
        self.queued.fetch_sub(1, Ordering::Relaxed);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Ok(Sent::Full),
            // An earlier failure says more: after a fatal one nothing is taken.
            code => Err(self.failure().unwrap_or_else(|| {
                let bytes =
                    message.key.map_or(0, <[u8]>::len) + message.payload.map_or(0, <[u8]>::len);
                undeliverable(&self.address.topic, code, &error, bytes).into()
            })),
        }
    }

    /// Serves what has come, without waiting.
    pub fn poll(&self) {
        let reports = &self.inner.context().context;
        loop {
            let heard = reports.heard();
            // This serves one event, and does not say whether there was one.
            self.inner.poll(Duration::ZERO);
            if reports.heard() == heard {
                return;
            }
        }
    }

    /// Serves what comes for so long: for whoever has nothing to do until there is room again.
    pub fn poll_for(&self, duration: Duration) {
        self.inner.poll(duration);
    }

    /// What has become of messages so far.
    pub fn counts(&self) -> Counts {
        let reports = self.inner.context();
        // First what is a part, then the whole.
        let delivered = reports.delivered.load(Ordering::Acquire);
        let failed = reports.failed.load(Ordering::Acquire);
        let delivered_bytes = reports.delivered_bytes.load(Ordering::Relaxed);
        let queued = self.queued.load(Ordering::Relaxed);
        Counts { queued, delivered, failed, delivered_bytes }
    }

    /// Why it can't go on, if it can't: the first message that can never be delivered, or the end of
    /// the producer itself.
    pub fn failure(&self) -> Option<Failure> {
        let reports = self.inner.context();
        let first = reports.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        first.or_else(|| self.fatal()).map(Failure::from)
    }

    fn fatal(&self) -> Option<Error> {
        let (_, reason) = self.inner.client().fatal_error()?;
        Some(Error::Failed { doing: sending(&self.address.topic), reason })
    }

    /// Since when no broker can be reached, if none can.
    pub fn unreachable_since(&self) -> Option<Instant> {
        self.inner.context().context.unreachable_since()
    }

    /// Whether a broker can be reached, as far as is known.
    pub fn reachable(&self) -> bool {
        self.unreachable_since().is_none()
    }

    /// Waits until all is delivered, for as long as that takes, unless `give_up` says otherwise, which
    /// is asked every 100 ms. A message that can't be delivered is an error once all others are.
    pub fn finish(&self, give_up: &mut dyn FnMut() -> bool) -> Result<(), Failure> {
        loop {
            // While flushing, librdkafka does not wait for batches to fill.
            let flushed = self.inner.flush(GIVE_UP_INTERVAL);
            self.poll();
            let waiting = self.counts().waiting();
            if flushed.is_ok() && waiting == 0 {
                return self.failure().map_or(Ok(()), Err);
            }
            if give_up() {
                return Err(self.failure().unwrap_or_else(|| self.undelivered(waiting).into()));
            }
        }
    }

    fn undelivered(&self, messages: u64) -> Error {
        let reason = match (self.reachable(), self.inner.context().context.last_error()) {
            (false, Some(reason)) => reason,
            _ => "they were given up".to_owned(),
        };
        Error::Undelivered { topic: self.address.topic.clone(), messages, reason }
    }
}

fn sending(topic: &str) -> String {
    format!("sending to topic {}", Quoted(topic))
}

/// The error of a message that no retry delivers.
fn undeliverable(
    topic: &str,
    code: Option<RDKafkaErrorCode>,
    error: &KafkaError,
    bytes: usize,
) -> Error {
    let doing = sending(topic);
    match code {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
            Error::TooLarge { topic: topic.to_owned(), bytes }
        }
        Some(RDKafkaErrorCode::InvalidTimestamp) => Error::Unfit(format!(
            "{doing} failed: a timestamp is further from the broker's clock than the topic allows by \
             message.timestamp.before.max.ms or message.timestamp.after.max.ms"
        )),
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            Error::Failed { doing, reason: "the topic is gone".to_owned() }
        }
        Some(code) => denied(doing, code),
        None => Error::Failed { doing, reason: error.to_string() },
    }
}

/// Hears what became of messages.
struct Reports {
    context: Context,
    topic: String,
    delivered: AtomicU64,
    delivered_bytes: AtomicU64,
    failed: AtomicU64,
    failure: Mutex<Option<Error>>,
}

impl Reports {
    fn new(topic: String) -> Self {
        Reports {
            context: Context::new(),
            topic,
            delivered: AtomicU64::new(0),
            delivered_bytes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failure: Mutex::new(None),
        }
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, text: &str) {
        self.context.log(level, kind, text);
    }

    fn stats(&self, statistics: Statistics) {
        self.context.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, report: &DeliveryResult<'_>, (): ()) {
        self.context.hear();
        let (error, message) = match report {
            Ok(message) => (None, message),
            Err((error, message)) => (Some(error), message),
        };
        let bytes = message.key_len() + message.payload_len();
        let Some(error) = error else {
            self.delivered_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            self.delivered.fetch_add(1, Ordering::Release);
            self.context.reached();
            return;
        };
        self.failed.fetch_add(1, Ordering::Release);
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            let code = error.rdkafka_error_code();
            *first = Some(undeliverable(&self.topic, code, error, bytes));
        }
    }
}
