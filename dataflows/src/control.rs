//! Control events: the messages to the tables of all workers, beside traffic and limits.

use serde::{Deserialize, Serialize};

use crate::clock::WindowEvent;
use crate::monitored::Rollup;
use crate::reads::{Read, RequestId};

/// Control events for every worker, beside limits, in one stream, so that an operator has them in the order of
/// time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum ControlEvent {
    /// A view needs a rollup of each window (+1), or no longer does (-1).
    View(Rollup, isize),
    WindowEvent(WindowEvent),
    Read(RequestId, Read),
}

impl ControlEvent {
    /// Whether an operator depends on the event: some events are for display alone.
    pub(crate) fn concerns_windows(&self) -> bool {
        !matches!(self, ControlEvent::WindowEvent(event) if !event.concerns_windows())
    }
}
