//! Changes to a topic that end reading: its offsets no longer mean the same messages.

use std::time::Duration;

use anyhow::anyhow;

use super::Address;
use super::topic_id::TopicId;
use crate::base::error::{Exit, Failure};
use crate::base::quote::Quoted;

/// The reason why reading of a topic ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TopicLoss {
    /// Another topic has the name.
    Replaced {
        /// The id of the topic that was read.
        was: TopicId,
        /// The id of the topic that has the name now.
        is: TopicId,
    },
    /// The topic does not exist any more.
    Deleted {
        /// Time for which no response has contained the topic.
        lasting: Duration,
    },
    /// There are fewer partitions than before.
    Shrunk {
        /// The number of partitions before.
        was: i32,
        /// The number of partitions now.
        is: i32,
    },
    /// A partition ends before an earlier end, or before an offset up to which it was read.
    CutBack {
        /// The partition.
        partition: i32,
        /// The offset before.
        was: i64,
        /// The offset at which the partition ends now.
        is: i64,
    },
}

impl TopicLoss {
    /// Returns the error that ends the command.
    pub(super) fn failure(&self, address: &Address) -> Failure {
        let Address { topic, brokers } = address;
        let topic = Quoted(topic);
        match self {
            TopicLoss::Replaced { was, is } => Failure::new(
                Exit::Failed,
                anyhow!(
                    "topic {topic} at {brokers} was deleted and created again while it was read \
                     (its id was {was} and is {is}): its offsets now belong to other messages. \
                     Start again to read the new topic from its first message, with --from-offset \
                     earliest"
                ),
            ),
            TopicLoss::Deleted { lasting } => Failure::new(
                Exit::NoInput,
                anyhow!(
                    "topic {topic} at {brokers} was deleted while it was read: there has been no \
                     such topic for {} s. Create it again, then start again",
                    lasting.as_secs()
                ),
            ),
            TopicLoss::Shrunk { was, is } => Failure::new(
                Exit::Failed,
                anyhow!(
                    "topic {topic} at {brokers} had {was} partitions and has {is}: it was deleted and \
                     created again while it was read. Start again to read the new topic from its \
                     first message, with --from-offset earliest"
                ),
            ),
            TopicLoss::CutBack { partition, was, is } => Failure::new(
                Exit::Failed,
                anyhow!(
                    "topic {topic} at {brokers}, partition {partition}: its end moved back from \
                     offset {was} to {is}: messages that were read no longer exist, and new messages \
                     get their offsets. The topic was deleted and created again, or a \
                     broker has lost messages (unclean leader election). Start again with \
                     --from-offset earliest"
                ),
            ),
        }
    }
}
