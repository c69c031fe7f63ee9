//! The course of one violation through a tick.

use super::judged::Step;
use crate::monitored::{MonitoredScope, Total};
use crate::time::Phase;

/// The course of one violation through the phases of a tick.
pub(super) struct Transition {
    /// The state after the last phase.
    pub(super) after: Option<(MonitoredScope, Total)>,
    /// The first phase that raised or cleared the violation; `None`: no phase did.
    pub(super) turned: Option<Phase>,
    /// The state before that phase.
    pub(super) before_turn: Option<(MonitoredScope, Total)>,
}

impl Transition {
    /// Goes through all updates of a violation, which are in the order of their phases. `now` is a buffer.
    pub(super) fn through(
        before: Option<(MonitoredScope, Total)>,
        steps: &[Step],
        now: &mut Vec<((MonitoredScope, Total), isize)>,
    ) -> Self {
        now.clear();
        now.extend(before.map(|judged| (judged, 1)));
        let mut transition = Transition { after: before, turned: None, before_turn: None };
        for steps in steps.chunk_by(|a, b| a.phase == b.phase) {
            let stood = transition.after;
            now.extend(steps.iter().map(Step::update));
            differential_dataflow::consolidation::consolidate(now);
            transition.after = now.first().map(|(judged, _)| *judged);
            if transition.turned.is_none() && stood.is_some() != transition.after.is_some() {
                (transition.turned, transition.before_turn) = (Some(steps[0].phase), stood);
            }
        }
        transition
    }
}
