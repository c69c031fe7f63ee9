//! The part of a process that responds to queries of its computation.

use crate::runner::{ExplainQuery, FutureResponse};

/// Responds to queries of the state of a computation.
pub trait QueryHandler: Send + Sync {
    /// Starts a query. A caller cancels the query by dropping the future.
    fn explain(&self, query: ExplainQuery) -> FutureResponse;
}
