//! Changes to a topic after which it can't be read on: the offsets that were read no longer mean the
//! same messages.

use std::time::Duration;

use anyhow::anyhow;

use super::Address;
use super::topic_id::TopicId;
use crate::base::error::{Exit, Failure};
use crate::base::quote::Quoted;

/// Why a topic can't be read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The topic of this name is another one.
    Replaced {
        /// The id of the topic that was read.
        was: TopicId,
        /// The id of the topic that has the name now.
        is: TopicId,
    },
    /// There is no topic of this name any more.
    Deleted {
        /// Time since all answers have said so.
        lasting: Duration,
    },
    /// There are fewer partitions than before.
    Shrunk {
        /// The number of partitions before.
        was: i32,
        /// The number of partitions now.
        is: i32,
    },
    /// A partition ends before an offset at which it has ended, or up to which it was read.
    CutBack {
        /// The partition.
        partition: i32,
        /// The offset before.
        was: i64,
        /// The offset at which the partition ends now.
        is: i64,
    },
}

impl Lost {
    /// The error that ends the command.
    pub(super) fn failure(&self, address: &Address) -> Failure {
        let Address { topic, brokers } = address;
        let topic = Quoted(topic);
        match self {
            Lost::Replaced { was, is } => Failure::new(
                Exit::Failed,
                anyhow!(
                    "topic {topic} at {brokers} was deleted and created again while it was read \
                     (its id was {was} and is {is}): its messages are others now, from offset 0 on. \
                     Start again to read the new topic from its first message, with --from-offset \
                     earliest"
                ),
            ),
            Lost::Deleted { lasting } => Failure::new(
                Exit::NoInput,
                anyhow!(
                    "topic {topic} at {brokers} was deleted while it was read: there has been no \
                     such topic for {} s. Create it again, then start again",
                    lasting.as_secs()
                ),
            ),
            Lost::Shrunk { was, is } => Failure::new(
                Exit::Failed,
                anyhow!(
                    "topic {topic} at {brokers} had {was} partitions and has {is}: it was deleted and \
                     created again while it was read. Start again to read the new topic from its \
                     first message, with --from-offset earliest"
                ),
            ),
            Lost::CutBack { partition, was, is } => Failure::new(
                Exit::Failed,
                anyhow!(
                    "topic {topic} at {brokers}, partition {partition}: its end went back from \
                     offset {was} to {is}, so messages that were read are not there any more, and \
                     the next ones get their offsets: the topic was deleted and created again, or a \
                     broker has lost messages (unclean leader election). Start again with \
                     --from-offset earliest"
                ),
            ),
        }
    }
}
