//! A run as the subject of the pages.

use super::question::Answers;
use super::served::{Readiness, Subject};
use crate::runner::{Answering, Question, Status};

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

    fn answers(&self) -> Option<&dyn Answers> {
        Some(self)
    }

    fn refresh_metrics(&self) {
        self.export();
    }
}

impl Answers for Status {
    fn explain(&self, question: Question) -> Answering {
        self.ask(question)
    }
}
