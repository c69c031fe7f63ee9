//! Plays a case on the computation: its lines and captures are the source, and a sink collects the changes, to compare
//! them with the expectations.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use anyhow::anyhow;
use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::Combiner;
use timely::worker::Worker;

use super::changes::Actual;
use super::script::{Script, TickEvents};
use super::settings::{CaseClock, Settings};
use super::time::SimulatedTime;
use crate::base::error::{Exit, Failure};
use crate::base::terminal::Messages;
use crate::computation::EventTimeReached;
use crate::limits::catalog::Catalog;
use crate::output::WriteError;
use crate::output::difference::PublishedChanges;
use crate::runner::{self, EventTime, LeaderConfig, Shared, TimeSource};
use crate::sink::{ClosedTick, Counts, Hub, Sink};
use crate::source::recorded::{Inputs, Summary, TickRules};
use crate::source::{Demand, Recorded, Source, TickRecords};

/// The reason why a case was not played to its end.
pub(super) enum PlayError {
    Interrupted,
    /// The case can't be played.
    Problem(String),
}

/// Plays a case on the first worker. Returns the published changes, in their order.
pub(super) fn play(
    script: Script,
    settings: &Settings,
    worker: &mut Worker,
    shared: &Shared,
) -> Result<Vec<Actual>, PlayError> {
    let Script { begin, catalog, ticks, readers, .. } = script;
    let windows = shared.options.windows;
    let rules = TickRules {
        tick_ms: settings.tick_ms(),
        windows,
        filter: settings.filter().clone(),
        peers: worker.peers(),
    };
    let summary = Summary::default();
    let captures = match readers.is_empty() {
        true => None,
        false => match Recorded::read(Inputs::Captures(readers), rules, &Messages::new(), &summary)
        {
            Ok(captures) => Some(captures),
            Err(failure) => {
                runner::follow(worker, shared.options);
                return Err(PlayError::Problem(format!("{:#}", failure.error)));
            }
        },
    };
    let mut source = CaseSource {
        settings,
        begin,
        ticks,
        captures,
        summary,
        combiner: Combiner::new(worker.peers()),
    };
    // A run reads the clock from its beginning on.
    source.ticks.entry(begin).or_default();
    let time: Box<dyn TimeSource + Send> = match settings.clock() {
        CaseClock::Replay => Box::new(EventTime::new(windows)),
        CaseClock::Live => Box::new(SimulatedTime::new(windows, settings.tick_ms())),
    };
    let mut published = Vec::new();
    let lead = LeaderConfig {
        state: None,
        time,
        hub: Hub::new(Counts::new(catalog.sets()), vec![Box::new(PublishedSink(&mut published))]),
        catalog,
        limits: Vec::new(),
        queries: None,
        final_query: None,
        leader: Arc::new(OnceLock::new()),
    };
    let ended = runner::lead(worker, shared, Box::new(source), lead);
    match ended.failure {
        Some(WriteError::Failed(failure)) => {
            Err(PlayError::Problem(format!("{:#}", failure.error)))
        }
        Some(WriteError::Closed) => {
            unreachable!("published changes are collected, and not written")
        }
        None if ended.is_complete => Ok(published),
        None => Err(PlayError::Interrupted),
    }
}

/// The lines of a case that are traffic or edit limits, and its captures.
struct CaseSource<'a> {
    settings: &'a Settings,
    begin: u64,
    /// The events still to come, by tick.
    ticks: BTreeMap<u64, TickEvents>,
    captures: Option<Recorded>,
    summary: Summary,
    combiner: Combiner,
}

impl CaseSource<'_> {
    /// Returns the records of a case's lines at a tick.
    fn records_of_lines(&mut self, events: TickEvents) -> TickRecords {
        let rules = self.settings.options().windows;
        let mut records = TickRecords { edits: events.edits, ..TickRecords::default() };
        for record in events.records {
            let window = rules.of(record.time).expect("a case has only records in windows");
            records.seen.insert(window);
            records.greatest = records.greatest.max(Some(record.time));
            if self.settings.filter().admits(&record.pair) {
                self.combiner.add(window, record.pair, record.volume);
            }
        }
        records.update_batches = self.combiner.take();
        records
    }
}

impl Source for CaseSource<'_> {
    fn demand(&mut self, reached: EventTimeReached) -> Result<Demand, Failure> {
        let of_captures = match &mut self.captures {
            Some(captures) => captures.demand(reached)?,
            None => Demand::Ended,
        };
        let captured = match of_captures {
            Demand::TickAt(tick) => Some(tick),
            Demand::Ended => None,
            // The next packet may come before the next line.
            Demand::Tick | Demand::None => return Ok(Demand::None),
        };
        if captured.is_none() && self.summary.get().is_some_and(|end| end.damaged) {
            return Err(Failure::new(Exit::BadData, anyhow!("a capture is damaged")));
        }
        let scripted = self.ticks.first_key_value().map(|(tick, _)| *tick);
        let next = scripted.into_iter().chain(captured).min();
        Ok(next.map_or(Demand::Ended, Demand::TickAt))
    }

    fn take_records(&mut self, tick: u64) -> TickRecords {
        let events = self.ticks.remove(&tick).unwrap_or_default();
        let mut records = self.records_of_lines(events);
        if let Some(captures) = &mut self.captures {
            let captured = captures.take_records(tick);
            records.update_batches.extend(captured.update_batches);
            records.seen.extend(captured.seen);
            records.greatest = records.greatest.max(captured.greatest);
        }
        records
    }

    fn progress(
        &mut self,
        tick: u64,
        _: u64,
        _: EventTimeReached,
    ) -> (Vec<SourceProgress>, Result<(), Failure>) {
        let begins = tick == self.begin && self.settings.is_from_latest();
        (begins.then_some(SourceProgress::Begun(tick)).into_iter().collect(), Ok(()))
    }
}

/// A sink that collects all changes.
struct PublishedSink<'a>(&'a mut Vec<Actual>);

impl Sink for PublishedSink<'_> {
    fn changes(
        &mut self,
        changes: &PublishedChanges<'_>,
        catalog: &Catalog,
    ) -> Result<(), WriteError> {
        self.0.extend(changes.iter().map(|(tick, change)| Actual::of(tick, change, catalog)));
        Ok(())
    }

    fn close(&mut self, _: &ClosedTick<'_>) -> Result<(), WriteError> {
        Ok(())
    }
}
