//! Everything that all workers of a process share.

use std::sync::Arc;

use floodmark_dataflows::graph::Options;

use super::status::Status;
use crate::base::terminal::Interrupt;
use crate::cluster::watchdog::Watch;
use crate::source::Filter;
use crate::state::Store;

/// The configuration and the status that all workers of a process share.
#[derive(Clone)]
pub struct Shared {
    /// Options of the computation.
    pub options: Options,
    /// Whether messages that can't be counted are outputs of their ticks.
    pub has_dead_letters: bool,
    /// The filter of the pairs that count.
    pub filter: Filter,
    /// The status that workers report to, of a run that somebody watches.
    pub status: Option<Arc<Status>>,
    /// Flag that is set when this process is interrupted, by the key or a signal.
    pub interrupt: Interrupt,
    /// The store of the durable state, of a run that has one.
    pub state: Option<Arc<dyn Store>>,
    /// The watchdog that ends the process if ticks stand still.
    pub watch: Option<Watch>,
}
