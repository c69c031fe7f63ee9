//! A case, played on the computation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::time::{Window, Windows};

use super::said::Said;
use super::script::{Counted, Happening, Script};
use super::settings::{Settings, WINDOWS_MAX};
use crate::base::date::format_ms;
use crate::base::terminal::{Interrupt, Messages};
use crate::capture::Reader;
use crate::computation::Computation;
use crate::driver::{Clock, Replay};
use crate::limits::catalog::Catalog;
use crate::output::WriteError;
use crate::output::difference::Shown;
use crate::replay::{self, Cut, Event, Events, Tick};
use crate::sink::{ClosedTick, Counts, Hub, Sink};

/// Why a case was not played to its end.
pub(super) enum Unplayed {
    Interrupted,
    /// It can't be.
    Problem(String),
}

/// Plays a case. Returns the published changes, in their order.
pub(super) fn play(
    script: Script,
    settings: &Settings,
    computation: Computation<'_>,
    peers: usize,
    interrupt: &Interrupt,
) -> Result<Vec<Said>, Unplayed> {
    let Script { begin, catalog, versions, mut ticks, readers, .. } = script;
    let options = settings.options();
    let captured = match Captured::start(readers, settings, peers) {
        Ok(captured) => captured,
        Err(unplayed) => {
            computation.close();
            return Err(unplayed);
        }
    };
    // A run looks at the clock from its beginning on.
    ticks.entry(begin).or_default();
    let mut said = Vec::new();
    let played = {
        let hub = Hub::new(Counts::new(catalog.sets()), vec![Box::new(Published(&mut said))]);
        let catalog = Arc::new(catalog);
        let replay = Replay::new(computation, options, versions, catalog, hub).by(settings.clock());
        let mut player = Player {
            replay,
            settings,
            rules: options.windows,
            begin,
            ticks,
            captured,
            combiner: Combiner::new(peers),
            windows: 0,
            interrupt,
        };
        let played = player.all();
        player.replay.close();
        played
    };
    played.map(|()| said)
}

/// The ticks of captures.
struct Captured {
    source: Events,
    next: Option<Tick>,
    ended: bool,
}

impl Captured {
    /// Begins to read captures, if there are any.
    fn start(
        readers: Vec<Reader>,
        settings: &Settings,
        peers: usize,
    ) -> Result<Option<Self>, Unplayed> {
        if readers.is_empty() {
            return Ok(None);
        }
        let cut = Cut {
            tick_ms: settings.tick_ms(),
            windows: settings.options().windows,
            filter: settings.filter().clone(),
            peers,
        };
        let me = std::thread::current();
        let source = replay::start(readers, cut, Messages::new(), move || me.unpark());
        let source = source.map_err(|error| {
            Unplayed::Problem(format!("starting the thread that reads: {error}"))
        })?;
        Ok(Some(Captured { source, next: None, ended: false }))
    }

    /// When the next tick is; `None` at the end.
    fn next(&mut self) -> Result<Option<u64>, Unplayed> {
        if self.next.is_none() && !self.ended {
            match self.source.next() {
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

struct Player<'a, 's> {
    replay: Replay<'a, 's>,
    settings: &'a Settings,
    rules: Windows,
    begin: u64,
    /// The events still to come, by tick.
    ticks: BTreeMap<u64, Happening>,
    captured: Option<Captured>,
    combiner: Combiner,
    /// Number of windows that have passed between the ticks of events.
    windows: u64,
    interrupt: &'a Interrupt,
}

impl Player<'_, '_> {
    fn all(&mut self) -> Result<(), Unplayed> {
        let mut last = None;
        while let Some(tick) = self.next_tick()? {
            if let Some(last) = last.replace(tick) {
                self.pass(last, tick)?;
            }
            self.replay.begin(tick);
            if tick == self.begin && self.settings.is_from_latest() {
                self.replay.begin_observation();
            }
            let happening = self.ticks.remove(&tick).unwrap_or_default();
            for (version, diff) in happening.edits {
                self.replay.edit(version, diff);
            }
            self.count(&happening.records);
            let captured = self
                .captured
                .as_mut()
                .and_then(|captured| captured.next.take_if(|next| next.tick == tick));
            if let Some(Tick { tick, update_batches, seen }) = captured {
                self.replay.records(update_batches, &seen, tick);
            }
            self.end()?;
        }
        self.replay.finish().map_err(unwritten)?;
        match self.settings.clock() {
            Clock::Live => Ok(()),
            Clock::Replay => self.replay.end_input().map_err(unwritten),
        }
    }

    /// When the case, or a capture, goes on.
    fn next_tick(&mut self) -> Result<Option<u64>, Unplayed> {
        let captured = self.captured.as_mut().map(Captured::next).transpose()?.flatten();
        let scripted = self.ticks.first_key_value().map(|(tick, _)| *tick);
        Ok(scripted.into_iter().chain(captured).min())
    }

    /// Takes the records of a case's lines.
    fn count(&mut self, records: &[Counted]) {
        let mut seen = BTreeSet::<Window>::new();
        for record in records {
            let window = self.rules.of(record.time).expect("a case has only records in windows");
            seen.insert(window);
            if self.settings.filter().admits(&record.pair) {
                self.combiner.add(window, record.pair, record.volume);
            }
        }
        if let Some(greatest) = records.iter().map(|record| record.time).max() {
            let update_batches = self.combiner.take();
            self.replay.records(update_batches, &seen, greatest);
        }
    }

    fn end(&mut self) -> Result<(), Unplayed> {
        self.replay.end();
        self.replay.make_room().map_err(unwritten)?;
        match self.interrupt.pressed() {
            true => Err(Unplayed::Interrupted),
            false => Ok(()),
        }
    }

    /// Lets a live clock pass from one tick to before another, with a tick whenever that alone brings
    /// something about: a window ends, settles or retires, or the date of a row comes. A run has a tick
    /// each second; at those in between nothing happens.
    fn pass(&mut self, mut from: u64, to: u64) -> Result<(), Unplayed> {
        if self.settings.clock() == Clock::Replay {
            return Ok(());
        }
        self.windows += (to - from) / (self.rules.width_secs * 1000);
        if self.windows > WINDOWS_MAX {
            return Err(Unplayed::Problem(format!(
                "more than {WINDOWS_MAX} windows pass until {}; shorten the case, or widen them",
                format_ms(to)
            )));
        }
        loop {
            let date = self.replay.next_date().filter(|date| *date > from);
            let Some(tick) = self.next_turn(from).into_iter().chain(date).min() else {
                return Ok(());
            };
            if tick >= to {
                return Ok(());
            }
            self.replay.begin(tick);
            self.end()?;
            from = tick;
        }
    }

    /// The next moment at which time does something to a window.
    fn next_turn(&self, from: u64) -> Option<u64> {
        let Windows { width_secs, lateness_ms, retention_ms, .. } = self.rules;
        let width = width_secs * 1000;
        let settles = lateness_ms;
        let retires =
            settles.zip(retention_ms).and_then(|(settles, held)| settles.checked_add(held));
        // A window retires in the tick after the one that finds it done with.
        let gone = retires.and_then(|retires| retires.checked_add(self.settings.tick_ms()));
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

/// A sink that keeps all changes.
struct Published<'a>(&'a mut Vec<Said>);

impl Sink for Published<'_> {
    fn changes(&mut self, changes: &Shown<'_>, catalog: &Catalog) -> Result<(), WriteError> {
        self.0.extend(changes.iter().map(|(tick, change)| Said::of(tick, change, catalog)));
        Ok(())
    }

    fn close(&mut self, _: &ClosedTick<'_>) -> Result<(), WriteError> {
        Ok(())
    }
}
