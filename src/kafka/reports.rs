//! Delivery reports of a producer: messages that arrived, and those that did not, with the reason.

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

pub(super) fn sending(topic: &str) -> String {
    format!("sending to topic {}", Quoted(topic))
}

/// The error of a message that no retry delivers.
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
            Error::Failed { doing, reason: "the topic is gone".to_owned() }
        }
        Some(code) => denied(doing, code),
        None => Error::Failed { doing, reason: error.to_string() },
    }
}

/// The text of a message whose timestamp a topic refuses.
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
    /// It is larger than the topic or the client accepts.
    TooLarge,
    /// Its timestamp is out of the topic's bounds.
    Timestamp,
    /// The topic needs something that it lacks, such as a key for compaction.
    Record,
    /// A policy of the broker is against it.
    Policy,
    /// The broker's format of messages has no room for something in it, such as headers.
    Format,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 5] =
        [Refusal::TooLarge, Refusal::Timestamp, Refusal::Record, Refusal::Policy, Refusal::Format];

    /// The label of a metric. It does not change between versions.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::TooLarge => "too_large",
            Refusal::Timestamp => "timestamp",
            Refusal::Record => "record",
            Refusal::Policy => "policy",
            Refusal::Format => "format",
        }
    }

    /// The settings that decide about it.
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

    /// The refusal that a code stands for, if it is about the message alone.
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
pub(super) enum Back {
    /// It, or another one of its batch, is refused for good.
    Refused(Refusal),
    /// Another message of its batch is at fault.
    Batch,
    /// The topic or the partition does not exist.
    NoTopic,
    /// The client was told to give it back.
    Purged,
}

impl Back {
    /// `None` if nothing is to be done with the message but to end.
    pub(super) fn of(code: RDKafkaErrorCode) -> Option<Self> {
        match code {
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopicId => Some(Back::NoTopic),
            RDKafkaErrorCode::PurgeQueue => Some(Back::Purged),
            RDKafkaErrorCode::InvalidDifferentRecord => Some(Back::Batch),
            code => Refusal::of(code).map(Back::Refused),
        }
    }
}

/// A message that came back.
#[derive(Debug)]
pub(super) struct Returned {
    /// Its place among all messages that were sent.
    pub(super) number: usize,
    pub(super) why: Back,
    pub(super) letter: OwnedMessage,
}

/// The data of a message that its delivery report lacks.
#[derive(Debug)]
pub(super) struct Mark {
    /// Its place among all messages that were sent.
    pub(super) number: usize,
    /// The partition that its sender has chosen.
    pub(super) partition: Option<i32>,
    pub(super) timestamp_ms: Option<i64>,
}

/// Counts deliveries, and keeps what came back.
pub(super) struct Reports {
    pub(super) context: Context,
    topic: String,
    /// Whether messages that come back are kept for the sender.
    keeps: bool,
    delivered: AtomicU64,
    delivered_bytes: AtomicU64,
    failed: AtomicU64,
    failure: Mutex<Option<Error>>,
    returned: Mutex<Vec<Returned>>,
    has_returned: AtomicBool,
}

impl Reports {
    pub(super) fn new(topic: String, keeps: bool) -> Self {
        Reports {
            context: Context::new(),
            topic,
            keeps,
            delivered: AtomicU64::new(0),
            delivered_bytes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failure: Mutex::new(None),
            returned: Mutex::new(Vec::new()),
            has_returned: AtomicBool::new(false),
        }
    }

    /// The messages that were delivered or came back; those that were sent are counted by the producer.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            queued: 0,
            delivered: self.delivered.load(Ordering::Acquire),
            failed: self.failed.load(Ordering::Acquire),
            delivered_bytes: self.delivered_bytes.load(Ordering::Relaxed),
        }
    }

    /// The first failure that is not about a message that was kept.
    pub(super) fn failure(&self) -> Option<Error> {
        lock(&self.failure).clone()
    }

    /// The messages that came back since the last call.
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

/// A message as it was sent.
fn letter(message: &BorrowedMessage<'_>, mark: &Mark) -> OwnedMessage {
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
        let code = error.rdkafka_error_code();
        match code.and_then(Back::of).filter(|_| self.keeps) {
            Some(why) => {
                let letter = letter(message, &mark);
                lock(&self.returned).push(Returned { number: mark.number, why, letter });
                self.has_returned.store(true, Ordering::Release);
            }
            None => {
                let first = &mut *lock(&self.failure);
                first.get_or_insert_with(|| undeliverable(&self.topic, code, error, bytes));
            }
        }
        // Last: whoever sees that nothing is under way finds all that came back.
        self.failed.fetch_add(1, Ordering::Release);
    }
}
