//! A run as the subject of the pages.

use super::query::QueryHandler;
use super::served::{Readiness, Subject};
use crate::runner::{ExplainQuery, FutureResponse, Status};

impl Subject for Status {
    fn as_of(&self) -> Option<u64> {
        Status::as_of(self)
    }

    fn dead(&self) -> Option<String> {
        self.stalled()
    }

    fn readiness(&self) -> Readiness {
        let (ready, details) = Status::readiness(self);
        Readiness { ready, details }
    }

    fn query_handler(&self) -> Option<&dyn QueryHandler> {
        Some(self)
    }

    fn refresh_metrics(&self) {
        self.export();
    }
}

impl QueryHandler for Status {
    fn explain(&self, query: ExplainQuery) -> FutureResponse {
        self.query(query)
    }
}
