//! Which windows exist, and where the watermark is: decided once, and told to every worker.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use differential_dataflow::{AsCollection, VecCollection};
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::stash::Stash;
use crate::time::{Phase, Time, Window, Windows};
use crate::watermark::{Least, Moment, Partitions, passed};

/// What sources say of a tick, at its [`Phase::Data`]. Times are milliseconds of event time.
///
/// Each tick has a [`Mark::Watermark`], or a [`Mark::Now`] and what holds the watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Mark {
    /// Observation begins, or begins anew: windows that start before are not [whole](Existing::whole).
    /// The latest of several moments holds.
    Begun(u64),
    /// Records before the first one read from this partition were not read. Windows up to and including
    /// that of its first event time are not whole; no window is while that time is unknown.
    ///
    /// A partition whose first event time is unknown holds the watermark ([`Holds::Unread`] or
    /// [`Holds::Empty`]), so that no window closes before it is decided whether the window is whole.
    Truncated {
        /// The partition.
        partition: u32,
        /// The first event time read from it, if one was.
        first: Option<u64>,
    },
    /// A record falls into this window, whether or not a filter lets it through.
    Seen(Window),
    /// The watermark, where the input knows it, also if it does not move.
    Watermark(u64),
    /// What a partition of a live input holds, until it says something else.
    Partition {
        /// Which.
        partition: u32,
        /// Where it holds the watermark.
        holds: Holds,
    },
    /// The clock of a live input.
    Now {
        /// The watermark is never after it.
        now: u64,
        /// Where the watermark is if all partitions are idle.
        silence: u64,
    },
}

/// How a partition holds the watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Holds {
    /// There is something in it, or there may be, and nothing was read yet: wherever it is.
    Unread,
    /// There is nothing in it, for now: the same, but nobody needs to wait for what it has.
    Empty,
    /// At the greatest event time read from it.
    At(u64),
    /// The same, and there is more to read: it has waited for slower partitions since it was last read
    /// to its end.
    Waiting(u64),
    /// It is idle, or straggles: not at all.
    Nothing,
}

/// A window that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Existing {
    /// Which.
    pub window: Window,
    /// Whether it has a record of its own; else it lies between two windows that do, not too far
    /// apart.
    pub seen: bool,
    /// Whether its end is at or before the watermark.
    pub closed: bool,
    /// Whether it was observed from its start on. Lower bounds do not judge a part of a window. A window
    /// that has closed stays what it is.
    pub whole: bool,
}

/// What the clock tells every worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Clock {
    /// The watermark from now on. At [`Phase::Close`].
    Watermark {
        /// Where it is.
        at: u64,
        /// Where the slowest partition is that has something to read: the others need not wait for
        /// any but this. It is the watermark unless that waits for an empty partition.
        slowest: u64,
        /// Which partition holds the watermark; `None`: none does.
        held_by: Option<u32>,
        /// Which partition is the slowest one, in the same way.
        slowest_in: Option<u32>,
        /// The greatest event time that a partition has come to, at most the clock, at least the
        /// watermark. Where a partition waits with more to read, it is the clock.
        front: u64,
        /// The start of the first window that is whole, in milliseconds; `None` while it is unknown.
        whole_from: Option<u64>,
        /// How many windows are open: they exist, and are not closed.
        open: u64,
    },
    /// The window turned out to be partial, that is, not [whole](Existing::whole), or to be whole after
    /// all. A window without such an event is whole. At [`Phase::Data`].
    Partial {
        /// The window.
        window: Window,
        /// Whether it is partial from now on.
        partial: bool,
    },
    /// The window has closed and is whole, so that lower bounds judge it from now on. At [`Phase::Close`], or
    /// at [`Phase::Data`] where it is a late record that brings it about.
    Observed(Window),
    /// No record can change the window any more. At [`Phase::Close`].
    Settled(Window),
    /// The window leaves memory. At [`Phase::Retire`].
    Retired(Window),
}

/// What one tick does to windows.
#[derive(Default)]
struct Told {
    windows: Vec<(Existing, Phase, isize)>,
    events: Vec<(Phase, Clock)>,
}

/// The beginning of observation.
#[derive(Default)]
struct Beginning {
    /// Windows that start before are partial.
    begun: u64,
    /// Truncated partitions whose first event time is unknown.
    unknown: BTreeSet<u32>,
}

impl Beginning {
    fn truncated(&mut self, partition: u32, first: Option<u64>) {
        match first {
            Some(first) => {
                self.unknown.remove(&partition);
                // The window that starts at that very moment may lack records of it, too.
                self.begun = self.begun.max(first.saturating_add(1));
            }
            None => drop(self.unknown.insert(partition)),
        }
    }

    /// The start of the first whole window; `None` while it is unknown.
    fn whole_from(&self, rules: Windows) -> Option<u64> {
        let from = || match rules.of(self.begun) {
            Some(window) if window.0.saturating_mul(1000) < self.begun => rules.end_ms(window),
            _ => self.begun,
        };
        self.unknown.is_empty().then(from)
    }
}

/// The windows that are held.
struct Held {
    rules: Windows,
    watermark: u64,
    partitions: Partitions,
    beginning: Beginning,
    /// The start of the first whole window; `None` while it is unknown.
    whole_from: Option<u64>,
    windows: BTreeMap<Window, Existing>,
    open: BTreeSet<Window>,
    unsettled: BTreeSet<Window>,
    /// The last window with a record that has retired; a gap may reach back to it.
    last_retired: Option<Window>,
    told: Told,
}

impl Held {
    fn new(rules: Windows) -> Self {
        Held {
            rules,
            watermark: 0,
            partitions: Partitions::default(),
            beginning: Beginning::default(),
            whole_from: Some(0),
            windows: BTreeMap::new(),
            open: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            last_retired: None,
            told: Told::default(),
        }
    }

    fn set(&mut self, existing: Existing, phase: Phase) {
        let before = self.windows.insert(existing.window, existing);
        if let Some(before) = before {
            self.told.windows.push((before, phase, -1));
        }
        self.told.windows.push((existing, phase, 1));
        if existing.closed && existing.whole && before.is_none_or(|before| !before.closed) {
            self.told.events.push((phase, Clock::Observed(existing.window)));
        }
        let (was_partial, partial) = (before.is_some_and(|before| !before.whole), !existing.whole);
        if was_partial != partial {
            let event = Clock::Partial { window: existing.window, partial };
            self.told.events.push((phase, event));
        }
    }

    /// Whether a window is whole that has not closed yet.
    fn is_whole(&self, window: Window) -> bool {
        self.whole_from.is_some_and(|from| window.0.saturating_mul(1000) >= from)
    }

    /// Decides anew which windows are whole, of those that have not closed.
    fn begin(&mut self) {
        let whole_from = self.beginning.whole_from(self.rules);
        if std::mem::replace(&mut self.whole_from, whole_from) == whole_from {
            return;
        }
        for window in self.open.clone() {
            let existing = self.windows[&window];
            let whole = self.is_whole(window);
            if existing.whole != whole {
                self.set(Existing { whole, ..existing }, Phase::Data);
            }
        }
    }

    /// Opens a window, or marks one as seen that was not.
    fn open(&mut self, window: Window, seen: bool) {
        let before = self.windows.get(&window).filter(|before| before.closed);
        let whole = before.map_or_else(|| self.is_whole(window), |before| before.whole);
        // The window of a late record has closed before: it is that record, and not time, which makes its
        // limits hold.
        let closed = seen && self.rules.closed(window, self.watermark);
        self.set(Existing { window, seen, closed, whole }, Phase::Data);
        match closed {
            true => self.open.remove(&window),
            false => self.open.insert(window),
        };
        self.unsettled.insert(window);
    }

    /// A record falls into the window.
    fn see(&mut self, window: Window) {
        // Too late: the record is not counted, so it makes no window.
        if self.rules.settled(window, self.watermark) {
            return;
        }
        match self.windows.get(&window) {
            Some(existing) if existing.seen => return,
            // It lies in a gap between two seen ones, and all of the gap is open already.
            Some(_) => return self.open(window, true),
            None => self.open(window, true),
        }
        let seen = |(window, existing): (&Window, &Existing)| existing.seen.then_some(*window);
        let before = self.windows.range(..window).rev().find_map(seen).or(self.last_retired);
        let after = self.windows.range((Excluded(window), Unbounded)).find_map(seen);
        if let Some(before) = before {
            self.fill_gap(before, window);
        }
        if let Some(after) = after {
            self.fill_gap(window, after);
        }
    }

    /// Opens the windows between two seen ones, unless that is a break in observation.
    fn fill_gap(&mut self, from: Window, until: Window) {
        if until.0 - from.0 > self.rules.max_gap_secs {
            return;
        }
        let mut window = Window(self.rules.end_secs(from));
        while window < until {
            if !self.rules.retired(window, self.watermark) && !self.windows.contains_key(&window) {
                self.open(window, false);
            }
            window = Window(self.rules.end_secs(window));
        }
    }

    /// Opens the windows without a record that end while a live watermark moves: silence that is
    /// watched as it passes. Those before the last seen one are gaps.
    fn watch(&mut self, watermark: u64) {
        let seen = self.windows.values().rev().find(|existing| existing.seen);
        let last = seen.map(|existing| existing.window).max(self.last_retired);
        for window in passed(self.rules, self.watermark, watermark) {
            if last.is_none_or(|last| window > last) && !self.windows.contains_key(&window) {
                self.open(window, false);
            }
        }
    }

    /// Moves the watermark, which closes and settles windows.
    fn advance(&mut self, watermark: Least, slowest: Least, front: u64) {
        self.watermark = self.watermark.max(watermark.at);
        while let Some(&window) = self.open.first()
            && self.rules.closed(window, self.watermark)
        {
            self.open.pop_first();
            let existing = self.windows[&window];
            self.set(Existing { closed: true, ..existing }, Phase::Close);
        }
        let moved = Clock::Watermark {
            at: self.watermark,
            slowest: self.watermark.max(slowest.at),
            held_by: watermark.of,
            slowest_in: slowest.of,
            front: self.watermark.max(front),
            whole_from: self.whole_from,
            open: self.open.len() as u64,
        };
        self.told.events.push((Phase::Close, moved));
        while let Some(&window) = self.unsettled.first()
            && self.rules.settled(window, self.watermark)
        {
            self.unsettled.pop_first();
            self.told.events.push((Phase::Close, Clock::Settled(window)));
        }
    }

    /// Lets go of windows that `watermark`, the one of the tick before, says are done with.
    fn retire(&mut self, watermark: u64) {
        while let Some((&window, &existing)) = self.windows.first_key_value()
            && self.rules.retired(window, watermark)
        {
            self.windows.pop_first();
            if existing.seen {
                self.last_retired = self.last_retired.max(Some(window));
            }
            self.told.windows.push((existing, Phase::Retire, -1));
            self.told.events.push((Phase::Retire, Clock::Retired(window)));
        }
    }

    fn tick(&mut self, marks: Vec<Mark>) -> Told {
        let before = self.watermark;
        let mut watermark = Least { at: before, of: None };
        let mut slowest = Least { at: 0, of: None };
        let (mut moment, mut front) = (None, 0);
        let marks: BTreeSet<Mark> = marks.into_iter().collect();
        for mark in &marks {
            match *mark {
                Mark::Begun(at) => self.beginning.begun = self.beginning.begun.max(at),
                Mark::Truncated { partition, first } => self.beginning.truncated(partition, first),
                _ => {}
            }
        }
        self.begin();
        for mark in marks {
            match mark {
                Mark::Begun(_) | Mark::Truncated { .. } => {}
                Mark::Seen(window) => self.see(window),
                Mark::Watermark(mark) => watermark.at = watermark.at.max(mark),
                Mark::Partition { partition, holds } => self.partitions.set(partition, holds),
                Mark::Now { now, silence } => moment = Some(Moment { now, silence }),
            }
        }
        if let Some(moment) = moment {
            watermark = self.partitions.watermark(moment, before);
            slowest = self.partitions.slowest(moment);
            front = self.partitions.front(moment);
            self.watch(watermark.at);
        }
        self.advance(watermark, slowest, front);
        self.retire(before);
        std::mem::take(&mut self.told)
    }
}

/// The windows that exist, and what becomes of them.
///
/// # In
/// `marks`: from every worker the windows in which its records fall and what its partitions hold, and
/// from one of them the watermark or the clock, each at [`Phase::Data`] of its tick. Of one partition a
/// tick says one thing.
///
/// # Time
/// Complete for a tick when all marks of the tick are. A mark for a window that the watermark of the
/// tick before has settled is ignored, as the record behind it is.
///
/// # Out
/// The windows as a collection, and events, both on one worker. A window opens at [`Phase::Data`], closes
/// and settles at [`Phase::Close`], and leaves at [`Phase::Retire`], each once and in this order; that of
/// a late record is closed when it opens. Broadcast them; nothing else decides about windows.
///
/// # Keeps
/// The windows that are not retired.
pub fn clock<'scope>(
    marks: StreamVec<'scope, Time, Mark>,
    rules: Windows,
) -> (VecCollection<'scope, Time, Existing, isize>, StreamVec<'scope, Time, Clock>) {
    let mut builder = OperatorBuilder::new("Clock".into(), marks.scope());
    let mut input = builder.new_input(marks, Exchange::new(|_| 0));
    let (windows_output, windows) = builder.new_output::<Vec<_>>();
    let (events_output, events) = builder.new_output::<Vec<_>>();
    let mut windows_output = OutputBuilder::from(windows_output);
    let mut events_output = OutputBuilder::from(events_output);
    builder.build(move |_| {
        let mut stash = Stash::<Vec<Mark>, 2>::default();
        let mut held = Held::new(rules);
        move |frontiers| {
            input.for_each(|capability, marks| stash.at(&capability).append(marks));
            let mut windows_output = windows_output.activate();
            let mut events_output = events_output.activate();
            while let Some(([windows_capability, events_capability], marks)) = stash.next(frontiers)
            {
                let tick = events_capability.time().tick;
                let told = held.tick(marks);
                let mut session = windows_output.session(&windows_capability);
                for (existing, phase, diff) in told.windows {
                    session.give((existing, Time::new(tick, phase), diff));
                }
                for (phase, event) in told.events {
                    let capability = events_capability.delayed(&Time::new(tick, phase));
                    events_output.session(&capability).give(event);
                }
            }
        }
    });
    (windows.as_collection(), events)
}
