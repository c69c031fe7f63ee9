//! A consumer of chosen partitions, by batches.
//!
//! Reading single messages costs the calling thread about twice as much as reading batches, and with one record
//! a message that is most of the cost of counting a record. The crate for librdkafka does not offer batches, so
//! this module calls the library itself.
#![expect(unsafe_code, reason = "batches are in the C interface of librdkafka alone")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{null, null_mut};
use std::slice;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_err2str, rd_kafka_header_get_last,
    rd_kafka_message_destroy, rd_kafka_message_errstr, rd_kafka_message_headers,
    rd_kafka_message_s, rd_kafka_message_t, rd_kafka_message_timestamp, rd_kafka_queue_destroy,
    rd_kafka_queue_forward, rd_kafka_queue_get_consumer, rd_kafka_queue_get_partition,
    rd_kafka_queue_t, rd_kafka_set_logger, rd_kafka_t, rd_kafka_timestamp_type_t,
};
use rdkafka::client::ClientContext as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::{Context, Error, setup};

/// Messages of one batch. It bounds how long a worker is away from the computation.
pub(super) const BATCH: usize = 4096;

/// Messages of one batch of a partition that is read by itself: they wait as long as the partition does.
const PARTITION_BATCH: usize = 512;

/// Time limit for a request for the end of a partition.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// The result of polling one item of the consumer's queue.
#[derive(Debug)]
pub(super) enum Polled<'a> {
    /// A message.
    Message {
        partition: i32,
        offset: i64,
        key: Option<&'a [u8]>,
        payload: Option<&'a [u8]>,
        timestamp_ms: Option<u64>,
        headers: Headers<'a>,
    },
    /// The partition has nothing at or after this offset, for now.
    End { partition: i32, offset: i64 },
    /// The offset to be read next is no longer, or not yet, in the partition.
    OutOfRange { partition: i32, why: String },
    /// The topic or the partition does not exist.
    Unknown,
    /// An error from which the client does not recover by itself.
    Failed { why: String },
}

/// The treatment of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is consumed.
    Next,
    /// It is consumed, and the items after it are left for the next call.
    Stop,
    /// It is left for the next call, and the items after it are not.
    Keep,
}

/// The headers of a message, parsed on demand: most messages have none, and parsing costs as much as reading a
/// short record.
#[derive(Clone, Copy)]
pub(super) struct Headers<'a>(&'a rd_kafka_message_s);

impl std::fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Headers")
    }
}

impl Headers<'_> {
    /// Whether there is a header of this name.
    pub(super) fn has(&self, name: &CStr) -> bool {
        self.get(name).is_some()
    }
}

impl<'a> Headers<'a> {
    /// Returns the value of the last header of this name; of one without a value, nothing.
    pub(super) fn get(&self, name: &CStr) -> Option<&'a [u8]> {
        let mut headers = null_mut();
        let (mut value, mut size) = (null(), 0);
        // SAFETY: the message is valid as long as this, and owns the headers; the name ends with a zero.
        let found = unsafe {
            rd_kafka_message_headers(self.0, &raw mut headers)
                == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
                && rd_kafka_header_get_last(headers, name.as_ptr(), &raw mut value, &raw mut size)
                    == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        };
        // SAFETY: librdkafka provides the pointer and the length of the value, which the message owns.
        found.then(|| unsafe { bytes(value.cast(), size) }.unwrap_or_default())
    }
}

/// Reads fixed partitions of one topic; they are never rebalanced.
pub(super) struct Consumer {
    topic: String,
    /// The messages of a batch, until all are read: released one by one, they would contend with the thread of
    /// the client for its memory. Declared before the client, which must outlive them.
    messages: Vec<Borrowed>,
    /// The messages at the start that were left for later.
    kept: usize,
    // Declared before the client, which must outlive it.
    queue: Queue,
    client: BaseConsumer<Context>,
    batch: Vec<*mut rd_kafka_message_t>,
    /// Whether the last batch contained all messages that the client had.
    drained: bool,
}

// SAFETY: the client, its queue and its messages may be used by any thread, one at a time; the pointers of a
// batch are not used between two calls.
unsafe impl Send for Consumer {}

struct Queue(*mut rd_kafka_queue_t);

impl Queue {
    /// Fetches messages from the client, as many as the slice has places or as come until `wait` is over. Returns their
    /// number.
    fn fetch(&self, wait: Duration, to: &mut [*mut rd_kafka_message_t]) -> usize {
        let wait = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is valid, and the array has the requested length.
        let count =
            unsafe { rd_kafka_consume_batch_queue(self.0, wait, to.as_mut_ptr(), to.len()) };
        usize::try_from(count).unwrap_or(0)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the client of the queue is still alive, and this is the only owner of this reference.
        unsafe { rd_kafka_queue_destroy(self.0) }
    }
}

/// Releases a message when dropped, also when its reader panics.
struct Borrowed(*mut rd_kafka_message_t);

impl Drop for Borrowed {
    fn drop(&mut self) {
        // SAFETY: the message came from the queue, and is released once.
        unsafe { rd_kafka_message_destroy(self.0) }
    }
}

impl Consumer {
    /// Opens a consumer without partitions. Another thread calls `wake` when the empty queue gets a message.
    pub(super) fn open(
        topic: &str,
        config: &ClientConfig,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let mut client = client(config)?;
        client.set_nonempty_callback(wake);
        // SAFETY: the client is valid, and outlives the queue.
        let queue = unsafe { rd_kafka_queue_get_consumer(client.client().native_ptr()) };
        assert!(!queue.is_null(), "a consumer with a group has a queue");
        let (messages, batch) = (Vec::new(), vec![null_mut(); BATCH]);
        let topic = topic.into();
        let queue = Queue(queue);
        Ok(Consumer { topic, messages, kept: 0, queue, client, batch, drained: false })
    }

    /// Calls `each` for the available messages, at most a batch, without waiting, until `each` stops: the next call
    /// continues with the rest. Returns whether it consumed all messages that were available.
    pub(super) fn poll(&mut self, mut each: impl FnMut(Polled<'_>) -> Step) -> bool {
        // Kept messages do not keep others from coming.
        let fetches = self.messages.len() == self.kept;
        if fetches {
            self.fetch();
        }
        self.kept = 0;
        let mut next = 0;
        while let Some(message) = self.messages.get(next) {
            // SAFETY: the message is valid until it is released.
            let polled = unsafe { polled(&*message.0) };
            let step = polled.map_or(Step::Next, &mut each);
            if step == Step::Keep {
                // In their order, before those that are consumed.
                self.messages.swap(self.kept, next);
                self.kept += 1;
            }
            next += 1;
            if step == Step::Stop {
                self.messages.drain(self.kept..next);
                return false;
            }
        }
        self.messages.truncate(self.kept);
        fetches && self.drained && self.kept == 0
    }

    /// Returns the partitions of messages that wait for their turn.
    pub(super) fn kept_partitions(&self) -> Vec<i32> {
        // SAFETY: the message is valid until it is released.
        let kept = self.messages[..self.kept].iter();
        let mut partitions: Vec<i32> =
            kept.map(|message| unsafe { (*message.0).partition }).collect();
        partitions.sort_unstable();
        partitions.dedup();
        partitions
    }

    /// Returns the number of messages that wait for their turn.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Fetches the next batch from the client.
    fn fetch(&mut self) {
        let count = self.queue.fetch(Duration::ZERO, &mut self.batch);
        self.drained = count < self.batch.len();
        // All at once, so that a panic of a reader releases all of them.
        self.messages.extend(self.batch[..count].iter().copied().map(Borrowed));
    }

    /// Adds these partitions, to be read from these offsets on.
    pub(super) fn add(&self, partitions: &[(i32, i64)]) -> Result<(), KafkaError> {
        self.client.incremental_assign(&self.list(partitions, Offset::Offset)?)
    }

    /// Returns the offset after the last message of a partition.
    pub(super) fn end(&self, partition: i32) -> Result<i64, KafkaError> {
        let (_, end) = self.client.fetch_watermarks(&self.topic, partition, END_TIMEOUT)?;
        Ok(end)
    }

    /// Adds these partitions, to be read from their first messages on.
    pub(super) fn add_from_beginning(
        &self,
        partitions: impl IntoIterator<Item = i32>,
    ) -> Result<(), KafkaError> {
        let partitions: Vec<_> = partitions.into_iter().map(|partition| (partition, 0)).collect();
        self.client.incremental_assign(&self.list(&partitions, |_| Offset::Beginning)?)
    }

    /// Stops reading a partition, and drops its fetched messages, until it is [added](Consumer::add) again.
    ///
    /// The client's own pause would resume at its own position, which is one too far after a batch that contained
    /// [`Polled::End`].
    pub(super) fn remove(&mut self, partition: i32) -> Result<(), KafkaError> {
        self.kept = 0;
        // SAFETY: the message is valid until it is released.
        self.messages.retain(|message| unsafe { (*message.0).partition } != partition);
        self.client.incremental_unassign(&self.list(&[(partition, 0)], |_| Offset::Invalid)?)
    }

    /// Commits offsets of the group, so that others can see its lag. The broker stores `metadata` with each offset.
    pub(super) fn commit(
        &self,
        offsets: &[(i32, i64)],
        metadata: Option<&str>,
        mode: CommitMode,
    ) -> Result<(), KafkaError> {
        let list = self.list(offsets, Offset::Offset)?;
        if let Some(metadata) = metadata {
            for (partition, _) in offsets {
                if let Some(mut offset) = list.find_partition(&self.topic, *partition) {
                    offset.set_metadata(metadata);
                }
            }
        }
        self.client.commit(&list, mode)
    }

    fn list(
        &self,
        partitions: &[(i32, i64)],
        offset: impl Fn(i64) -> Offset,
    ) -> Result<TopicPartitionList, KafkaError> {
        list(&self.topic, partitions, offset)
    }
}

fn list(
    topic: &str,
    partitions: &[(i32, i64)],
    offset: impl Fn(i64) -> Offset,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (partition, at) in partitions {
        list.add_partition_offset(topic, *partition, offset(*at))?;
    }
    Ok(list)
}

/// Creates a client for reading batches.
fn client(config: &ClientConfig) -> Result<BaseConsumer<Context>, Error> {
    let client: BaseConsumer<Context> = setup::create(config, Context::new())?;
    // SAFETY: the client is valid. Reading batches bypasses the crate, which would forward logs.
    unsafe { rd_kafka_set_logger(client.client().native_ptr(), Some(log)) };
    Ok(client)
}

/// A consumer of which each partition has a queue of its own: one that is not read delays no other, and its broker is
/// not asked for more than the queue holds.
pub(super) struct SplitConsumer {
    topic: String,
    client: BaseConsumer<Context>,
}

impl SplitConsumer {
    /// Opens the consumer with these partitions, to be read from these offsets on.
    pub(super) fn open(
        topic: &str,
        config: &ClientConfig,
        partitions: &[(i32, i64)],
    ) -> Result<Vec<PartitionQueue>, Error> {
        let consumer = Arc::new(SplitConsumer { topic: topic.into(), client: client(config)? });
        let failed = |reason: String| Error::Failed {
            doing: format!("reading the partitions of topic \"{topic}\""),
            reason,
        };
        let name = CString::new(topic).map_err(|error| failed(error.to_string()))?;
        let queue = |(partition, _): &(i32, i64)| {
            let client = consumer.client.client().native_ptr();
            // SAFETY: the client is valid, and outlives the queue; the name ends with a zero.
            let queue = unsafe { rd_kafka_queue_get_partition(client, name.as_ptr(), *partition) };
            if queue.is_null() {
                return Err(failed(format!("partition {partition} has no queue")));
            }
            let queue = Queue(queue);
            // SAFETY: the queue is valid. From now on its messages do not go to the queue of the consumer.
            unsafe { rd_kafka_queue_forward(queue.0, null_mut()) };
            Ok(PartitionQueue {
                messages: Vec::new(),
                next: 0,
                queue,
                batch: vec![null_mut(); PARTITION_BATCH],
                partition: *partition,
                consumer: consumer.clone(),
            })
        };
        let queues = partitions.iter().map(queue).collect::<Result<Vec<_>, Error>>()?;
        list(topic, partitions, Offset::Offset)
            .and_then(|list| consumer.client.incremental_assign(&list))
            .map_err(|error| failed(error.to_string()))?;
        Ok(queues)
    }
}

/// The queue of one partition.
pub(super) struct PartitionQueue {
    /// The messages of a batch. Declared before the client, which must outlive them.
    messages: Vec<Borrowed>,
    /// The number of these that are consumed.
    next: usize,
    // Declared before the client, which must outlive it.
    queue: Queue,
    batch: Vec<*mut rd_kafka_message_t>,
    partition: i32,
    consumer: Arc<SplitConsumer>,
}

// SAFETY: the client, its queues and its messages may be used by any thread; each queue has one owner. The pointers of
// a batch are not used between two calls.
unsafe impl Send for PartitionQueue {}

impl PartitionQueue {
    /// Returns the number of the partition.
    pub(super) fn partition(&self) -> i32 {
        self.partition
    }

    /// Calls `each` for the messages of a batch until it stops: the next call continues with the rest. Waits at most
    /// `wait` for the first message of a batch. Returns whether there was any.
    pub(super) fn poll(
        &mut self,
        wait: Duration,
        mut each: impl FnMut(Polled<'_>) -> Step,
    ) -> bool {
        if self.next == self.messages.len() {
            // Events of the client as a whole; messages are in the queues of partitions.
            if let Some(Err(error)) = self.consumer.client.poll(Duration::ZERO) {
                tracing::debug!(%error, "the consumer reports");
                if let Some((_, why)) = self.consumer.client.client().fatal_error() {
                    each(Polled::Failed { why });
                    return true;
                }
            }
            self.fetch(wait);
        }
        let begin = self.next;
        while let Some(message) = self.messages.get(self.next) {
            self.next += 1;
            // SAFETY: the message is valid until it is released.
            let polled = unsafe { polled(&*message.0) };
            if polled.map_or(Step::Next, &mut each) == Step::Stop {
                break;
            }
        }
        self.next > begin
    }

    fn fetch(&mut self, wait: Duration) {
        self.messages.clear();
        self.next = 0;
        // The client would wait for a whole batch.
        let mut count = self.queue.fetch(wait, &mut self.batch[..1]);
        if count == 1 {
            count += self.queue.fetch(Duration::ZERO, &mut self.batch[1..]);
        }
        self.messages.extend(self.batch[..count].iter().copied().map(Borrowed));
    }

    /// Stops to fetch the partition.
    pub(super) fn stop(&mut self) {
        self.messages.clear();
        self.next = 0;
        let SplitConsumer { topic, client } = &*self.consumer;
        let stopped = list(topic, &[(self.partition, 0)], |_| Offset::Invalid)
            .and_then(|list| client.incremental_unassign(&list));
        if let Err(error) = stopped {
            tracing::debug!(partition = self.partition, %error, "cannot stop fetching a partition");
        }
    }
}

/// Logs the lines of librdkafka as other clients do. All consumers share one rate limit.
///
/// # Safety
/// As librdkafka calls it: with texts that end with a zero.
unsafe extern "C" fn log(
    _: *const rd_kafka_t,
    level: c_int,
    kind: *const c_char,
    text: *const c_char,
) {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    let level = match level {
        ..=2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        _ => RDKafkaLogLevel::Debug,
    };
    // SAFETY: librdkafka formats both for this call.
    let (kind, text) = unsafe { (CStr::from_ptr(kind), CStr::from_ptr(text)) };
    let context = CONTEXT.get_or_init(Context::new);
    context.log(level, &kind.to_string_lossy(), &text.to_string_lossy());
}

/// Converts a message of librdkafka: a record, the end of a partition, or an error. `None` for an error that
/// the client retries by itself.
///
/// # Safety
/// The message is valid, and outlives what is returned.
unsafe fn polled<'a>(message: &'a rd_kafka_message_s) -> Option<Polled<'a>> {
    let rd_kafka_message_s { partition, offset, .. } = *message;
    match message.err {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
            // SAFETY: librdkafka provides the pointers and lengths of key and payload.
            let (key, payload) = unsafe {
                (
                    bytes(message.key.cast(), message.key_len),
                    bytes(message.payload.cast(), message.len),
                )
            };
            let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            // SAFETY: the message is valid.
            let timestamp = unsafe { rd_kafka_message_timestamp(message, &mut kind) };
            let timestamp_ms = u64::try_from(timestamp).ok();
            let headers = Headers(message);
            Some(Polled::Message { partition, offset, key, payload, timestamp_ms, headers })
        }
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => Some(Polled::End { partition, offset }),
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET
        | RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE => {
            // SAFETY: the message is valid.
            let why = unsafe { error_text(message) };
            Some(Polled::OutOfRange { partition, why })
        }
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
        | RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID
        | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
        | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION => Some(Polled::Unknown),
        code if fatal(code) => {
            // SAFETY: the message is valid.
            let why = unsafe { error_text(message) };
            Some(Polled::Failed { why })
        }
        // A broker is down, or a partition moves: the client retries.
        code => {
            // SAFETY: the message is valid.
            let why = unsafe { error_text(message) };
            tracing::debug!(partition, ?code, why, "the consumer reports");
            None
        }
    }
}

/// Whether the client never recovers from this error by itself.
fn fatal(code: RDKafkaRespErr) -> bool {
    matches!(
        code,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__FATAL
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED
    )
}

/// # Safety
/// The pointer is null, or valid for this many bytes as long as the result is used.
unsafe fn bytes<'a>(start: *const u8, length: usize) -> Option<&'a [u8]> {
    // SAFETY: as the caller guarantees.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start, length) })
}

/// # Safety
/// The message is valid.
unsafe fn error_text(message: &rd_kafka_message_s) -> String {
    // SAFETY: both functions return a text that ends with a zero, or null.
    unsafe {
        let mut text = rd_kafka_message_errstr(message);
        if text.is_null() {
            text = rd_kafka_err2str(message.err);
        }
        match text.is_null() {
            true => String::new(),
            false => CStr::from_ptr(text).to_string_lossy().into_owned(),
        }
    }
}
