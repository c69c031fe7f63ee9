//! The options of commands that send records.

use std::time::Duration;

use crate::base::duration;

/// The options for sending records, and for creating their topic.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(id = "sending")]
pub struct Sending {
    /// The longest time that a record waits for others to share its message or batch
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_LINGER",
        default_value = "200ms",
        value_parser = duration::millis
    )]
    linger: u64,

    /// Create the topic if it does not exist, with a retention that fits the source
    ///
    /// Records of an interface, or of a topic that is followed, have the broker's default retention. Records
    /// of files, or of a topic with --until-end, are kept for ever.
    #[arg(long)]
    pub create_topic: bool,

    /// With --create-topic: the number of partitions
    ///
    /// Default: that of the topic that is read, else the broker's default.
    #[arg(
        long,
        value_name = "N",
        requires = "create_topic",
        value_parser = clap::value_parser!(i32).range(1..)
    )]
    pub partitions: Option<i32>,
}

impl Sending {
    /// Returns the longest time that a record may wait.
    pub fn linger(&self) -> Duration {
        Duration::from_millis(self.linger)
    }
}
