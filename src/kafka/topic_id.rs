//! The id that a broker assigns to a topic. A topic that is deleted and created again has the same name and
//! another id.
//!
//! librdkafka returns the id from its admin interface, which the crate for librdkafka does not offer, so
//! this module calls the library itself.
#![expect(unsafe_code, reason = "topic ids are in the C interface of librdkafka alone")]

use std::ffi::{CStr, CString};
use std::fmt;
use std::ptr::null_mut;
use std::slice;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings::{
    rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new, rd_kafka_AdminOptions_set_broker,
    rd_kafka_AdminOptions_set_request_timeout, rd_kafka_DescribeTopics,
    rd_kafka_DescribeTopics_result_topics, rd_kafka_TopicCollection_destroy,
    rd_kafka_TopicCollection_of_topic_names, rd_kafka_TopicDescription_error,
    rd_kafka_TopicDescription_topic_id, rd_kafka_Uuid_base64str,
    rd_kafka_Uuid_least_significant_bits, rd_kafka_Uuid_most_significant_bits, rd_kafka_admin_op_t,
    rd_kafka_error_code, rd_kafka_event_DescribeTopics_result, rd_kafka_event_destroy,
    rd_kafka_event_error, rd_kafka_event_t, rd_kafka_queue_destroy, rd_kafka_queue_new,
    rd_kafka_queue_poll, rd_kafka_queue_t, rd_kafka_t,
};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

/// Time that librdkafka may take, beyond the timeout of a request, to report it.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The id of a topic, written as Kafka's own tools write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TopicId(String);

impl TopicId {
    /// Creates an id from its text.
    pub(super) fn new(text: impl Into<String>) -> Self {
        TopicId(text.into())
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A broker's response to a request for a topic's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IdResponse {
    /// The topic exists and has this id.
    Id(TopicId),
    /// The topic exists; this broker has no topic ids, as before Kafka 2.8.
    NoId,
    /// There is no such topic.
    NoTopic,
}

/// A queue for one response.
struct Queue(*mut rd_kafka_queue_t);

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is valid, and this is its only owner.
        unsafe { rd_kafka_queue_destroy(self.0) }
    }
}

/// A response, or the report that there is none.
struct Event(*mut rd_kafka_event_t);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is valid, and this is its only owner.
        unsafe { rd_kafka_event_destroy(self.0) }
    }
}

/// Requests the id of a topic from a broker; with `None`, from the controller, which a cluster may lack for a while.
///
/// # Safety
/// The client is valid for the time of the call.
pub(super) unsafe fn fetch(
    client: *mut rd_kafka_t,
    broker: Option<i32>,
    topic: &str,
    timeout: Duration,
) -> Result<IdResponse, RDKafkaErrorCode> {
    let name = CString::new(topic).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
    let millis = |timeout: Duration| i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is valid, as the caller states. Every object is destroyed once: the queue and
    // the event by their owners, the options and the names below, after librdkafka has copied them.
    unsafe {
        let queue = Queue(rd_kafka_queue_new(client));
        let options = rd_kafka_AdminOptions_new(
            client,
            rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        // A timeout out of librdkafka's bounds leaves its default, and `queue_poll` bounds the wait.
        rd_kafka_AdminOptions_set_request_timeout(options, millis(timeout), null_mut(), 0);
        if let Some(broker) = broker {
            rd_kafka_AdminOptions_set_broker(options, broker, null_mut(), 0);
        }
        let mut names = [name.as_ptr()];
        let topics = rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        rd_kafka_DescribeTopics(client, topics, options, queue.0);
        rd_kafka_TopicCollection_destroy(topics);
        rd_kafka_AdminOptions_destroy(options);
        let event = rd_kafka_queue_poll(queue.0, millis(timeout + REPORT_TIMEOUT));
        if event.is_null() {
            return Err(RDKafkaErrorCode::RequestTimedOut);
        }
        read_response(&Event(event))
    }
}

/// Reads a response.
///
/// # Safety
/// The event is one of `DescribeTopics` for one topic.
unsafe fn read_response(event: &Event) -> Result<IdResponse, RDKafkaErrorCode> {
    // SAFETY: the event is valid as long as its owner, and so is all that librdkafka returns of it.
    unsafe {
        let error = rd_kafka_event_error(event.0);
        if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(error.into());
        }
        let result = rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let topics = rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if count != 1 || topics.is_null() || (*topics).is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let topic = *topics;
        let error = rd_kafka_TopicDescription_error(topic);
        let code = match error.is_null() {
            true => RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
            false => rd_kafka_error_code(error),
        };
        match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC => return Ok(IdResponse::NoTopic),
            code => return Err(code.into()),
        }
        let id = rd_kafka_TopicDescription_topic_id(topic);
        let none = id.is_null()
            || (rd_kafka_Uuid_most_significant_bits(id) == 0
                && rd_kafka_Uuid_least_significant_bits(id) == 0);
        if none {
            return Ok(IdResponse::NoId);
        }
        let text = CStr::from_ptr(rd_kafka_Uuid_base64str(id));
        Ok(IdResponse::Id(TopicId::new(text.to_string_lossy())))
    }
}

/// Returns the metadata of the first offset in a list. The accessor of the crate panics if the metadata is not UTF-8,
/// and any program may have committed it.
pub(super) fn metadata(list: &TopicPartitionList) -> Option<&str> {
    if list.count() == 0 {
        return None;
    }
    // SAFETY: the list is valid and not empty; librdkafka keeps the metadata and its size until the list
    // is dropped.
    let bytes = unsafe {
        let first = (*list.ptr()).elems;
        let (start, size) = ((*first).metadata.cast::<u8>(), (*first).metadata_size);
        (!start.is_null()).then(|| slice::from_raw_parts(start, size))?
    };
    std::str::from_utf8(bytes).ok()
}
