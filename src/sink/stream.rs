//! Changes as lines: standard output, a FIFO, a device or a file.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use floodmark_dataflows::time::Windows;
use metrics::{Counter, counter};

use super::state::{SinkState, StallTimer, count_sink_error};
use super::{ClosedTick, Sink};
use crate::base::error::{Exit, Failure};
use crate::limits::catalog::Catalog;
use crate::output::difference::PublishedChanges;
use crate::output::writer::{FileEnd, Writer, WriterFault, WriterState};
use crate::output::{Format, WriteError, table};

/// Default time after which a stream that takes nothing is detached, if the changes also go elsewhere.
const DETACH_AFTER: Duration = Duration::from_secs(60);

/// A stream of lines. It is detached if it would keep the other sinks of a run waiting.
pub struct Stream {
    writer: Writer,
    format: Format,
    windows: Windows,
    /// The name as the label of a metric.
    name: String,
    detach_after: Duration,
    stall: StallTimer,
    /// Whether writing has failed when it was looked at last.
    failed: bool,
    detached: bool,
    unwritten: Counter,
}

impl Stream {
    /// Opens standard output. `catalog` has the sets of limits that a header depends on.
    pub fn stdout(format: Format, windows: Windows, catalog: &Catalog) -> Result<Self, Failure> {
        let stream = Stream::new(Writer::stdout()?, format, windows, "-".into());
        if format == Format::Table {
            let mut header = Vec::new();
            into_memory(&mut header, |out| table::write_header(out, catalog));
            stream.writer.accept(header);
            stream.writer.end_tick(0);
        }
        Ok(stream)
    }

    /// Opens a file, as lines of JSON; or a FIFO or device.
    pub fn open(path: &Path, windows: Windows) -> Result<Self, Failure> {
        let name = format!("file:{}", path.display());
        Ok(Stream::new(Writer::open(path)?, Format::Json, windows, name))
    }

    fn new(writer: Writer, format: Format, windows: Windows, name: String) -> Self {
        counter!("floodmark_sink_errors_total", "sink" => name.clone()).increment(0);
        let unwritten = counter!("floodmark_sink_unwritten_lines_total", "sink" => name.clone());
        unwritten.increment(0);
        Stream {
            writer,
            format,
            windows,
            name,
            detach_after: DETACH_AFTER,
            stall: StallTimer::default(),
            failed: false,
            detached: false,
            unwritten,
        }
    }

    /// Sets the time after which the stream is detached.
    pub fn detached_after(self, detach_after: Duration) -> Self {
        Stream { detach_after, ..self }
    }

    /// Checks the progress of the thread that writes. A stream whose reader has gone, or has read nothing for too long,
    /// is detached if there is another sink.
    ///
    /// # Errors
    /// The reader has gone, and no other sink gets the changes.
    fn check(&mut self, has_others: bool) -> Result<(), Failure> {
        if self.detached {
            return Ok(());
        }
        let state = self.writer.state();
        let lasting = self.stall.observe(state.written_bytes, is_hindered(&state));
        let failed = matches!(state.fault, Some(WriterFault::Failed(_)));
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
                "sink \"{}\" can't be written any more: {why}, and no other --to receives the changes",
                self.name
            );
            return Err(Failure::new(Exit::OutputClosed, error));
        }
        let keeps_waiting = !state.is_file || !self.writer.has_capacity();
        if has_others && lasting >= self.detach_after && state.waiting_bytes > 0 && keeps_waiting {
            let lasting = lasting.as_secs();
            self.detach(&match state.fault {
                Some(WriterFault::Failed(error)) => {
                    format!("it can't be written for {lasting} s: {error}")
                }
                Some(WriterFault::NoReader) => format!("nobody reads it for {lasting} s"),
                _ => format!("its reader has accepted nothing for {lasting} s"),
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
}

impl Sink for Stream {
    fn changes(
        &mut self,
        changes: &PublishedChanges<'_>,
        catalog: &Catalog,
    ) -> Result<(), WriteError> {
        if self.detached {
            self.unwritten.increment(changes.iter().count() as u64);
            return Ok(());
        }
        self.accept(self.lines(changes, catalog));
        Ok(())
    }

    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        self.accept(self.closing_lines(closed));
        self.end_tick(closed.tick);
        Ok(())
    }

    fn has_capacity(&mut self) -> bool {
        self.detached || self.writer.has_capacity()
    }

    fn poll(&mut self, has_others: bool) -> Result<(), WriteError> {
        Ok(self.check(has_others)?)
    }

    fn attached(&self) -> usize {
        usize::from(!self.detached)
    }

    fn is_done(&mut self) -> bool {
        self.detached || self.writer.state().waiting_bytes == 0
    }

    fn states(&mut self, states: &mut Vec<SinkState>) {
        let state = self.writer.state();
        let stands = self.stall.lasting();
        states.push(SinkState::of_stream(&self.name, &state, stands, self.detached));
    }
}

impl Stream {
    /// Has files synced, so that the lines of a tick are durable at last.
    pub(super) fn sync_files(&self) {
        self.writer.sync_files();
    }

    /// Returns changes as lines.
    pub(super) fn lines(&self, changes: &PublishedChanges<'_>, catalog: &Catalog) -> Vec<u8> {
        let mut lines = Vec::new();
        into_memory(&mut lines, |out| {
            self.format.write_changes(out, changes.iter(), catalog, &self.windows)
        });
        lines
    }

    /// Returns the lines of a closed tick.
    pub(super) fn closing_lines(&self, closed: &ClosedTick<'_>) -> Vec<u8> {
        let mut lines = Vec::new();
        for ranked in &closed.outputs.top {
            into_memory(&mut lines, |out| self.format.write_ranked(out, ranked));
        }
        lines
    }

    /// Accepts lines of a tick.
    pub(super) fn accept(&mut self, lines: Vec<u8>) {
        match self.detached {
            true => self.unwritten.increment(count_lines(&lines)),
            false => self.writer.accept(lines),
        }
    }

    /// Notes that all lines of a tick were accepted.
    pub(super) fn end_tick(&self, tick: u64) {
        if !self.detached {
            self.writer.end_tick(tick);
        }
    }

    /// Returns the end of the file with everything that was accepted; `None` if the stream is no file.
    pub(super) fn end(&self) -> Option<FileEnd> {
        let WriterState { end, waiting_bytes, .. } = self.writer.state();
        end.map(|end| FileEnd { length: end.length + waiting_bytes as u64, ..end })
    }

    /// Whether the lines of a tick, which were accepted, are written to a file and survive a loss of power, or are for
    /// nobody who could look at them later.
    pub(super) fn has_delivered(&self, tick: u64) -> bool {
        let state = self.writer.state();
        self.detached || !state.is_file || state.newest_durable >= Some(tick)
    }
}

fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Whether something is in the way of lines, or would be.
fn is_hindered(state: &WriterState) -> bool {
    state.waiting_bytes > 0 || state.fault.is_some()
}

pub(super) fn into_memory(
    bytes: &mut Vec<u8>,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) {
    write(bytes).expect("memory takes everything");
}
