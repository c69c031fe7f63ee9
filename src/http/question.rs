//! The part of a process that answers questions.

use crate::runner::{Answering, Question};

/// The part of a process that answers questions about a computation.
pub trait Answers: Send + Sync {
    /// Starts to answer. A caller that drops the future wants no answer any more.
    fn explain(&self, question: Question) -> Answering;
}
