//! Apache Kafka: addresses, settings of clients, sending and reading messages, and requirements on topics.
//!
//! - [`Address`]: brokers and topic, as `kafka://host:9092,host2/topic`.
//! - [`ClientOptions`]: the checked librdkafka options of users.
//! - [`Context`]: the events of a client: lines for the log, and whether brokers can be reached.
//! - [`Producer`]: sends messages, each once, and counts them by outcome.
//! - [`BoundedTopic`]: a range of the messages of a topic, each partition by itself.
//! - [`read_to_end`]: reads all messages of a topic once.
//! - [`topics`]: creates and describes topics, and checks them against the records that are to be sent.
//!
//! There are two kinds of failures: those that librdkafka retries by itself, for ever, such as a broker
//! that is down; and those that no retry repairs, which stop the command and are an [`Error`].

mod address;
mod bounded;
mod buffered;
mod committer;
mod consumer;
mod contents;
mod context;
mod ends;
mod error;
mod fenced;
mod guard;
mod lost;
mod message;
mod options;
mod partition;
mod producer;
mod producers;
mod read_to_end;
mod repeat;
mod reports;
mod setup;
mod source;
mod straggler;
mod tick_log;
mod tick_queue;
mod times;
mod topic;
mod topic_client;
mod topic_id;
pub mod topics;
mod transaction_reports;
mod transactions;
mod watch;

pub use address::{Address, AddressError, SCHEME};
pub use bounded::{BoundedPartition, BoundedTopic, Until};
pub use buffered::{BufferedProducer, OnRefusal, Refused, TopicFault};
pub use contents::{Contents, no_records};
pub use context::Context;
pub use ends::{TRANSACTION_PATIENCE, Withheld};
pub use error::Error;
pub use message::{Header, Outgoing, OwnedMessage, origin};
pub use options::{ClientOptions, Setting, client_config};
pub use partition::{ResumePosition, Times};
pub use producer::{Producer, Sent, Tuning};
pub use read_to_end::{ReadTo, StoredMessage, read_to_end};
pub use reports::{Counts, Refusal};
pub use source::{PartitionChange, PartitionState, ReceivedMessage, TopicReader};
pub use straggler::EventTime;
pub use tick_log::TickLog;
pub use topic::{BrokerResponse, Topic};
pub use transactions::{FencedProducer, TransactionOptions, Transactions};
pub use watch::{SourceOptions, Start};
