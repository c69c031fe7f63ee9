//! Values that change from one range of windows to the next.

use std::collections::BTreeMap;
use std::ops::Bound::Excluded;

use crate::time::{Window, WindowRange};

/// A value for every window: the default before the first step, and from each step on its value.
///
/// As few steps as there can be: no two neighbours have one value, so two of them are equal if they
/// have equal values everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Steps<V> {
    steps: BTreeMap<Window, V>,
}

impl<V: Copy + Default + PartialEq> Steps<V> {
    /// The value of a window.
    #[inline]
    pub(crate) fn at(&self, window: Window) -> V {
        self.steps.range(..=window).next_back().map(|(_, value)| *value).unwrap_or_default()
    }

    /// The value of the windows just before one.
    fn before(&self, window: Window) -> V {
        self.steps.range(..window).next_back().map(|(_, value)| *value).unwrap_or_default()
    }

    /// Whether every window has the default.
    pub(crate) fn is_default(&self) -> bool {
        self.steps.is_empty()
    }

    /// The pieces of a range that is not empty, each with its value, in order.
    pub(crate) fn pieces(&self, range: WindowRange) -> impl Iterator<Item = (WindowRange, V)> {
        let inner = (Excluded(range.from), Excluded(range.until));
        let inner = self.steps.range(inner).map(|(from, value)| (*from, *value));
        let mut starts = std::iter::once((range.from, self.at(range.from))).chain(inner).peekable();
        std::iter::from_fn(move || {
            let (from, value) = starts.next()?;
            let until = starts.peek().map_or(range.until, |(next, _)| *next);
            Some((WindowRange { from, until }, value))
        })
    }

    /// The ranges whose value is not the default, each with its value.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (WindowRange, V)> {
        self.pieces(WindowRange::ALL).filter(|(_, value)| *value != V::default())
    }

    /// Changes the values of a range, and passes to `changed` each piece of it whose value differs now, with the
    /// value before and after.
    pub(crate) fn update(
        &mut self,
        range: WindowRange,
        new: impl Fn(V) -> V,
        mut changed: impl FnMut(WindowRange, V, V),
    ) {
        if range.is_empty() {
            return;
        }
        let pieces: Vec<_> = self.pieces(range).collect();
        let beyond = self.at(range.until);
        let mut last = self.before(range.from);
        for (piece, old) in pieces {
            let new = new(old);
            if new != old {
                changed(piece, old, new);
            }
            self.step(piece.from, last, new);
            last = new;
        }
        if range.until != WindowRange::ALL.until {
            self.step(range.until, last, beyond);
        }
    }

    /// Changes the values of a range.
    pub(crate) fn change(&mut self, range: WindowRange, new: impl Fn(V) -> V) {
        self.update(range, new, |_, _, _| {});
    }

    /// Makes `value` that of the windows from one on, given that of those just before.
    fn step(&mut self, from: Window, before: V, value: V) {
        match before == value {
            true => self.steps.remove(&from),
            false => self.steps.insert(from, value),
        };
    }
}

/// Windows, as ranges.
#[derive(Clone, Debug, Default)]
pub(crate) struct WindowSet(Steps<bool>);

impl WindowSet {
    /// Whether a window is in the set.
    #[inline]
    pub(crate) fn contains(&self, window: Window) -> bool {
        self.0.at(window)
    }

    /// Adds windows to the set.
    pub(crate) fn insert(&mut self, windows: WindowRange) {
        self.0.change(windows, |_| true);
    }

    /// Removes windows from the set.
    pub(crate) fn remove(&mut self, windows: WindowRange) {
        self.0.change(windows, |_| false);
    }

    /// The pieces of a range that is not empty, each with whether it is in the set.
    pub(crate) fn pieces(&self, windows: WindowRange) -> impl Iterator<Item = (WindowRange, bool)> {
        self.0.pieces(windows)
    }

    /// The ranges of the set within a range.
    pub(crate) fn within(&self, windows: WindowRange) -> impl Iterator<Item = WindowRange> {
        let pieces = (!windows.is_empty()).then(|| self.0.pieces(windows));
        pieces.into_iter().flatten().filter(|(_, is_in)| *is_in).map(|(range, _)| range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: u64, until: u64) -> WindowRange {
        WindowRange { from: Window(from), until: Window(until) }
    }

    #[test]
    fn steps_equal_values_set_window_by_window() {
        let mut state = 11u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let mut steps = Steps::<i8>::default();
            let mut model = [0i8; 12];
            for _ in 0..12 {
                let from = random(12);
                let until = match random(4) {
                    0 => u64::MAX,
                    _ => from + random(6),
                };
                let by = random(3) as i8 - 1;
                let mut changed = Vec::new();
                steps.update(
                    range(from, until),
                    |old| old + by,
                    |piece, old, new| {
                        changed.push((piece, old, new));
                    },
                );
                for (window, held) in (0..).zip(&mut model) {
                    let piece = changed.iter().find(|(piece, ..)| piece.contains(Window(window)));
                    let expected = (from..until).contains(&window) && by != 0;
                    assert_eq!(
                        piece.map(|changed| (changed.1, changed.2)),
                        expected.then_some((*held, *held + by))
                    );
                    *held += if (from..until).contains(&window) { by } else { 0 };
                    assert_eq!(steps.at(Window(window)), *held);
                }
                let values: Vec<i8> = steps.steps.values().copied().collect();
                assert!(values.windows(2).all(|two| two[0] != two[1]), "{values:?}");
                assert_eq!(steps.is_default(), steps.ranges().next().is_none());
                let pieces: Vec<_> = steps.pieces(range(3, 9)).collect();
                assert_eq!(
                    (pieces[0].0.from, pieces[pieces.len() - 1].0.until),
                    (Window(3), Window(9))
                );
                for (piece, value) in pieces {
                    assert!((piece.from.0..piece.until.0).all(|at| model[at as usize] == value));
                }
            }
        }
    }
}
