//! Everything that all workers of a process share.

use std::sync::Arc;

use floodmark_dataflows::graph::Options;
use jiff::tz::TimeZone;

use super::status::Status;
use crate::base::error::Failure;
use crate::base::terminal::Interrupt;
use crate::cluster::watchdog::Watch;
use crate::kafka::{BufferedProducer, Topic};
use crate::replay::Filter;

/// The configuration and the status that all workers of a process share.
#[derive(Clone)]
pub struct Shared {
    /// The topic they read.
    pub topic: Arc<Topic>,
    /// Options of the computation.
    pub options: Options,
    /// The filter of the pairs that count.
    pub filter: Filter,
    /// Greatest distance of a record ahead of the leader's clock, in milliseconds.
    pub max_ahead_ms: u64,
    /// Greatest distance of a record behind the latest event time of its partition, in milliseconds.
    pub max_behind_ms: u64,
    /// The zone of times in records that state none.
    pub input_timezone: TimeZone,
    /// Opens the sink of unreadable messages; `None` unless they are kept.
    pub dead_letters: Option<Arc<dyn Fn() -> Result<BufferedProducer, Failure> + Send + Sync>>,
    /// The status of the run.
    pub status: Arc<Status>,
    /// Flag that is set when this process is interrupted, by the key or a signal.
    pub interrupt: Interrupt,
    /// The watchdog that ends the process if ticks stand still.
    pub watch: Watch,
}
