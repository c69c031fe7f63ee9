//! The files and standard output of a run with a state.

use std::path::Path;

use anyhow::anyhow;

use crate::base::error::{Exit, Failure};
use crate::sink::{OnlyDifference, RecordedLines, Sink, Stream};
use crate::state::{Completed, LineLog, LineLogWriter, OwnedState};

/// A sink of a run.
pub(super) type BoxedSink = Box<dyn Sink + Send>;

/// The outputs that get lines: files, FIFOs, devices, and standard output, `-`.
pub(super) struct LineOutputs<'a> {
    pub(super) names: Vec<String>,
    /// Opens all of them.
    pub(super) open: &'a dyn Fn() -> Result<Vec<Stream>, Failure>,
    /// Whether they get only the difference of two sets of limits.
    pub(super) only_difference: bool,
}

impl LineOutputs<'_> {
    /// Returns the names under which the lines of each are logged, from any working directory.
    pub(super) fn logged_names(&self) -> Vec<String> {
        let absolute = |name: &String| match name.as_str() {
            "-" => name.clone(),
            path => std::path::absolute(path)
                .map_or_else(|_| path.to_owned(), |path| path.display().to_string()),
        };
        self.names.iter().map(absolute).collect()
    }

    /// Appends the lines that files lack.
    pub(super) fn complete(&self, log: &LineLog) -> Result<(), Failure> {
        let names = self.logged_names();
        for name in names.iter().filter(|name| *name != "-") {
            match log
                .complete(name, Path::new(name))
                .map_err(|error| Failure::new(Exit::Unavailable, error))?
            {
                Completed::Whole => {}
                Completed::Appended(bytes) => {
                    tracing::info!(
                        file = name,
                        bytes,
                        "the lines that the file lacked are appended"
                    );
                }
                Completed::Other { expected, found } => tracing::warn!(
                    file = name,
                    expected,
                    found = found.map(|end| end.length),
                    "the file is not as the run before has left it (bytes expected, and found): it was rotated, \
                     shortened or changed. Lines that waited when that run was killed may be missing there"
                ),
            }
        }
        Ok(())
    }

    /// Checks that files that are new to a state are empty: nobody knows which violations stand by the lines that are
    /// there.
    pub(super) fn check_new(&self, is_new: &dyn Fn(&str) -> bool) -> Result<(), Failure> {
        let names = self.logged_names();
        let has_lines = |name: &&String| {
            std::fs::metadata(name).is_ok_and(|file| file.is_file() && file.len() > 0)
        };
        let Some(name) = names.iter().filter(|name| is_new(name)).find(has_lines) else {
            return Ok(());
        };
        let error = anyhow!(
            "the run before did not write \"{name}\" (--to), and the file is not empty: what its lines say may not hold any \
             more. Move it away: a new one begins with the violations that stand"
        );
        Err(Failure::new(Exit::Unavailable, error))
    }

    /// Opens all outputs, which have everything up to tick `durable`, but for those that are new.
    pub(super) fn open(
        &self,
        state: &OwnedState,
        log: LineLog,
        durable: u64,
        is_new: &dyn Fn(&str) -> bool,
    ) -> Result<Option<BoxedSink>, Failure> {
        if self.names.is_empty() {
            return Ok(None);
        }
        let names = self.logged_names();
        let are_new = names.iter().map(|name| is_new(name));
        let streams = (self.open)()?.into_iter().zip(are_new).collect();
        let writer = LineLogWriter::start(state.store().clone(), state.incarnation(), log, names)?;
        let lines = RecordedLines::new(streams, writer, durable);
        Ok(Some(match self.only_difference {
            true => Box::new(OnlyDifference::new(vec![lines])),
            false => Box::new(lines),
        }))
    }
}
