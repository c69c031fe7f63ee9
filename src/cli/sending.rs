//! The options of commands that send records.

use std::time::Duration;

use crate::base::duration;

/// Options of sending records, and of making their topic.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(id = "sending")]
pub struct Sending {
    /// How long a record may wait for others that go with it
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_LINGER",
        default_value = "200ms",
        value_parser = duration::millis
    )]
    linger: u64,

    /// Make the topic if it is not there, such that it keeps what is sent
    ///
    /// What goes on without an end is kept as long as the broker keeps messages; files, and what ends
    /// with --until-end, for ever.
    #[arg(long)]
    pub create_topic: bool,

    /// With --create-topic: how many partitions it gets; without, as many as the topic that is read, or
    /// as the broker gives
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
