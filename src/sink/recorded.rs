//! Lines for files and standard output of a run with a state: the state has the record and the lines of a tick before
//! they are written, so that another run knows what it need not write again, and what a file lacks.
//!
//! An output that the run before did not have begins with the violations that stand.
//!
//! While the state can't be written, lines are written nevertheless: a run that starts again may repeat these.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodmark_dataflows::types::VersionId;
use metrics::counter;

use super::standing::Standing;
use super::state::{SinkState, StallTimer};
use super::stream::Stream;
use super::{ClosedTick, Sink};
use crate::base::error::Exit;
use crate::limits::catalog::Catalog;
use crate::output::WriteError;
use crate::output::difference::PublishedChanges;
use crate::output::writer::{FileEnd, QUEUE_BYTES};
use crate::state::{LineLogWriter, LinesOfTick};

/// Time for which lines wait for the state.
const PATIENCE: Duration = Duration::from_secs(10);

/// Streams whose lines are in the state first.
pub struct RecordedLines {
    streams: Vec<Stream>,
    /// Whether each stream is one that the run before did not have.
    are_new: Vec<bool>,
    /// The violations that stand, until these have them; `None`: there is none.
    standing: Option<Standing>,
    log: LineLogWriter,
    /// The lines of the tick under way, of each stream.
    lines: Vec<Vec<u8>>,
    /// Ticks that are not in the log yet.
    unlogged: VecDeque<Waiting>,
    /// About the bytes of these.
    unlogged_bytes: usize,
    /// The number of those whose lines the streams have nevertheless.
    given: usize,
    /// The newest tick that is in the log.
    logged: u64,
    /// Time for which the log has taken nothing.
    stall: StallTimer,
    /// Whether another process has taken over the state.
    is_superseded: bool,
    /// Bytes of lines that the streams have not got yet, of each stream.
    withheld: Vec<u64>,
    /// Ticks of which the streams have the lines, and which are not known to be written.
    unwritten: VecDeque<(u64, bool)>,
    durable: u64,
    /// Time since which the log can't be written, and why.
    fault: Option<(Instant, String)>,
}

/// A tick that is not in the log yet.
struct Waiting {
    tick: u64,
    /// About its bytes in all.
    size: usize,
    lines: Vec<Arc<Vec<u8>>>,
    /// Whether the streams have its lines nevertheless.
    is_given: bool,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.lines.iter().map(|lines| lines.len()).sum()
    }
}

impl RecordedLines {
    /// Creates the sink, of streams that have everything up to tick `durable`, but for those that are new.
    pub fn new(streams: Vec<(Stream, bool)>, log: LineLogWriter, durable: u64) -> Self {
        let (streams, are_new): (Vec<Stream>, Vec<bool>) = streams.into_iter().unzip();
        streams.iter().for_each(Stream::sync_files);
        RecordedLines {
            standing: are_new.contains(&true).then(Standing::default),
            are_new,
            lines: streams.iter().map(|_| Vec::new()).collect(),
            withheld: streams.iter().map(|_| 0).collect(),
            streams,
            log,
            unlogged: VecDeque::new(),
            unlogged_bytes: 0,
            given: 0,
            logged: durable,
            stall: StallTimer::default(),
            is_superseded: false,
            unwritten: VecDeque::new(),
            durable,
            fault: None,
        }
    }

    /// Adds the violations that stand to the lines of streams that do not have them.
    fn add_standing(&mut self, tick: u64, catalog: &Catalog) {
        let Some(standing) = self.standing.take() else { return };
        let raised = standing.into_raised();
        let raised = PublishedChanges::OfTick(tick, &raised);
        let streams = self.streams.iter().zip(&mut self.lines).zip(&self.are_new);
        for ((stream, lines), _) in streams.filter(|(_, is_new)| **is_new) {
            lines.extend(stream.lines(&raised, catalog));
        }
    }

    /// Gives streams the lines of a tick.
    fn give(&mut self, waiting: &mut Waiting) {
        if std::mem::replace(&mut waiting.is_given, true) {
            return;
        }
        for ((stream, lines), withheld) in
            self.streams.iter_mut().zip(&waiting.lines).zip(&mut self.withheld)
        {
            *withheld -= lines.len() as u64;
            stream.accept(lines.to_vec());
            stream.end_tick(waiting.tick);
        }
        self.unwritten.push_back((waiting.tick, waiting.bytes() > 0));
    }

    /// Takes the results of the log.
    fn poll_log(&mut self) -> Result<(), WriteError> {
        while let Some(result) = self.log.next() {
            match result {
                Ok(logged) => {
                    self.logged = logged;
                    while let Some(mut waiting) =
                        self.unlogged.pop_front_if(|waiting| waiting.tick <= logged)
                    {
                        self.unlogged_bytes -= waiting.size;
                        self.given = self.given.saturating_sub(1);
                        self.give(&mut waiting);
                    }
                    if let Some((since, _)) = self.fault.take() {
                        tracing::info!(lasting = ?since.elapsed(), "records of ticks are written again");
                    }
                }
                Err(failure) if failure.exit == Exit::Superseded => {
                    // The new owner publishes these ticks.
                    self.unlogged.clear();
                    (self.unlogged_bytes, self.given) = (0, 0);
                    self.is_superseded = true;
                    return Err(failure.into());
                }
                Err(failure) => self.note_fault(format!("{:#}", failure.error)),
            }
        }
        let waited = self.stall.observe(self.logged, !self.unlogged.is_empty());
        if self.fault.is_none() && waited >= PATIENCE {
            self.note_fault("the store takes too long".to_owned());
        }
        if self.fault.is_some() {
            let mut unlogged = std::mem::take(&mut self.unlogged);
            unlogged.iter_mut().skip(self.given).for_each(|waiting| self.give(waiting));
            self.given = unlogged.len();
            self.unlogged = unlogged;
        }
        Ok(())
    }

    fn note_fault(&mut self, why: String) {
        counter!("floodmark_state_errors_total").increment(1);
        if self.fault.is_none() {
            tracing::error!(
                error = why,
                "cannot write records of ticks to the state: lines for files and standard output are written \
                 nevertheless; a run that starts again may repeat them"
            );
            self.fault = Some((Instant::now(), why));
        }
    }

    /// Notes the ticks whose lines are written.
    fn poll_written(&mut self) {
        let streams = &self.streams;
        let is_written = |(tick, has_lines): &mut (u64, bool)| {
            !*has_lines || streams.iter().all(|stream| stream.has_delivered(*tick))
        };
        while let Some((tick, _)) = self.unwritten.pop_front_if(is_written) {
            self.durable = self.durable.max(tick);
        }
    }
}

impl Sink for RecordedLines {
    fn changes(
        &mut self,
        changes: &PublishedChanges<'_>,
        catalog: &Catalog,
    ) -> Result<(), WriteError> {
        // Changes that were deferred have earlier ticks.
        if let Some(tick) = changes.iter().map(|(tick, _)| tick).max() {
            self.add_standing(tick, catalog);
        }
        for (stream, lines) in self.streams.iter().zip(&mut self.lines) {
            lines.extend(stream.lines(changes, catalog));
        }
        Ok(())
    }

    fn restore(&mut self, changes: &PublishedChanges<'_>, _: &Catalog) {
        if let Some(standing) = &mut self.standing {
            standing.apply(changes);
        }
    }

    fn close_restored(&mut self, closed: &ClosedTick<'_>) {
        if let Some(standing) = &mut self.standing {
            standing.close(closed.windows, &closed.outputs.retired);
        }
    }

    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        self.add_standing(closed.tick, closed.catalog);
        let mut of_tick = Vec::new();
        for ((stream, lines), withheld) in
            self.streams.iter().zip(&mut self.lines).zip(&mut self.withheld)
        {
            let mut lines = std::mem::take(lines);
            lines.extend(stream.closing_lines(closed));
            let end = |end: FileEnd| FileEnd { length: end.length + *withheld, ..end };
            of_tick.push((stream.end().map(end), Arc::new(lines)));
        }
        for ((_, lines), withheld) in of_tick.iter().zip(&mut self.withheld) {
            *withheld += lines.len() as u64;
        }
        let lines = of_tick.iter().map(|(_, lines)| lines.clone()).collect();
        let mut waiting = Waiting { tick: closed.tick, size: 0, lines, is_given: false };
        if self.is_superseded {
            return Ok(());
        }
        match closed.record {
            // While the log can't be written, it gets no more than it can hold. The ticks that it lacks then are of no
            // use after the next checkpoint.
            Some(record) if self.fault.is_none() || self.unlogged_bytes < QUEUE_BYTES => {
                let logged = LinesOfTick { record: record.clone(), lines: of_tick };
                waiting.size = logged.size();
                self.unlogged_bytes += waiting.size;
                self.log.add(logged);
                self.unlogged.push_back(waiting);
            }
            _ => self.give(&mut waiting),
        }
        self.poll_log()
    }

    fn durable(&self) -> Option<u64> {
        let first = self.unlogged.front().map(|waiting| waiting.tick);
        Some(first.map_or(self.durable, |first| self.durable.min(first.saturating_sub(1))))
    }

    fn record_fault(&self) -> Option<(Instant, String)> {
        self.fault.clone()
    }

    fn forget_records(&mut self, before: u64) {
        self.log.forget(before);
    }

    fn has_capacity(&mut self) -> bool {
        let has_room = self.fault.is_some() || self.unlogged_bytes < QUEUE_BYTES;
        has_room && self.streams.iter_mut().all(Sink::has_capacity)
    }

    fn poll(&mut self, has_others: bool) -> Result<(), WriteError> {
        self.poll_log()?;
        self.poll_written();
        let mut attached = self.attached();
        let mut polled = Ok(());
        for stream in &mut self.streams {
            let before = stream.attached();
            polled = polled.and(stream.poll(has_others || attached > before.max(1)));
            attached -= before - stream.attached();
        }
        polled
    }

    fn attached(&self) -> usize {
        self.streams.iter().map(Sink::attached).sum()
    }

    fn is_done(&mut self) -> bool {
        let is_given = |waiting: &Waiting| waiting.is_given || waiting.bytes() == 0;
        self.unlogged.iter().all(is_given) && self.streams.iter_mut().all(Sink::is_done)
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        self.poll_log()?;
        let logged = self.log.finish();
        if let Err(failure) = logged
            && failure.exit == Exit::Superseded
        {
            return Err(failure.into());
        }
        self.streams.iter_mut().map(Sink::finish).fold(Ok(()), Result::and)
    }

    fn states(&mut self, states: &mut Vec<SinkState>) {
        self.streams.iter_mut().for_each(|stream| stream.states(states));
    }

    fn defers(&self) -> bool {
        self.standing.is_some()
    }

    fn deferred_versions(&self) -> HashSet<VersionId> {
        self.standing.as_ref().map(Standing::versions).unwrap_or_default()
    }
}
