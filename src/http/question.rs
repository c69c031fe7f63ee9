//! A question about what a computation holds, and its answer.

use std::fmt;
use std::io::{self, Write};
use std::pin::Pin;

use floodmark_dataflows::types::Pair;

/// The question which limits apply to a pair in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The pair.
    pub pair: Pair,
    /// A time in the window, in milliseconds since 1970; `None`: now.
    pub at_ms: Option<u64>,
    /// Whether the answer lists the limits that do not apply as well.
    pub all: bool,
}

/// Writes a JSON object, part by part.
pub type WriteObject = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// The answer to a question.
pub struct Answer {
    /// The tick for which it holds.
    pub as_of: u64,
    /// Writes the answer, on a thread that may wait.
    pub object: WriteObject,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("as_of", &self.as_of).finish_non_exhaustive()
    }
}

/// The reason why a question is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only another process has the limits.
    #[error(
        "this is process {process}, and only process 0 knows the limits: ask it (with plain -n it \
         serves at the port of this process less {process})"
    )]
    Elsewhere {
        /// The number of this process.
        process: usize,
    },
    /// The run has not started yet.
    #[error("the run has not begun yet: ask again in a moment")]
    NotBegun,
    /// Too many questions wait.
    #[error("too many questions wait for their answers: ask again in a moment")]
    Busy,
    /// No window holds the time.
    #[error("no window holds the time of \"at\": give one that records can have")]
    NoWindow,
    /// The run ends.
    #[error("the run ends, and answers nothing any more")]
    Ended,
}

/// An answer on its way.
pub type Answering = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;

/// The part of a process that answers questions about a computation.
pub trait Answers: Send + Sync {
    /// Starts to answer. A caller that drops the future wants no answer any more.
    fn explain(&self, question: Question) -> Answering;
}
