//! The windows that exist, with neighbours that are alike merged into one span.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use serde::{Deserialize, Serialize};

use crate::time::{Phase, Window, WindowRange};

/// Windows that exist, and are alike: a seen one, or any number of silent ones next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Existing {
    /// The windows.
    pub windows: WindowRange,
    /// Whether the window has a record of its own. A silent window lies between two windows that do, not too far
    /// apart, or ended while a live watermark moved past it.
    pub seen: bool,
    /// Whether their ends are at or before the watermark.
    pub closed: bool,
    /// Whether they were observed from their starts on. Lower bounds do not judge a part of a window. A
    /// window that has closed stays what it is.
    pub whole: bool,
}

/// Windows that exist, by their starts: a seen window is a span of its own, silent windows that touch and are
/// alike form one span. A silence of any length costs the same.
#[derive(Default)]
pub(crate) struct Spans {
    spans: BTreeMap<Window, Existing>,
    seen: BTreeSet<Window>,
    /// The starts of spans that have not closed.
    open: BTreeSet<Window>,
    /// The changes of the spans since the last [`Spans::take_changes`].
    changes: Vec<((Existing, Phase), isize)>,
}

impl Spans {
    /// The span of a window.
    pub(crate) fn get(&self, window: Window) -> Option<&Existing> {
        let (_, span) = self.spans.range(..=window).next_back()?;
        span.windows.contains(window).then_some(span)
    }

    /// The first span.
    pub(crate) fn first(&self) -> Option<&Existing> {
        self.spans.first_key_value().map(|(_, span)| span)
    }

    /// The first span that has not closed.
    pub(crate) fn first_open(&self) -> Option<&Existing> {
        self.spans.get(self.open.first()?)
    }

    /// The spans that have not closed.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Existing> {
        self.open.iter().filter_map(|start| self.spans.get(start))
    }

    /// The seen windows next to a window on either side.
    pub(crate) fn seen_around(&self, window: Window) -> (Option<Window>, Option<Window>) {
        let before = self.seen.range(..window).next_back();
        let after = self.seen.range((Excluded(window), Unbounded)).next();
        (before.copied(), after.copied())
    }

    /// The last seen window.
    pub(crate) fn last_seen(&self) -> Option<Window> {
        self.seen.last().copied()
    }

    /// The parts of spans that are within a range, in order.
    pub(crate) fn within(&self, range: WindowRange) -> impl Iterator<Item = Existing> {
        let first = self.get(range.from).map_or(range.from, |span| span.windows.from);
        let spans = self.spans.range(first..range.until.max(first));
        spans.map(move |(_, span)| Existing { windows: span.windows.and(range), ..*span })
    }

    /// The parts of a range of which no window exists.
    pub(crate) fn missing(&self, range: WindowRange) -> Vec<WindowRange> {
        let mut missing = Vec::new();
        let mut from = range.from;
        for span in self.within(range) {
            missing.push(WindowRange { from, until: span.windows.from });
            from = span.windows.until;
        }
        missing.push(WindowRange { from, until: range.until });
        missing.retain(|part| !part.is_empty());
        missing
    }

    /// Inserts windows none of which exists.
    pub(crate) fn insert_windows(&mut self, mut span: Existing, phase: Phase) {
        let alike = |other: &Existing| {
            (other.seen, other.closed, other.whole) == (false, span.closed, span.whole)
        };
        if !span.seen {
            let before = self.spans.range(..span.windows.from).next_back().map(|(_, span)| *span);
            let after = self.spans.get(&span.windows.until).copied();
            let before = before.filter(|before| before.windows.until == span.windows.from);
            for neighbour in before.into_iter().chain(after).filter(alike) {
                self.remove(&neighbour, phase);
                span.windows.from = span.windows.from.min(neighbour.windows.from);
                span.windows.until = span.windows.until.max(neighbour.windows.until);
            }
        }
        self.insert(span, phase);
    }

    /// Removes the windows of a range.
    pub(crate) fn remove_windows(&mut self, range: WindowRange, phase: Phase) {
        let parts: Vec<Existing> = self.within(range).collect();
        for part in parts {
            let Some(span) = self.get(part.windows.from).copied() else {
                continue;
            };
            self.remove(&span, phase);
            let WindowRange { from, until } = span.windows;
            let rest = [
                WindowRange { from, until: part.windows.from },
                WindowRange { from: part.windows.until, until },
            ];
            for windows in rest.into_iter().filter(|rest| !rest.is_empty()) {
                self.insert(Existing { windows, ..span }, phase);
            }
        }
    }

    fn insert(&mut self, span: Existing, phase: Phase) {
        let start = span.windows.from;
        self.spans.insert(start, span);
        if span.seen {
            self.seen.insert(start);
        }
        if !span.closed {
            self.open.insert(start);
        }
        self.changes.push(((span, phase), 1));
    }

    fn remove(&mut self, span: &Existing, phase: Phase) {
        let start = span.windows.from;
        self.spans.remove(&start);
        self.seen.remove(&start);
        self.open.remove(&start);
        self.changes.push(((*span, phase), -1));
    }

    /// Removes and returns the changes of the spans since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<((Existing, Phase), isize)> {
        let mut changes = std::mem::take(&mut self.changes);
        differential_dataflow::consolidation::consolidate(&mut changes);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = 24;

    /// Compares spans with a map of single windows, for any order of insertions and removals.
    #[test]
    fn spans_equal_a_map_of_single_windows() {
        let mut state = 5u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..300 {
            let mut spans = Spans::default();
            let mut model = BTreeMap::<u64, (bool, bool, bool)>::new();
            let mut collected = BTreeMap::<Existing, isize>::new();
            for _ in 0..20 {
                let from = random(END);
                let seen = random(3) == 0;
                let until = if seen { from + 1 } else { (from + 1 + random(8)).min(END) };
                let windows = WindowRange { from: Window(from), until: Window(until) };
                spans.remove_windows(windows, Phase::Data);
                model.retain(|window, _| !(from..until).contains(window));
                if random(4) > 0 {
                    let (closed, whole) = (random(2) == 0, random(2) == 0);
                    let missing = spans.missing(windows);
                    assert_eq!(missing, [windows]);
                    spans.insert_windows(Existing { windows, seen, closed, whole }, Phase::Data);
                    model.extend((from..until).map(|window| (window, (seen, closed, whole))));
                }
                for ((span, _), diff) in spans.take_changes() {
                    *collected.entry(span).or_default() += diff;
                }
                collected.retain(|_, diff| *diff != 0);
                assert!(collected.values().all(|diff| *diff == 1));
                assert!(collected.keys().eq(spans.spans.values().collect::<BTreeSet<_>>()));
                let flags = |span: &Existing| (span.seen, span.closed, span.whole);
                for window in 0..END {
                    let held = spans.get(Window(window)).map(flags);
                    assert_eq!(held, model.get(&window).copied());
                }
                let ordered: Vec<&Existing> = spans.spans.values().collect();
                for two in ordered.windows(2) {
                    let touch = two[0].windows.until == two[1].windows.from;
                    let alike = flags(two[0]) == flags(two[1]) && !two[0].seen;
                    assert!(!(touch && alike), "{two:?}");
                }
                let all = WindowRange { from: Window(0), until: Window(END) };
                let missing = spans.missing(all);
                let is_missing =
                    |window: u64| missing.iter().any(|part| part.contains(Window(window)));
                assert!((0..END).all(|window| is_missing(window) != model.contains_key(&window)));
                let open: Vec<Window> = spans.open().map(|span| span.windows.from).collect();
                assert!(open.iter().all(|start| !model[&start.0].1));
            }
        }
    }
}
