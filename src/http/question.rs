//! A question about what a computation holds, and its answer.

use std::fmt;
use std::io::{self, Write};
use std::pin::Pin;

use floodmark_dataflows::types::Pair;

/// Someone wants to know which limits apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// To which pair.
    pub pair: Pair,
    /// In the window that holds this time, in milliseconds; `None`: now.
    pub at_ms: Option<u64>,
    /// Whether those that do not apply are to be told as well.
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

/// Why a question is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another process knows.
    #[error(
        "this is process {process}, and only process 0 knows the limits: ask it (with plain -n it \
         serves at the port of this process less {process})"
    )]
    Elsewhere {
        /// Which process this is.
        process: usize,
    },
    /// There is nothing to be asked yet.
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

/// Who answers questions about what a computation holds.
pub trait Answers: Send + Sync {
    /// Begins to answer. Whoever lets go of it wants no answer any more.
    fn explain(&self, question: Question) -> Answering;
}
