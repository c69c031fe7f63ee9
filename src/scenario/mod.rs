//! Scenarios: limits and traffic at times, and the changes expected of them, in files that people write.
//!
//! `docs/scenarios.md` has the format of a file. A *case* is one scenario of a file, a *step* has its events at one
//! time. All changes published between one step and the next are compared with those that the step expects: a
//! missing change is an error, and so is an unexpected one.
//!
//! - `words`, `moment`, `entity`: the parts of a line.
//! - `case`, `settings`: a file of cases, line by line.
//! - `script`: a case made ready: its events by tick.
//! - `play`: plays a script on the computation, by a simulated `time` or by event time.
//! - `changes`, `verdict`: the published changes, and their comparison with the expected ones.

mod case;
mod changes;
mod entity;
mod moment;
mod play;

mod script;
mod settings;
mod time;
mod verdict;
mod words;

use std::path::{Path, PathBuf};

use floodmark_dataflows::graph::Options;
use timely::worker::Worker;

use crate::base::terminal::Interrupt;
use crate::cluster::watchdog::Watch;
use crate::runner::{self, Shared};
use case::Case;
use play::PlayError;

pub use case::CaseError;
pub use verdict::{Difference, Mismatch};

/// File extension of cases, for the search in directories.
pub const EXTENSION: &str = "scenario";

/// A case of a file.
#[derive(Clone, Debug)]
pub struct Scenario {
    file: PathBuf,
    case: Case,
}

/// Outcome of a case.
#[derive(Debug)]
pub enum Played {
    /// The case was played to its end.
    Compared {
        /// The differences from what the case expects; none if it passes.
        mismatches: Vec<Mismatch>,
        /// All published changes: the time in the format of a case, and the line that would expect the change.
        published: Vec<(String, String)>,
    },
    /// The case could not be played to its end.
    Problem(CaseError),
    /// The user interrupted the case.
    Interrupted,
}

/// Reads the cases of a file.
///
/// # Errors
/// The first invalid line.
pub fn read(file: &Path, text: &str) -> Result<Vec<Scenario>, CaseError> {
    let cases = case::parse(file, text)?.into_iter();
    Ok(cases.map(|case| Scenario { file: file.to_owned(), case }).collect())
}

impl Scenario {
    /// The title that the file gives to the case.
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

    /// Returns the options of the computation that the case must be played on.
    pub fn options(&self) -> Options {
        self.case.settings.options()
    }

    /// Plays the case on the first worker, while the others [`follow`](runner::follow).
    pub fn play(&self, worker: &mut Worker, interrupt: &Interrupt, watch: &Watch) -> Played {
        let problem =
            |line, problem| Played::Problem(CaseError { file: self.file.clone(), line, problem });
        let directory = self.file.parent().unwrap_or(Path::new(""));
        let mut script = match script::build(&self.case, directory) {
            Ok(script) => script,
            Err(fault) => {
                runner::follow(worker, self.options());
                return problem(fault.line, fault.what);
            }
        };
        let (begin, checkpoints) = (script.begin, std::mem::take(&mut script.checkpoints));
        let settings = &self.case.settings;
        let shared = Shared {
            has_dead_letters: false,
            state: None,
            options: settings.options(),
            filter: settings.filter().clone(),
            status: None,
            interrupt: interrupt.clone(),
            watch: Some(watch.clone()),
        };
        match play::play(script, settings, worker, &shared) {
            Ok(published) => Played::Compared {
                mismatches: verdict::compare(&checkpoints, &published, begin),
                published: published
                    .iter()
                    .map(|published| (moment::format(published.tick, begin), published.line(begin)))
                    .collect(),
            },
            Err(PlayError::Interrupted) => Played::Interrupted,
            Err(PlayError::Problem(what)) => problem(self.case.line, what),
        }
    }
}
