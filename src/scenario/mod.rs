//! Scenarios: limits and traffic at times, and what is to be said of them, in files that people write.
//!
//! `docs/scenarios.md` says how a file is written. A *case* is one scenario of a file, a *step* what
//! happens in it at one time. All that is said between one step and the next is compared with what the
//! step expects: what is missing is an error, and so is whatever was not expected.
//!
//! - `words`, `moment`, `entity`: what lines are made of.
//! - `case`, `settings`: a file of cases, line by line.
//! - `script`: a case made ready: what happens at which tick.
//! - `play`: that, on the computation.
//! - `said`, `verdict`: what was said, beside what was expected.

mod case;
mod entity;
mod moment;
mod play;
mod said;
mod script;
mod settings;
mod verdict;
mod words;

use std::path::{Path, PathBuf};

use floodmark_dataflows::graph::Options;

use crate::base::terminal::Interrupt;
use crate::computation::Computation;
use case::Case;
use play::Unplayed;

pub use case::CaseError;
pub use verdict::{Difference, Mismatch};

/// How files of cases end that are looked for in directories.
pub const EXTENSION: &str = "scenario";

/// A case of a file.
#[derive(Clone, Debug)]
pub struct Scenario {
    file: PathBuf,
    case: Case,
}

/// How a case went.
#[derive(Debug)]
pub enum Played {
    /// To its end.
    Compared {
        /// What was not as expected.
        mismatches: Vec<Mismatch>,
        /// All that was said: the time, as people name it, and the line that would expect it.
        said: Vec<(String, String)>,
    },
    /// Not at all, or not to its end.
    Problem(CaseError),
    /// Somebody wants no more.
    Interrupted,
}

/// Reads the cases of a file.
///
/// # Errors
/// A line is not as it should be, the first such one.
pub fn read(file: &Path, text: &str) -> Result<Vec<Scenario>, CaseError> {
    let cases = case::parse(file, text)?.into_iter();
    Ok(cases.map(|case| Scenario { file: file.to_owned(), case }).collect())
}

impl Scenario {
    /// What it shows, in its own words.
    pub fn title(&self) -> &str {
        &self.case.title
    }

    /// The file it is in.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The line on which it begins, from 1.
    pub fn line(&self) -> usize {
        self.case.line
    }

    /// What the computation is to be built with that it is played on.
    pub fn options(&self) -> Options {
        self.case.settings.options()
    }

    /// Plays it, on a computation of so many workers that is let go of afterwards.
    pub fn play(
        &self,
        computation: Computation<'_>,
        peers: usize,
        interrupt: &Interrupt,
    ) -> Played {
        let problem =
            |line, problem| Played::Problem(CaseError { file: self.file.clone(), line, problem });
        let directory = self.file.parent().unwrap_or(Path::new(""));
        let mut script = match script::ready(&self.case, directory) {
            Ok(script) => script,
            Err(found) => {
                computation.close();
                return problem(found.line, found.what);
            }
        };
        let (begin, checkpoints) = (script.begin, std::mem::take(&mut script.checkpoints));
        match play::play(script, &self.case.settings, computation, peers, interrupt) {
            Ok(said) => Played::Compared {
                mismatches: verdict::compare(&checkpoints, &said, begin),
                said: said
                    .iter()
                    .map(|said| (moment::name(said.tick, begin), said.line(begin)))
                    .collect(),
            },
            Err(Unplayed::Interrupted) => Played::Interrupted,
            Err(Unplayed::Problem(what)) => problem(self.case.line, what),
        }
    }
}
