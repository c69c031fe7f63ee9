//! The result of a command: an exit code, and for a failure the chain of causes behind it.

use serde::{Deserialize, Serialize};

/// The exit codes, after sysexits.h where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Exit {
    /// The command succeeded.
    Done = 0,
    /// A failure without a code of its own.
    Failed = 1,
    /// Violations remain, and an option requests a failure on them.
    Violations = 2,
    /// The command line is wrong.
    Usage = 64,
    /// Input data is damaged.
    BadData = 65,
    /// An input is missing or can't be read.
    NoInput = 66,
    /// A service can't be reached.
    Unavailable = 69,
    /// The reader of standard output has gone away, and the output has no other reader.
    OutputClosed = 74,
    /// Another run has taken the place of this one.
    Superseded = 76,
    /// The right to capture is missing.
    NoPermission = 77,
    /// A configuration, such as a file of limits, is wrong.
    BadConfig = 78,
    /// Interrupted from the keyboard.
    Interrupted = 130,
}

impl Exit {
    pub(crate) const ALL: [Exit; 12] = [
        Exit::Done,
        Exit::Failed,
        Exit::Violations,
        Exit::Usage,
        Exit::BadData,
        Exit::NoInput,
        Exit::Unavailable,
        Exit::OutputClosed,
        Exit::Superseded,
        Exit::NoPermission,
        Exit::BadConfig,
        Exit::Interrupted,
    ];

    /// Returns the exit that has this code; `None` if there is none.
    pub fn of_code(code: i32) -> Option<Exit> {
        Exit::ALL.into_iter().find(|exit| *exit as i32 == code)
    }

    /// Returns the exit to report, of two that apply to a finished run: failures before damage before violations.
    pub fn or(self, other: Exit) -> Exit {
        let rank = |exit: &Exit| match exit {
            Exit::Done => 0,
            Exit::Violations => 1,
            Exit::BadData => 2,
            _ => 3,
        };
        if rank(&other) > rank(&self) { other } else { self }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}

/// The error of a command, with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code of the command.
    pub exit: Exit,
    /// The attempted action, and the causes of its failure.
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure with its own exit code.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Failure { exit, error: error.into() }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::new(Exit::Failed, error)
    }
}

/// The result of a command.
pub type Outcome = Result<Exit, Failure>;
