//! Changes as lines: standard output, a FIFO, a device or a file.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::top::Ranked;
use metrics::{Counter, counter};

use super::sink_state::{SinkState, Stood, count_sink_error};
use crate::base::error::{Exit, Failure};
use crate::limits::catalog::Catalog;
use crate::output::difference::Shown;
use crate::output::writer::{Trouble, Writer, WriterState};
use crate::output::{Format, table};

/// Default time after which a stream that takes nothing is detached, if the changes also go elsewhere.
const DETACH_AFTER: Duration = Duration::from_secs(60);

/// A stream of lines. It is detached if it would keep the other sinks of a run waiting.
pub struct Stream {
    writer: Writer,
    format: Format,
    /// The name as the label of a metric.
    name: String,
    detach_after: Duration,
    stood: Stood,
    /// Whether writing has failed when it was looked at last.
    failed: bool,
    detached: bool,
    unwritten: Counter,
}

impl Stream {
    /// Standard output.
    pub fn stdout(format: Format) -> Result<Self, Failure> {
        Ok(Stream::new(Writer::stdout()?, format, "-".into()))
    }

    /// A file, as lines of JSON; or a FIFO or device.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let name = format!("file:{}", path.display());
        Ok(Stream::new(Writer::open(path)?, Format::Json, name))
    }

    fn new(writer: Writer, format: Format, name: String) -> Self {
        let unwritten = counter!("floodmark_sink_unwritten_lines_total", "sink" => name.clone());
        unwritten.increment(0);
        let (stood, failed, detached) = (Stood::default(), false, false);
        let detach_after = DETACH_AFTER;
        Stream { writer, format, name, detach_after, stood, failed, detached, unwritten }
    }

    /// Sets the time after which the stream is detached.
    pub fn detached_after(self, detach_after: Duration) -> Self {
        Stream { detach_after, ..self }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Writes what comes before the first change.
    pub(super) fn begin(&mut self, catalog: &Catalog) {
        if self.format == Format::Table {
            let mut header = Vec::new();
            into_memory(&mut header, |out| table::write_header(out, catalog));
            self.writer.accept(header);
            self.writer.end_tick(0);
        }
    }

    /// Accepts changes of a tick, without waiting.
    pub(super) fn accept(&mut self, shown: &Shown<'_>, windows: &Windows, catalog: &Catalog) {
        if self.detached {
            self.unwritten.increment(shown.iter().count() as u64);
            return;
        }
        let mut lines = Vec::new();
        into_memory(&mut lines, |out| {
            self.format.write_changes(out, shown.iter(), catalog, windows)
        });
        self.writer.accept(lines);
    }

    /// Accepts the rankings of a tick, of which no line comes after that.
    pub(super) fn end_tick(&mut self, tick: u64, top: &[Ranked]) {
        if self.detached {
            self.unwritten.increment(top.len() as u64);
            return;
        }
        let mut lines = Vec::new();
        for ranked in top {
            into_memory(&mut lines, |out| self.format.write_ranked(out, ranked));
        }
        self.writer.accept(lines);
        self.writer.end_tick(tick);
    }

    /// Whether another tick may begin.
    pub(super) fn has_capacity(&self) -> bool {
        self.detached || self.writer.has_capacity()
    }

    /// Whether changes still go here.
    pub(super) fn is_attached(&self) -> bool {
        !self.detached
    }

    /// Whether all lines that were accepted are written, or never will be.
    pub(super) fn is_done(&self) -> bool {
        self.detached || self.writer.state().waiting_bytes == 0
    }

    /// Looks at what the thread has done. A stream that nobody reads any more, or for too long, is detached
    /// if there is another sink.
    ///
    /// # Errors
    /// The reader has gone, and no other sink gets the changes.
    pub(super) fn look(&mut self, has_others: bool) -> Result<(), Failure> {
        if self.detached {
            return Ok(());
        }
        let state = self.writer.state();
        let lasting = self.stood.look(state.written_bytes, is_hindered(&state));
        let failed = matches!(state.trouble, Some(Trouble::Failed(_)));
        if failed && !self.failed {
            count_sink_error(&self.name);
        }
        self.failed = failed;
        if let Some(why) = &state.closed {
            count_sink_error(&self.name);
            let why = format!("its reader has gone away ({why})");
            if has_others {
                self.detach(&why);
                return Ok(());
            }
            self.detached = true;
            self.unwritten.increment(self.writer.stop());
            let error = anyhow!(
                "sink \"{}\" can't be written any more: {why}, and no other --to takes the changes",
                self.name
            );
            return Err(Failure::new(Exit::OutputClosed, error));
        }
        let keeps_waiting = !state.is_file || !self.writer.has_capacity();
        if has_others && lasting >= self.detach_after && state.waiting_bytes > 0 && keeps_waiting {
            let lasting = lasting.as_secs();
            self.detach(&match state.trouble {
                Some(Trouble::Failed(error)) => {
                    format!("it can't be written for {lasting} s: {error}")
                }
                Some(Trouble::NoReader) => format!("nobody reads it for {lasting} s"),
                _ => format!("its reader has taken nothing for {lasting} s"),
            });
            count_sink_error(&self.name);
        }
        Ok(())
    }

    fn detach(&mut self, why: &str) {
        let lines = self.writer.stop();
        self.unwritten.increment(lines);
        self.detached = true;
        tracing::error!(
            sink = self.name,
            unwritten_lines = lines,
            "sink \"{}\" is detached: {why}; {lines} lines that wait for it are not written, and no later \
             ones; the others go on; to write there again, start the run again",
            self.name
        );
    }

    pub(super) fn state(&self) -> SinkState {
        let state = self.writer.state();
        SinkState::of_stream(&self.name, &state, self.stood.lasting(), self.detached)
    }
}

/// Whether something is in the way of lines, or would be.
fn is_hindered(state: &WriterState) -> bool {
    state.waiting_bytes > 0 || state.trouble.is_some()
}

pub(super) fn into_memory(
    bytes: &mut Vec<u8>,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) {
    write(bytes).expect("memory takes everything");
}
