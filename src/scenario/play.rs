//! A case, played on the computation.

use std::collections::BTreeSet;
use std::sync::mpsc::Receiver;

use floodmark_dataflows::combine::{Combiner, Parcel};
use floodmark_dataflows::time::{Window, Windows};

use super::said::Said;
use super::script::{Counted, Script};
use super::settings::Settings;
use crate::computation::{Computation, Outcome};
use crate::driver::{Clock, Replay, Sinks};
use crate::limits::catalog::Catalog;
use crate::output::WriteError;
use crate::replay::{self, Cut, Event, Filter, Tick};
use crate::terminal::{Interrupt, Messages};

/// How often time alone may bring something about in one case.
const MOMENTS_MAX: u64 = 1_000_000;

/// Why a case was not played to its end.
pub(super) enum Unplayed {
    Interrupted,
    /// It can't be.
    Problem(String),
}

/// Plays a case. Returns what was said, in its order.
pub(super) fn play(
    script: Script,
    settings: &Settings,
    computation: Computation<'_>,
    peers: usize,
    interrupt: &Interrupt,
) -> Result<Vec<Said>, Unplayed> {
    let Script { begin, catalog, versions, mut ticks, readers, .. } = script;
    let options = settings.options();
    let filter = settings.filter().clone();
    let mut captured = None;
    if !readers.is_empty() {
        let me = std::thread::current();
        let cut = Cut {
            tick_ms: settings.tick_ms(),
            windows: options.windows,
            filter: filter.clone(),
            peers,
        };
        let source =
            replay::start(readers, cut, Messages::new(), move || me.unpark()).map_err(|error| {
                Unplayed::Problem(format!("starting the thread that reads: {error}"))
            })?;
        captured = Some(Captured { source, next: None, ended: false });
    }
    // A run looks at the clock from its beginning on.
    ticks.entry(begin).or_default();
    let mut heard = Heard { catalog, said: Vec::new() };
    let replay = Replay::new(computation, options, &versions, &mut heard).by(settings.clock());
    let mut player = Player {
        replay,
        rules: options.windows,
        clock: settings.clock(),
        tick_ms: settings.tick_ms(),
        filter,
        combiner: Combiner::new(peers),
        moments: 0,
    };
    let played = player.all(settings, begin, ticks, captured, interrupt);
    player.replay.close();
    played.map(|()| heard.said)
}

/// The ticks of captures.
struct Captured {
    source: Receiver<Event>,
    next: Option<Tick>,
    ended: bool,
}

impl Captured {
    /// When the next tick is; `None` at the end.
    fn next(&mut self) -> Result<Option<u64>, Unplayed> {
        if self.next.is_none() && !self.ended {
            match self.source.recv() {
                Ok(Event::Tick(tick)) => self.next = Some(tick),
                Ok(Event::End(end)) if end.damaged => {
                    return Err(Unplayed::Problem("a capture is damaged".into()));
                }
                Ok(Event::End(_)) => self.ended = true,
                Err(_) => unreachable!("the reader says that it has ended, or ends the process"),
            }
        }
        Ok(self.next.as_ref().map(|tick| tick.tick))
    }
}

struct Player<'a> {
    replay: Replay<'a, Heard>,
    rules: Windows,
    clock: Clock,
    tick_ms: u64,
    filter: Filter,
    combiner: Combiner,
    /// How often time alone has passed.
    moments: u64,
}

impl Player<'_> {
    fn all(
        &mut self,
        settings: &Settings,
        begin: u64,
        mut ticks: std::collections::BTreeMap<u64, super::script::Happening>,
        mut captured: Option<Captured>,
        interrupt: &Interrupt,
    ) -> Result<(), Unplayed> {
        let mut last = None;
        loop {
            let scripted = ticks.first_key_value().map(|(tick, _)| *tick);
            let packets = captured.as_mut().map(Captured::next).transpose()?.flatten();
            let Some(tick) = scripted.into_iter().chain(packets).min() else {
                break;
            };
            if let Some(last) = last {
                self.pass(last, tick, interrupt)?;
            }
            self.replay.begin(tick);
            if tick == begin && settings.is_from_latest() {
                self.replay.begin_observation();
            }
            let happening = ticks.remove(&tick).unwrap_or_default();
            for (version, diff) in happening.edits {
                self.replay.edit(version, diff);
            }
            self.count(&happening.records);
            if let Some(tick) = captured
                .as_mut()
                .and_then(|captured| captured.next.take_if(|next| next.tick == tick))
            {
                self.replay.records(tick.parcels, &tick.seen, tick.tick);
            }
            self.end(interrupt)?;
            last = Some(tick);
        }
        if self.clock == Clock::Replay {
            self.replay.end_input().map_err(unwritten)?;
        }
        Ok(())
    }

    /// Takes the records of a case's lines.
    fn count(&mut self, records: &[Counted]) {
        let mut seen = BTreeSet::<Window>::new();
        for record in records {
            let window = self.rules.of(record.time).expect("a case has only records in windows");
            seen.insert(window);
            if self.filter.admits(&record.pair) {
                self.combiner.add(window, record.pair, record.volume);
            }
        }
        if let Some(greatest) = records.iter().map(|record| record.time).max() {
            let parcels: Vec<Parcel> = self.combiner.take();
            self.replay.records(parcels, &seen, greatest);
        }
    }

    fn end(&mut self, interrupt: &Interrupt) -> Result<(), Unplayed> {
        self.replay.end();
        self.replay.finish().map_err(unwritten)?;
        match interrupt.pressed() {
            true => Err(Unplayed::Interrupted),
            false => Ok(()),
        }
    }

    /// Lets a live clock pass from one tick to before another, with a tick whenever that alone brings
    /// something about: a window ends, settles or retires, or the date of a row comes. A run has a tick
    /// each second; at those in between nothing happens.
    fn pass(&mut self, mut from: u64, to: u64, interrupt: &Interrupt) -> Result<(), Unplayed> {
        if self.clock == Clock::Replay {
            return Ok(());
        }
        loop {
            let date = self.replay.next_date().filter(|date| *date > from);
            let Some(tick) = self.next_turn(from).into_iter().chain(date).min() else {
                return Ok(());
            };
            if tick >= to {
                return Ok(());
            }
            self.moments += 1;
            if self.moments > MOMENTS_MAX {
                return Err(Unplayed::Problem(format!(
                    "it lasts too long: windows end, settle or retire more than {MOMENTS_MAX} times; \
                     shorten it, or widen its windows"
                )));
            }
            self.replay.begin(tick);
            self.end(interrupt)?;
            from = tick;
        }
    }

    /// The next moment at which time does something to a window.
    fn next_turn(&self, from: u64) -> Option<u64> {
        let Windows { width_secs, lateness_ms, retention_ms, .. } = self.rules;
        let width = width_secs.checked_mul(1000)?;
        let settles = lateness_ms;
        let retires =
            settles.zip(retention_ms).and_then(|(settles, held)| settles.checked_add(held));
        // A window retires in the tick after the one that finds it done with.
        let gone = retires.and_then(|retires| retires.checked_add(self.tick_ms));
        let after = [Some(0), settles, retires, gone].into_iter().flatten();
        after
            .filter_map(|after| match from.checked_sub(after) {
                Some(since) => (since / width + 1).checked_mul(width)?.checked_add(after),
                None => Some(after),
            })
            .min()
    }
}

fn unwritten(_: WriteError) -> Unplayed {
    unreachable!("what is heard is kept, and not written")
}

/// Keeps what is said.
struct Heard {
    catalog: Catalog,
    said: Vec<Said>,
}

impl Sinks for Heard {
    fn tick(&mut self, tick: u64, outcome: Outcome) -> Result<(), WriteError> {
        let said = outcome.changes.iter().map(|change| Said::of(tick, change, &self.catalog));
        self.said.extend(said);
        Ok(())
    }

    fn wants_totals(&self) -> bool {
        false
    }
}
