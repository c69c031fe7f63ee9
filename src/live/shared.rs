//! What all workers of a process share.

use std::sync::Arc;

use floodmark_dataflows::graph::Options;
use jiff::tz::TimeZone;

use super::status::Status;
use crate::base::error::Failure;
use crate::base::terminal::Interrupt;
use crate::cluster::watchdog::Watch;
use crate::kafka::{BufferedProducer, Topic};
use crate::replay::Filter;

/// What all workers of a process are told.
#[derive(Clone)]
pub struct Shared {
    /// The topic they read.
    pub topic: Arc<Topic>,
    /// What the computation is to do.
    pub options: Options,
    /// What is counted.
    pub filter: Filter,
    /// How far ahead of the clock a record may be, in milliseconds.
    pub max_ahead_ms: u64,
    /// Greatest distance of a record behind the latest event time of its partition, in milliseconds.
    pub max_behind_ms: u64,
    /// The zone of times in records that state none.
    pub input_timezone: TimeZone,
    /// Opens the way for messages that can't be read, where they are to be kept.
    pub dead_letters: Option<Arc<dyn Fn() -> Result<BufferedProducer, Failure> + Send + Sync>>,
    /// How the run is.
    pub status: Arc<Status>,
    /// Whether this process was asked to end.
    pub interrupt: Interrupt,
    /// Sees whether ticks move.
    pub watch: Watch,
}
