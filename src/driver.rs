//! The leader of a replay: takes ticks from a source, puts them into the computation, and writes the outputs of
//! each tick as soon as the computation is done with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::UpdateBatch;
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::reads::Read;
use floodmark_dataflows::time::{END_OF_INPUT, Window};
use floodmark_dataflows::types::Version;

use crate::base::terminal::Interrupt;
use crate::computation::{Computation, Output, WindowStates};
use crate::limits::catalog::Catalog;
use crate::output::WriteError;
use crate::replay::{End, Event as SourceEvent, Events, Tick};
use crate::sink::{ClosedTick, Counts, Hub};

/// The clock that moves the watermark, and with it closes windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The wall clock, as in a run whose partitions have no backlog: windows close when their end has come.
    Live,
    /// The event times of records: windows close when a later record comes, or when the input ends.
    #[default]
    Replay,
}

/// The result of a replay.
#[derive(Debug)]
pub struct Replayed {
    /// The summary of the input; `None` if the replay was interrupted.
    pub end: Option<End>,
    /// The last tick that is done.
    pub last_tick: Option<u64>,
}

/// The leader's part of a replay: source to computation to sinks.
pub struct Replay<'a, 's> {
    computation: Computation<'a>,
    hub: Hub<'s>,
    catalog: Arc<Catalog>,
    options: Options,
    clock: Clock,
    /// Updates of the current tick.
    updates: usize,
    /// Windows with records, whose totals are not written yet, with at least as many updates as each has totals.
    seen: BTreeMap<Window, usize>,
    last_window: Option<Window>,
    last_tick: Option<u64>,
    watermark: u64,
}

impl<'a, 's> Replay<'a, 's> {
    /// Creates a replay that starts with these limits.
    pub fn new(
        mut computation: Computation<'a>,
        options: Options,
        versions: impl IntoIterator<Item = Version>,
        catalog: Arc<Catalog>,
        hub: Hub<'s>,
    ) -> Self {
        for version in versions {
            computation.inputs.edit(version, 1);
        }
        if let Some(rollup) = options.top.and_then(|query| query.rollup()) {
            computation.inputs.view(rollup, 1);
        }
        Replay {
            computation,
            hub,
            catalog,
            options,
            clock: Clock::default(),
            updates: 0,
            seen: BTreeMap::new(),
            last_window: None,
            last_tick: None,
            watermark: 0,
        }
    }

    /// Sets the clock that moves the watermark.
    pub fn by(self, clock: Clock) -> Self {
        Replay { clock, ..self }
    }

    /// Takes all ticks of the source, ends the input, and writes the totals if the sinks want them.
    pub fn run(&mut self, source: &Events, interrupt: &Interrupt) -> Result<Replayed, WriteError> {
        self.computation.set_patience(PATIENCE);
        let end = self.take_source(source, interrupt)?;
        self.computation.set_patience(Duration::ZERO);
        self.finish()?;
        if end.is_some() {
            self.end_input()?;
        }
        if self.hub.wants_totals() {
            self.write_held_totals()?;
        }
        self.hub.finish(&|_| {})?;
        Ok(Replayed { end, last_tick: self.last_tick })
    }

    /// Returns the counts of what was published.
    pub fn counts(&self) -> &Counts {
        self.hub.counts()
    }

    /// Returns the tick that a read would be of.
    pub fn next_tick(&self) -> u64 {
        self.computation.inputs.tick() + 1
    }

    /// The last window in which a record falls, whether or not it is counted.
    pub fn last_window(&self) -> Option<Window> {
        self.last_window
    }

    /// Returns the watermark and the windows after the last tick that is done.
    pub fn windows(&self) -> &WindowStates {
        self.computation.windows()
    }

    /// Reads retained values at a tick of its own. The sinks get the answers.
    pub fn read(&mut self, reads: impl IntoIterator<Item = Read>) -> Result<(), WriteError> {
        self.computation.inputs.begin_tick(self.computation.inputs.tick() + 1);
        reads.into_iter().for_each(|read| self.computation.inputs.read(read));
        self.computation.end_tick(0);
        self.finish()
    }

    /// Takes ticks until the source ends, or `None` if it is interrupted.
    fn take_source(
        &mut self,
        source: &Events,
        interrupt: &Interrupt,
    ) -> Result<Option<End>, WriteError> {
        loop {
            if interrupt.pressed() {
                return Ok(None);
            }
            while self.computation.has_room() {
                match source.try_next() {
                    Ok(SourceEvent::Tick(tick)) => self.take_tick(tick),
                    Ok(SourceEvent::End(end)) => return Ok(Some(end)),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        unreachable!("the reader says that it has ended, or ends the process")
                    }
                }
            }
            self.computation.step();
            self.write()?;
        }
    }

    fn take_tick(&mut self, tick: Tick) {
        self.begin(tick.tick);
        if self.hub.wants_totals() {
            for window in &tick.seen {
                *self.seen.entry(*window).or_default() += 1;
            }
            for update_batch in &tick.update_batches {
                *self.seen.entry(update_batch.window).or_default() += update_batch.len();
            }
        }
        self.records(tick.update_batches, &tick.seen, tick.tick);
        self.end();
        self.last_tick = Some(tick.tick);
    }

    /// Begins a tick, which is later than those before.
    pub fn begin(&mut self, tick: u64) {
        // It begins with tick 0.
        if tick > self.computation.inputs.tick() {
            if self.last_window.is_none() {
                self.computation.take_first_rows(tick);
            }
            self.computation.inputs.begin_tick(tick);
        }
    }

    /// Edits the limits, in the current tick.
    pub fn edit(&mut self, version: Version, diff: isize) {
        self.computation.inputs.edit(version, diff);
    }

    /// Adds the updates of the current tick, the windows it falls into, and its greatest event time.
    pub fn records(
        &mut self,
        update_batches: Vec<UpdateBatch>,
        seen: &BTreeSet<Window>,
        greatest: u64,
    ) {
        for window in seen {
            self.computation.inputs.mark(SourceProgress::Seen(*window));
            self.last_window = self.last_window.max(Some(*window));
        }
        self.updates += update_batches.iter().map(UpdateBatch::len).sum::<usize>().max(seen.len());
        self.computation.inputs.batches(update_batches);
        self.watermark = self.watermark.max(greatest);
    }

    /// Observation begins now: windows that began before are not whole.
    pub fn begin_observation(&mut self) {
        let now = self.computation.inputs.tick();
        self.computation.inputs.mark(SourceProgress::Begun(now));
    }

    /// Ends the current tick.
    pub fn end(&mut self) {
        let mark = match self.clock {
            Clock::Replay => SourceProgress::Watermark(self.watermark),
            Clock::Live => {
                let now = self.computation.inputs.tick();
                SourceProgress::Now { now, silence: now }
            }
        };
        self.computation.inputs.mark(mark);
        self.computation.end_tick(std::mem::take(&mut self.updates));
    }

    /// The next date that a row of limits waits for, in milliseconds.
    pub fn next_date(&self) -> Option<u64> {
        self.computation.inputs.next_date()
    }

    /// Works until another tick may be begun.
    pub fn make_room(&mut self) -> Result<(), WriteError> {
        while !self.computation.has_room() {
            self.computation.step();
            self.write()?;
        }
        Ok(())
    }

    /// Works until all ticks that are ended are done.
    pub fn finish(&mut self) -> Result<(), WriteError> {
        while self.computation.ticks_in_flight() > 0 {
            self.computation.step();
            self.write()?;
        }
        Ok(())
    }

    /// Hands on the outputs that are ready.
    fn write(&mut self) -> Result<(), WriteError> {
        while let Some((tick, output)) = self.computation.take() {
            match output {
                Output::Changes(changes) => self.hub.changes(tick, &changes, &self.catalog)?,
                Output::Closed(outputs) => self.hub.close(&ClosedTick {
                    tick,
                    outputs: &outputs,
                    windows: self.computation.windows(),
                    catalog: &self.catalog,
                })?,
            }
        }
        Ok(())
    }

    /// Lets go of the computation, and works until all workers have.
    pub fn close(self) {
        self.computation.close();
    }

    /// Runs one tick in which only time passes.
    fn pass_time(&mut self, tick: u64) -> Result<(), WriteError> {
        self.begin(tick);
        self.end();
        self.finish()
    }

    /// Moves the clock past the last window: first to each date up to its end at which rows of limits take
    /// effect, then to where every window closes, then to where every window settles.
    pub fn end_input(&mut self) -> Result<(), WriteError> {
        let Some(last) = self.last_window else {
            return Ok(());
        };
        let end = self.options.windows.end_ms(last);
        while let Some(date) = self.computation.inputs.next_date().filter(|date| *date <= end) {
            let tick = date.max(self.computation.inputs.tick() + 1);
            self.pass_time(tick)?;
        }
        let close = end.max(self.computation.inputs.tick() + 1);
        self.watermark = end;
        self.pass_time(close)?;
        self.watermark = END_OF_INPUT;
        self.pass_time(close + END_STEP_MS)?;
        if self.options.windows.retention_ms.is_some() {
            // Windows retire at a later tick than they settle.
            self.pass_time(close + 2 * END_STEP_MS)?;
        }
        Ok(())
    }

    /// Writes the totals of windows that are held, in their order: some windows at a time, so that
    /// few rows are in flight at once.
    fn write_held_totals(&mut self) -> Result<(), WriteError> {
        let mut windows = std::mem::take(&mut self.seen).into_iter().peekable();
        while let Some((from, mut rows)) = windows.next() {
            while let Some((_, more)) = windows.next_if(|(_, more)| rows + more <= ROWS_AT_ONCE) {
                rows += more;
            }
            let until = windows.peek().map_or(Window(u64::MAX), |(window, _)| *window);
            self.read([Read::Rows { from, until }])?;
        }
        Ok(())
    }
}

/// The time that ticks wait for more to be read: too short to be seen, and with many workers each round costs.
const PATIENCE: Duration = Duration::from_millis(5);

/// Time between the ticks after the end of the input, in milliseconds.
const END_STEP_MS: u64 = 1000;

/// Rows of totals that are read at once, unless a window has more.
const ROWS_AT_ONCE: usize = 200_000;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use floodmark_dataflows::combine::Combiner;
    use floodmark_dataflows::types::{Pair, Volume};

    use super::*;
    use crate::output::difference::Shown;
    use crate::sink::Sink;

    /// Counts the rows that come at once.
    struct Rows<'a>(&'a mut Vec<usize>);

    impl Sink for Rows<'_> {
        fn changes(&mut self, _: &Shown<'_>, _: &Catalog) -> Result<(), WriteError> {
            Ok(())
        }

        fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
            self.0.push(closed.outputs.rows.values().map(Vec::len).sum());
            Ok(())
        }

        fn wants_totals(&self) -> bool {
            true
        }
    }

    /// A great many windows with little in them are read at once, and large ones that follow are not.
    #[test]
    fn rows_of_totals_that_are_read_at_once_are_bounded() {
        const LARGE: u32 = 120_000;
        let sizes: Vec<u32> = std::iter::repeat_n(1, 300).chain([LARGE; 5]).collect();
        let mut rows = Vec::new();
        let sent = std::thread::spawn(move || {
            timely::execute_directly(move |worker| {
                let options = Options::default();
                let computation = Computation::build(worker, options);
                let hub = Hub::new(Counts::new(&[]), vec![Box::new(Rows(&mut rows))]);
                let catalog = Arc::default();
                let mut replay = Replay::new(computation, options, [], catalog, hub);
                let mut combiner = Combiner::new(1);
                for (number, size) in (1..).zip(sizes) {
                    let window = Window(number * 300);
                    for host in 0..size {
                        let pair = Pair::V4(host.into(), Ipv4Addr::LOCALHOST);
                        combiner.add(window, pair, Volume::new(1, 1));
                    }
                    let (tick, update_batches) = (number * 300_000, combiner.take());
                    replay.take_tick(Tick { tick, update_batches, seen: BTreeSet::from([window]) });
                    replay.make_room().map_err(|_| "the sinks take all")?;
                }
                replay.finish().map_err(|_| "the sinks take all")?;
                replay.write_held_totals().map_err(|_| "the sinks take all")?;
                replay.close();
                Ok::<_, &str>(rows)
            })
        });
        let read = sent.join().expect("a replay").expect("rows");
        assert_eq!(read.iter().sum::<usize>(), 300 + 5 * LARGE as usize);
        assert!(read.iter().all(|rows| *rows <= ROWS_AT_ONCE), "{read:?}");
        assert!(read.iter().filter(|rows| **rows > 0).count() <= 6, "{read:?}");
    }
}
