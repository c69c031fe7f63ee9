//! The rollups that limits and views need, and in which windows.

use std::collections::BTreeMap;

use crate::control::ControlEvent;
use crate::monitored::{EmitBoundChange, Rollup, ScopeChange};
use crate::ranges::Steps;
use crate::time::{Window, WindowRange};

/// Rollups that limits and views need, with the windows in which they do.
#[derive(Default)]
pub(crate) struct InUse {
    /// The number of monitored scopes and views that need it, by window.
    users: BTreeMap<Rollup, Steps<u32>>,
}

/// A rollup comes into use in some windows, or out of it.
#[derive(Clone, Copy)]
pub(crate) enum Use {
    Begins(WindowRange, Rollup),
    Ends(WindowRange, Rollup),
}

impl InUse {
    /// Whether a limit or a view needs a rollup of a window.
    pub(crate) fn uses(&self, window: Window, rollup: Rollup) -> bool {
        self.users.get(&rollup).is_some_and(|users| users.at(window) > 0)
    }

    /// The windows in which a limit or a view needs a rollup, as ranges that do not touch.
    pub(crate) fn windows(&self, rollup: &Rollup) -> Vec<WindowRange> {
        let mut ranges = Vec::<WindowRange>::new();
        for (range, _) in self.users.get(rollup).into_iter().flat_map(Steps::ranges) {
            match ranges.last_mut() {
                Some(last) if last.until == range.from => last.until = range.until,
                _ => ranges.push(range),
            }
        }
        ranges
    }

    /// Applies the changes of emit bounds, and the control events, of a time, and returns the uses that begin and end.
    pub(crate) fn update(
        &mut self,
        monitored_scopes: &[ScopeChange],
        control_events: &[ControlEvent],
    ) -> Vec<Use> {
        let of_bounds = monitored_scopes.iter().filter_map(|change| {
            let ScopeChange::EmitBound(EmitBoundChange { ref scope, windows, from, to, .. }) =
                *change
            else {
                return None;
            };
            let diff = i32::from(to.is_some()) - i32::from(from.is_some());
            Some((windows, Rollup::of(scope)?, diff))
        });
        let of_views = control_events.iter().filter_map(|control_event| match control_event {
            ControlEvent::View(rollup, diff) => Some((WindowRange::ALL, *rollup, *diff as i32)),
            ControlEvent::WindowEvent(_) | ControlEvent::Read(..) => None,
        });
        let of_both = of_bounds.chain(of_views);
        let mut uses = Vec::new();
        // Beginnings are counted before ends, so that a rollup that goes from one user to another is
        // in use throughout.
        for sign in [1, -1] {
            for (windows, rollup, diff) in
                of_both.clone().filter(|(.., diff)| diff.signum() == sign)
            {
                self.count(windows, rollup, diff, &mut uses);
            }
        }
        uses
    }

    fn count(&mut self, windows: WindowRange, rollup: Rollup, diff: i32, uses: &mut Vec<Use>) {
        let users = self.users.entry(rollup).or_default();
        let add = |users: u32| users.saturating_add_signed(diff);
        users.update(windows, add, |piece, old, new| match (old, new) {
            (0, _) => uses.push(Use::Begins(piece, rollup)),
            (_, 0) => uses.push(Use::Ends(piece, rollup)),
            _ => {}
        });
        if users.is_default() {
            self.users.remove(&rollup);
        }
    }
}
