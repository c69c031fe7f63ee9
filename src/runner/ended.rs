//! The end of a computation, and what it leaves behind.

use crate::base::error::{Exit, Outcome};
use crate::output::{WriteError, reader_gone_failure};

/// The end of a computation.
#[derive(Debug, Default)]
pub struct Ended {
    /// The first failure.
    pub failure: Option<WriteError>,
    /// Whether time came to its end; if not, the run was asked to shut down before.
    pub is_complete: bool,
    /// The newest tick that took records.
    pub last_tick: Option<u64>,
    /// Active violations of live limits.
    pub active: u64,
    /// Records that came after their window had settled.
    pub dropped: u64,
    /// Messages before the end of the input that are left out ([`Source::left_out_at_end`](crate::source::Source::left_out_at_end)).
    pub left_out: u64,
}

impl Ended {
    /// Returns the outcome of a live run.
    pub fn outcome(self, fail_on_violation: bool) -> Outcome {
        match self.failure {
            Some(WriteError::Failed(failure)) => Err(failure),
            Some(WriteError::Closed) => Err(reader_gone_failure("a sink")),
            None if fail_on_violation && self.active > 0 => Ok(Exit::Violations),
            None => Ok(Exit::Done),
        }
    }
}

/// Logs what the end of a live run leaves behind: records that were dropped, and sentences about refused rows.
pub(super) fn log_end(dropped: u64, refusals: &[String]) {
    if dropped > 0 {
        tracing::warn!(
            "{dropped} records came after their window had settled, and are not counted"
        );
    }
    for refusal in refusals {
        tracing::error!("at the end: {refusal}");
    }
}
