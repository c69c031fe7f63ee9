//! Errors of Kafka that no retry repairs.

use std::time::Duration;

use crate::base::error::{Exit, Failure};
use crate::base::quote::Quoted;

/// The reason why a command can't use Kafka. Errors that librdkafka retries by itself are not among them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No broker responded in time.
    #[error(
        "no broker of {brokers} was reached in {} s: {reason} (is it running, and is the address \
         right?)",
        waited.as_secs()
    )]
    Unreachable {
        /// The brokers of the request.
        brokers: String,
        /// The time for which the command has waited for a response.
        waited: Duration,
        /// The last error that librdkafka reported.
        reason: String,
    },
    /// A broker was reached and rejected the credentials, or the client rejected those of the broker.
    #[error(
        "{brokers} can't be used with these credentials: {reason} (see -X security.protocol, \
         sasl.* and ssl.*)"
    )]
    Refused {
        /// The brokers of the request.
        brokers: String,
        /// The error that librdkafka reported.
        reason: String,
    },
    /// This user lacks the rights for an operation.
    #[error("{doing} is not allowed to this user (grant it with kafka-acls, or use another user)")]
    Forbidden {
        /// The operation.
        doing: String,
    },
    /// There is no such topic.
    #[error(
        "there is no topic {} at {brokers}{} (check the name, or let --create-topic create it, or: \
         {command})",
        Quoted(topic),
        similar_text(similar.as_deref())
    )]
    UnknownTopic {
        /// The name of the topic.
        topic: String,
        /// The brokers of the request.
        brokers: String,
        /// A topic with nearly the same name.
        similar: Option<String>,
        /// The command that creates a topic for these messages.
        command: String,
    },
    /// An option for librdkafka is wrong.
    #[error("{0}")]
    Option(String),
    /// librdkafka accepts each option, but not all of them together, or it can't read a file.
    #[error("the Kafka client can't be set up: {0}")]
    Client(String),
    /// The configuration of a topic does not fit the records.
    #[error("{0}")]
    Unfit(String),
    /// A message is larger than the broker or the client accepts.
    #[error(
        "a message of {bytes} bytes is too large for topic {} (raise its max.message.bytes, and \
         -X message.max.bytes)",
        Quoted(topic)
    )]
    TooLarge {
        /// The name of the topic.
        topic: String,
        /// The size of key and value together.
        bytes: usize,
    },
    /// The broker refused something for a reason of its own.
    #[error("{doing} failed: {reason}")]
    Failed {
        /// The operation.
        doing: String,
        /// The reason that the broker or librdkafka gave.
        reason: String,
    },
    /// The command gave up before all messages were delivered.
    #[error("{messages} messages to topic {} were not delivered: {reason}", Quoted(topic))]
    Undelivered {
        /// The name of the topic.
        topic: String,
        /// The number of undelivered messages.
        messages: u64,
        /// The reason, as far as it is known.
        reason: String,
    },
}

/// Returns a question about the similar name, to be appended to the unknown name.
pub(super) fn similar_text(similar: Option<&str>) -> String {
    similar.map_or(String::new(), |name| format!(": is {} meant?", Quoted(name)))
}

impl Error {
    /// Returns the exit code of the command. Credentials and rights are configuration; a service that rejects them has
    /// been reached.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Unreachable { .. } | Error::Undelivered { .. } => Exit::Unavailable,
            Error::Refused { .. }
            | Error::Forbidden { .. }
            | Error::UnknownTopic { .. }
            | Error::Client(_)
            | Error::TooLarge { .. }
            | Error::Unfit(_) => Exit::BadConfig,
            Error::Option(_) => Exit::Usage,
            Error::Failed { .. } => Exit::Failed,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(error.exit(), error)
    }
}
