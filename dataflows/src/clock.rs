//! The windows that exist, and the watermark: decided on one worker, and then broadcast to every worker.

use std::collections::BTreeSet;

use differential_dataflow::{AsCollection, VecCollection};
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;

use crate::spans::{Existing, Spans};
use crate::time::{Bounds, Phase, Time, Timed, Window, WindowRange, Windows};
use crate::watermark::{ClockReading, PartitionProgress, Partitions, Slowest, passed};
use crate::wiring::{Place, Wiring};

/// A report of a source about a tick, at its [`Phase::Data`]. Times are milliseconds of event time.
///
/// Each tick has a [`SourceProgress::Watermark`], or a [`SourceProgress::Now`] beside the progress of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SourceProgress {
    /// The rules of time hold from this tick on, but for their width, which does not change. Windows that have closed,
    /// settled or retired by other rules stay so.
    Rules(Windows),
    /// Observation begins, or begins anew: windows that start before are not [whole](Existing::whole).
    /// The latest of several moments holds.
    Begun(u64),
    /// Records before the first one read from this partition were not read. Windows up to and including
    /// that of its first event time are not whole; no window is while that time is unknown.
    ///
    /// A partition whose first event time is unknown holds the watermark ([`PartitionProgress::Unknown`] or
    /// [`PartitionProgress::Empty`]), so that no window closes before it is decided whether the window is whole.
    Truncated {
        /// The partition.
        partition: u32,
        /// The first event time read from it, if one was.
        first: Option<u64>,
    },
    /// A record falls into this window, whether or not a filter lets it through.
    Seen(Window),
    /// The watermark of an input that knows it, also if it does not move.
    Watermark(u64),
    /// The progress of a partition of a live input, until the next report about the partition.
    Partition {
        /// The partition.
        partition: u32,
        /// Its progress, by which it holds the watermark or not.
        progress: PartitionProgress,
    },
    /// The clock of a live input.
    Now {
        /// The time of the clock; the watermark is never after it.
        now: u64,
        /// The watermark if all partitions are idle.
        silence: u64,
    },
    /// The position in a partition up to which ticks have taken its records, this one included. Nothing follows from
    /// it; it travels with what does ([`Outputs::marks`](crate::graph::Outputs::marks)).
    ReadTo {
        /// The partition.
        partition: u32,
        /// The position of the next record.
        offset: u64,
        /// The greatest event time that was read from it.
        reached: Option<u64>,
    },
    /// These windows exist, in a computation that continues an earlier one: part of the [state](Self::Save) of its
    /// clock. They close when the watermark of that state, which enters at the same tick, passes them.
    Existing(Existing),
    /// The last window with a record that had retired, of the same state.
    Retired(Window),
    /// The states of windows, of the same state: those that the watermark brings about by the rules, or later ones.
    Bounds(Bounds),
    /// Emits the state of the clock at the end of the tick ([`Outputs::clock_states`](crate::graph::Outputs::clock_states)).
    Save,
}

/// An event of the clock, for every worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WindowEvent {
    /// The states of windows: at each tick from which on other windows are open, unsettled or held, and at the tick
    /// after. At [`Phase::Close`].
    Bounds(Bounds),
    /// The progress of event time, at each tick, for display: nothing is computed from it. At [`Phase::Close`].
    EventTime {
        /// The watermark.
        at: u64,
        /// The event time of the slowest partition that has something to read: the other partitions need not wait
        /// for any but this. It is the watermark unless the watermark waits for an empty partition.
        slowest: u64,
        /// The partition that holds the watermark; `None`: no partition does.
        held_by: Option<u32>,
        /// The slowest partition that has something to read; `None`: no such partition is behind the clock.
        slowest_in: Option<u32>,
        /// The greatest event time that a partition has come to, at most the clock, at least the
        /// watermark. Where a partition waits with more to read, it is the clock.
        front: u64,
        /// The start of the first window that is whole, in milliseconds; `None` while it is unknown.
        whole_from: Option<u64>,
        /// The number of open windows: they exist, and are not closed.
        open: u64,
    },
    /// The windows turned out to be partial, that is, not [whole](Existing::whole), or to be whole after
    /// all. A window without such an event is whole. At [`Phase::Data`].
    Partial {
        /// The windows.
        windows: WindowRange,
        /// Whether they are partial from now on.
        partial: bool,
    },
    /// The windows have records, have closed and are whole, so that lower bounds judge them from now on. At
    /// [`Phase::Close`], or at [`Phase::Data`] if a late record brings a window about, or comes to a silent
    /// window.
    Observed(WindowRange),
    /// The windows have closed and are whole, and no record falls into them: lower bounds of totals judge them
    /// from now on. At [`Phase::Close`].
    Silent(WindowRange),
    /// No record can change the windows any more. At [`Phase::Close`].
    Settled(WindowRange),
    /// The windows leave memory. At [`Phase::Retire`].
    Retired(WindowRange),
}

impl WindowEvent {
    /// Whether windows, or changes that are published of them, depend on the event.
    pub(crate) fn concerns_windows(&self) -> bool {
        !matches!(self, WindowEvent::EventTime { .. })
    }
}

/// The start of observation.
#[derive(Default)]
struct ObservationStart {
    /// Windows that start before are partial.
    begun: u64,
    /// Truncated partitions whose first event time is unknown.
    unknown: BTreeSet<u32>,
}

impl ObservationStart {
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

/// The windows that are held, and the watermark that closes and retires them.
struct WindowState {
    rules: Windows,
    watermark: u64,
    /// The states of windows that the watermark has brought about.
    bounds: Bounds,
    /// Whether `bounds` changed at the last tick.
    crossed: bool,
    partitions: Partitions,
    observation_start: ObservationStart,
    /// The start of the first whole window; `None` while it is unknown.
    whole_from: Option<u64>,
    windows: Spans,
    /// Windows that are not closed.
    open: u64,
    /// Silent windows that this tick has opened.
    opened: Vec<WindowRange>,
    /// The last window with a record that has retired; a gap may reach back to it.
    last_retired: Option<Window>,
    events: Vec<(Phase, WindowEvent)>,
}

impl WindowState {
    fn new(rules: Windows) -> Self {
        WindowState {
            rules,
            watermark: 0,
            bounds: Bounds::default(),
            crossed: false,
            partitions: Partitions::default(),
            observation_start: ObservationStart::default(),
            whole_from: Some(0),
            windows: Spans::default(),
            open: 0,
            opened: Vec::new(),
            last_retired: None,
            events: Vec::new(),
        }
    }

    fn push_event(&mut self, phase: Phase, event: WindowEvent) {
        self.events.push((phase, event));
    }

    /// The number of windows in a range.
    fn count(&self, windows: WindowRange) -> u64 {
        (windows.until.0 - windows.from.0) / self.rules.width_secs
    }

    /// Splits a range of windows that have not closed into the part that is not whole (`false`) and the part that
    /// is (`true`); an empty part is left out.
    fn whole_parts(
        &self,
        windows: WindowRange,
    ) -> impl Iterator<Item = (WindowRange, bool)> + use<> {
        let whole_from =
            self.whole_from.map_or(WindowRange::ALL.until, |from| self.rules.first_from(from));
        let partial = WindowRange { until: windows.until.min(whole_from), ..windows };
        let whole = WindowRange { from: windows.from.max(whole_from), ..windows };
        [(partial, false), (whole, true)].into_iter().filter(|(part, _)| !part.is_empty())
    }

    /// Decides anew which windows are whole, of those that have not closed.
    fn update_whole(&mut self) {
        let whole_from = self.observation_start.whole_from(self.rules);
        if std::mem::replace(&mut self.whole_from, whole_from) == whole_from {
            return;
        }
        let open: Vec<Existing> = self.windows.open().copied().collect();
        for span in open {
            for (windows, whole) in self.whole_parts(span.windows) {
                if span.whole != whole {
                    self.windows.remove_windows(windows, Phase::Data);
                    self.windows.insert_windows(Existing { windows, whole, ..span }, Phase::Data);
                    self.push_event(Phase::Data, WindowEvent::Partial { windows, partial: !whole });
                }
            }
        }
    }

    /// Opens the silent windows of a range that do not exist yet.
    fn open(&mut self, range: WindowRange) {
        for missing in self.windows.missing(range) {
            for (windows, whole) in self.whole_parts(missing) {
                let span = Existing { windows, seen: false, closed: false, whole };
                self.windows.insert_windows(span, Phase::Data);
                self.open += self.count(windows);
                self.opened.push(windows);
                if !whole {
                    self.push_event(Phase::Data, WindowEvent::Partial { windows, partial: true });
                }
            }
        }
    }

    /// Marks a window as one that has a record.
    fn mark_seen(&mut self, window: Window) {
        // Too late: the record is not counted, so it makes no window.
        if self.bounds.settled(window) {
            return;
        }
        let before = self.windows.get(window).copied();
        if before.is_some_and(|before| before.seen) {
            return;
        }
        let windows = self.rules.only(window);
        let whole = match before {
            Some(before) if before.closed => before.whole,
            _ => self.whole_parts(windows).all(|(_, whole)| whole),
        };
        // The window of a late record has closed before: the record, and not time, makes the limits judge the
        // window.
        let closed = self.bounds.closed(window);
        self.windows.remove_windows(windows, Phase::Data);
        self.windows.insert_windows(Existing { windows, seen: true, closed, whole }, Phase::Data);
        let was_open = before.is_some_and(|before| !before.closed);
        self.open = self.open - u64::from(was_open) + u64::from(!closed);
        if closed && whole {
            self.push_event(Phase::Data, WindowEvent::Observed(windows));
        }
        if before.is_some() {
            // The window lies in a gap between two seen windows, and all of the gap is open already.
            return;
        }
        if !whole {
            self.push_event(Phase::Data, WindowEvent::Partial { windows, partial: true });
        }
        let (before, after) = self.windows.seen_around(window);
        if let Some(before) = before.or(self.last_retired) {
            self.fill_gap(before, window);
        }
        if let Some(after) = after {
            self.fill_gap(window, after);
        }
    }

    /// Opens the windows between two seen ones, unless that is a break in observation.
    fn fill_gap(&mut self, from: Window, until: Window) {
        if until.0.saturating_sub(from.0) > self.rules.max_gap_secs {
            return;
        }
        let first = Window(self.rules.end_secs(from)).max(self.bounds.held);
        self.open(WindowRange { from: first, until });
    }

    /// Opens the windows without a record that end while a live watermark moves: silence that is watched as it
    /// passes. Windows before the last seen one are gaps.
    fn open_passed(&mut self, watermark: u64) {
        let mut passed = passed(self.rules, self.watermark, watermark);
        let last = self.windows.last_seen().max(self.last_retired);
        if let Some(last) = last {
            passed.from = passed.from.max(Window(self.rules.end_secs(last)));
        }
        self.open(passed);
    }

    /// Moves the watermark, which closes and settles windows. `restored`: the least bounds, of a restored state.
    fn advance(&mut self, watermark: Slowest, slowest: Slowest, front: u64, restored: Bounds) {
        self.watermark = self.watermark.max(watermark.at);
        let before = self.bounds;
        self.bounds = before.max(self.rules.bounds(self.watermark)).max(restored);
        self.close();
        let crosses = self.bounds != before;
        // Rules of limits leave at the tick after the one in which the watermark passes their windows.
        if std::mem::replace(&mut self.crossed, crosses) || crosses {
            self.push_event(Phase::Close, WindowEvent::Bounds(self.bounds));
        }
        let reached = WindowEvent::EventTime {
            at: self.watermark,
            slowest: self.watermark.max(slowest.at),
            held_by: watermark.partition,
            slowest_in: slowest.partition,
            front: self.watermark.max(front),
            whole_from: self.whole_from,
            open: self.open,
        };
        self.push_event(Phase::Close, reached);
        // Gaps may open where windows have settled.
        let settled = WindowRange { from: Window(0), until: before.unsettled };
        for opened in std::mem::take(&mut self.opened) {
            let windows = opened.and(settled);
            if !windows.is_empty() {
                self.push_event(Phase::Close, WindowEvent::Settled(windows));
            }
        }
        let settles = WindowRange { from: before.unsettled, until: self.bounds.unsettled };
        let spans = self.windows.within(settles);
        let events = spans.map(|span| (Phase::Close, WindowEvent::Settled(span.windows)));
        self.events.extend(events);
    }

    /// Closes the windows that end at or before the watermark.
    fn close(&mut self) {
        let first = self.bounds.open;
        while let Some(span) = self.windows.first_open().copied()
            && span.windows.from < first
        {
            let windows = WindowRange { until: span.windows.until.min(first), ..span.windows };
            self.windows.remove_windows(windows, Phase::Close);
            self.windows.insert_windows(Existing { windows, closed: true, ..span }, Phase::Close);
            self.open -= self.count(windows);
            if span.whole {
                let judged = if span.seen { WindowEvent::Observed } else { WindowEvent::Silent };
                self.push_event(Phase::Close, judged(windows));
            }
        }
    }

    /// Retires the windows before `first`, which are past their retention by the watermark of the tick before.
    fn retire(&mut self, first: Window) {
        while let Some(span) = self.windows.first().copied()
            && span.windows.from < first
        {
            let windows = WindowRange { until: span.windows.until.min(first), ..span.windows };
            self.windows.remove_windows(windows, Phase::Retire);
            if span.seen {
                self.last_retired = self.last_retired.max(Some(windows.from));
            }
            self.push_event(Phase::Retire, WindowEvent::Retired(windows));
        }
    }

    /// Makes windows exist as they did at the end of an earlier computation. Each closes when the watermark passes it.
    fn restore(&mut self, span: Existing) {
        let Existing { windows, whole, .. } = span;
        self.windows.insert_windows(Existing { closed: false, ..span }, Phase::Data);
        self.open += self.count(windows);
        if !whole {
            self.push_event(Phase::Data, WindowEvent::Partial { windows, partial: true });
        }
    }

    /// Returns the state as marks that bring it about at one tick of another computation.
    fn save(&self) -> Vec<SourceProgress> {
        let ObservationStart { begun, unknown } = &self.observation_start;
        let unknown = unknown.iter();
        let mut marks = vec![
            SourceProgress::Rules(self.rules),
            SourceProgress::Begun(*begun),
            SourceProgress::Watermark(self.watermark),
            SourceProgress::Bounds(self.bounds),
        ];
        marks
            .extend(unknown.map(|&partition| SourceProgress::Truncated { partition, first: None }));
        marks.extend(
            self.partitions
                .all()
                .map(|(partition, progress)| SourceProgress::Partition { partition, progress }),
        );
        marks.extend(self.last_retired.map(SourceProgress::Retired));
        marks.extend(self.windows.within(WindowRange::ALL).map(SourceProgress::Existing));
        marks
    }

    /// Applies the marks of a tick. Returns the state of the clock if a mark asks for it.
    fn tick(&mut self, marks: Vec<SourceProgress>) -> Option<Vec<SourceProgress>> {
        let (before, held) = (self.watermark, self.bounds.held);
        let mut watermark = Slowest { at: before, partition: None };
        let mut slowest = Slowest { at: 0, partition: None };
        let (mut reading, mut front) = (None, 0);
        let mut restored = Bounds::default();
        let marks: BTreeSet<SourceProgress> = marks.into_iter().collect();
        for mark in &marks {
            match *mark {
                SourceProgress::Rules(rules) => {
                    self.rules = Windows { width_secs: self.rules.width_secs, ..rules }
                }
                SourceProgress::Begun(at) => {
                    self.observation_start.begun = self.observation_start.begun.max(at)
                }
                SourceProgress::Truncated { partition, first } => {
                    self.observation_start.truncated(partition, first)
                }
                _ => {}
            }
        }
        self.update_whole();
        let mut saves = false;
        for mark in marks {
            match mark {
                SourceProgress::Rules(_)
                | SourceProgress::Begun(_)
                | SourceProgress::Truncated { .. }
                | SourceProgress::ReadTo { .. } => {}
                SourceProgress::Existing(span) => self.restore(span),
                SourceProgress::Retired(window) => {
                    self.last_retired = self.last_retired.max(Some(window));
                }
                SourceProgress::Bounds(bounds) => restored = restored.max(bounds),
                SourceProgress::Save => saves = true,
                SourceProgress::Seen(window) => self.mark_seen(window),
                SourceProgress::Watermark(mark) => watermark.at = watermark.at.max(mark),
                SourceProgress::Partition { partition, progress } => {
                    self.partitions.set(partition, progress)
                }
                SourceProgress::Now { now, silence } => {
                    reading = Some(ClockReading { now, silence })
                }
            }
        }
        if let Some(reading) = reading {
            watermark = self.partitions.watermark(reading, before);
            slowest = self.partitions.slowest(reading);
            front = self.partitions.front(reading);
            self.open_passed(watermark.at);
        }
        self.advance(watermark, slowest, front, restored);
        self.retire(held);
        saves.then(|| self.save())
    }
}

/// The outputs of [`clock`].
pub struct ClockStreams<'scope> {
    /// The windows that exist, silent ones by ranges.
    pub windows: VecCollection<'scope, Time, Existing, isize>,
    /// The events of their life.
    pub events: StreamVec<'scope, Time, Timed<WindowEvent>>,
    /// The marks of each tick, each once.
    pub marks: StreamVec<'scope, Time, Timed<SourceProgress>>,
    /// The state at the ticks that [ask for it](SourceProgress::Save), as marks that bring it about.
    pub states: StreamVec<'scope, Time, Timed<Vec<SourceProgress>>>,
}

/// The windows that exist, and the events of their life.
///
/// # In
/// `marks`: from every worker the windows in which its records fall and the progress of its partitions, and from
/// one worker the watermark or the clock, each at [`Phase::Data`] of its tick. A tick has no more than one mark of
/// the progress of a partition.
///
/// # Time
/// Complete for a tick when all marks of the tick are. A mark for a window that the watermark of the
/// tick before has settled is ignored, as the record behind it is.
///
/// # Out
/// All on one worker. A window opens at
/// [`Phase::Data`], closes and settles at [`Phase::Close`], and leaves at [`Phase::Retire`], each once and in this
/// order; that of a late record is closed when it opens. Broadcast them; nothing else decides about windows.
///
/// # Keeps
/// The seen windows that are not retired, and the ranges of silent ones between them.
pub fn clock<'scope>(
    marks: StreamVec<'scope, Time, Timed<SourceProgress>>,
    rules: Windows,
) -> ClockStreams<'scope> {
    let mut wiring = Wiring::new("Clock", marks.scope());
    wiring.input(marks, Exchange::new(|_| 0), |place: &mut Place<'_, Vec<_>>, (mark, time)| {
        place.at(time).push(mark);
    });
    let windows = wiring.output(|state: &mut ClockState| &mut state.windows);
    let events = wiring.output(|state| &mut state.events);
    let applied = wiring.output(|state| &mut state.applied);
    let states = wiring.output(|state| &mut state.saved);
    let state = ClockState {
        held: WindowState::new(rules),
        windows: Vec::new(),
        events: Vec::new(),
        applied: Vec::new(),
        saved: Vec::new(),
    };
    wiring.build(state, |state, Time { tick, .. }, marks: Vec<_>| {
        let ClockState { held, windows, events, applied, saved } = state;
        let at = Time::new(tick, Phase::Data);
        applied.extend(marks.iter().map(|mark| (*mark, at)));
        saved.extend(held.tick(marks).map(|marks| (marks, at)));
        let changes = held.windows.take_changes().into_iter();
        let updates =
            changes.map(|((existing, phase), diff)| (existing, Time::new(tick, phase), diff));
        windows.extend(updates);
        events.extend(held.events.drain(..).map(|(phase, event)| (event, Time::new(tick, phase))));
    });
    ClockStreams { windows: windows.as_collection(), events, marks: applied, states }
}

/// The windows that are held, and the outputs about them that are not sent.
struct ClockState {
    held: WindowState,
    windows: Vec<(Existing, Time, isize)>,
    events: Vec<Timed<WindowEvent>>,
    applied: Vec<Timed<SourceProgress>>,
    saved: Vec<Timed<Vec<SourceProgress>>>,
}
