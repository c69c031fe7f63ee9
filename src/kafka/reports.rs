//! Delivery reports of a producer: delivered messages, and undelivered ones with the reason.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::producer::{DeliveryResult, NoCustomPartitioner, ProducerContext};
use rdkafka::statistics::Statistics;

use super::message::OwnedMessage;
use super::topics::denied;
use super::{Context, Error};
use crate::base::quote::Quoted;

/// Numbers of messages by their outcome, since the producer was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that the producer has accepted.
    pub queued: u64,
    /// Accepted messages that a broker has confirmed.
    pub delivered: u64,
    /// Accepted messages that can never be delivered.
    pub failed: u64,
    /// Bytes of the keys and values of delivered messages.
    pub delivered_bytes: u64,
}

impl Counts {
    /// Returns the number of messages without a delivery report.
    pub fn waiting(&self) -> u64 {
        self.queued.saturating_sub(self.delivered.saturating_add(self.failed))
    }
}

pub(super) fn sending(topic: &str) -> String {
    format!("sending to topic {}", Quoted(topic))
}

/// Returns the error of a message that no retry delivers.
pub(super) fn undeliverable(
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
        Some(RDKafkaErrorCode::InvalidTimestamp) => Error::Unfit(unfit_timestamp(topic)),
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            Error::Failed { doing, reason: "the topic does not exist any more".to_owned() }
        }
        Some(code) => denied(doing, code),
        None => Error::Failed { doing, reason: error.to_string() },
    }
}

/// Returns the text of the error about a timestamp that a topic refuses.
pub(super) fn unfit_timestamp(topic: &str) -> String {
    format!(
        "{} failed: a timestamp is further from the broker's clock than the topic allows by \
         message.timestamp.before.max.ms or message.timestamp.after.max.ms",
        sending(topic)
    )
}

/// The reason why a broker, or librdkafka itself, refuses a message for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The message is larger than the topic or the client accepts.
    TooLarge,
    /// The timestamp is out of the topic's bounds.
    Timestamp,
    /// The message lacks something that the topic needs, such as a key for compaction.
    Record,
    /// A policy of the broker forbids the message.
    Policy,
    /// The broker's message format lacks a feature that the message uses, such as headers.
    Format,
}

impl Refusal {
    /// All refusals.
    pub const ALL: [Refusal; 5] =
        [Refusal::TooLarge, Refusal::Timestamp, Refusal::Record, Refusal::Policy, Refusal::Format];

    /// Returns the label in metrics, which does not change between versions.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::TooLarge => "too_large",
            Refusal::Timestamp => "timestamp",
            Refusal::Record => "record",
            Refusal::Policy => "policy",
            Refusal::Format => "format",
        }
    }

    /// Returns the settings that cause the refusal.
    pub fn settings(self) -> &'static str {
        match self {
            Refusal::TooLarge => {
                "max.message.bytes of the topic, -X message.max.bytes of the client"
            }
            Refusal::Timestamp => {
                "message.timestamp.before.max.ms and message.timestamp.after.max.ms of the topic"
            }
            Refusal::Record => "cleanup.policy of the topic: compaction needs keys",
            Refusal::Policy => "the policies of the brokers",
            Refusal::Format => "message.format.version of the topic",
        }
    }

    /// Returns the refusal for an error code, if the error concerns this message alone.
    pub(super) fn of(code: RDKafkaErrorCode) -> Option<Self> {
        match code {
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::MessageBatchTooLarge => Some(Refusal::TooLarge),
            RDKafkaErrorCode::InvalidTimestamp => Some(Refusal::Timestamp),
            RDKafkaErrorCode::InvalidRecord | RDKafkaErrorCode::InvalidMessage => {
                Some(Refusal::Record)
            }
            RDKafkaErrorCode::PolicyViolation => Some(Refusal::Policy),
            RDKafkaErrorCode::UnsupportedForMessageFormat => Some(Refusal::Format),
            _ => None,
        }
    }
}

/// The reason why a message came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReturnReason {
    /// The broker refuses this message, or another one of its batch, for good.
    Refused(Refusal),
    /// Another message of its batch is at fault.
    Batch,
    /// The topic or the partition does not exist.
    NoTopic,
    /// The producer has purged the queue of the client.
    Purged,
}

impl ReturnReason {
    /// Returns the reason for an error code; `None` if the error is fatal.
    pub(super) fn of(code: RDKafkaErrorCode) -> Option<Self> {
        match code {
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopicId => Some(ReturnReason::NoTopic),
            RDKafkaErrorCode::PurgeQueue => Some(ReturnReason::Purged),
            RDKafkaErrorCode::InvalidDifferentRecord => Some(ReturnReason::Batch),
            code => Refusal::of(code).map(ReturnReason::Refused),
        }
    }
}

/// A message that came back.
#[derive(Debug)]
pub(super) struct Returned {
    /// Its position among all sent messages.
    pub(super) number: usize,
    pub(super) reason: ReturnReason,
    pub(super) message: OwnedMessage,
}

/// The data of a message that its delivery report lacks.
#[derive(Debug)]
pub(super) struct Mark {
    /// Its position among all sent messages.
    pub(super) number: usize,
    /// The partition that its sender has chosen.
    pub(super) partition: Option<i32>,
    pub(super) timestamp_ms: Option<i64>,
}

/// Counts deliveries, and keeps returned messages.
pub(super) struct Reports {
    pub(super) context: Context,
    topic: String,
    /// Whether messages that come back are kept for the sender.
    keeps_returned: bool,
    delivered: AtomicU64,
    delivered_bytes: AtomicU64,
    failed: AtomicU64,
    failure: Mutex<Option<Error>>,
    returned: Mutex<Vec<Returned>>,
    has_returned: AtomicBool,
}

impl Reports {
    pub(super) fn new(topic: String, keeps_returned: bool) -> Self {
        Reports {
            context: Context::new(),
            topic,
            keeps_returned,
            delivered: AtomicU64::new(0),
            delivered_bytes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failure: Mutex::new(None),
            returned: Mutex::new(Vec::new()),
            has_returned: AtomicBool::new(false),
        }
    }

    /// Returns the numbers of delivered and failed messages; the producer counts the queued ones.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            queued: 0,
            delivered: self.delivered.load(Ordering::Acquire),
            failed: self.failed.load(Ordering::Acquire),
            delivered_bytes: self.delivered_bytes.load(Ordering::Relaxed),
        }
    }

    /// Returns the first failure, without those of messages that were kept.
    pub(super) fn failure(&self) -> Option<Error> {
        lock(&self.failure).clone()
    }

    /// Takes the messages that came back since the last call.
    pub(super) fn take_returned(&self) -> Vec<Returned> {
        if !self.has_returned.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut lock(&self.returned))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a message as it was sent.
fn sent_message(message: &BorrowedMessage<'_>, mark: &Mark) -> OwnedMessage {
    let headers = message.headers().map(|headers| {
        let text =
            |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        headers
            .iter()
            .map(|header| (Cow::Owned(header.key.to_owned()), text(header.value)))
            .collect()
    });
    OwnedMessage {
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().unwrap_or_default().to_vec(),
        timestamp_ms: mark.timestamp_ms.and_then(|ms| u64::try_from(ms).ok()),
        partition: mark.partition,
        headers: headers.unwrap_or_default(),
        common_headers: None,
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
    type DeliveryOpaque = Box<Mark>;

    fn delivery(&self, report: &DeliveryResult<'_>, mark: Box<Mark>) {
        self.context.count_event();
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
        let code = error.rdkafka_error_code();
        match code.and_then(ReturnReason::of).filter(|_| self.keeps_returned) {
            Some(reason) => {
                let message = sent_message(message, &mark);
                lock(&self.returned).push(Returned { number: mark.number, reason, message });
                self.has_returned.store(true, Ordering::Release);
            }
            None => {
                let first = &mut *lock(&self.failure);
                first.get_or_insert_with(|| undeliverable(&self.topic, code, error, bytes));
            }
        }
        // Counted last, so that a reader who sees no message in flight finds all returned messages.
        self.failed.fetch_add(1, Ordering::Release);
    }
}
