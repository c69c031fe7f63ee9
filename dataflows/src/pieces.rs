//! The pieces of the range of amounts in which changed thresholds change the output of the threshold join.

use crate::threshold::Threshold;
use crate::types::Bound;

/// Amounts in `[from, until)` gain `diff` times their multiplicity at `time`.
pub(crate) struct Piece<L, T> {
    from: i64,
    /// `None`: up to the greatest amount, inclusive.
    until: Option<i64>,
    pub(crate) limit: L,
    pub(crate) time: T,
    pub(crate) diff: isize,
}

/// A threshold with one of its changes.
pub(crate) type ThresholdChange<L, T> = (Threshold<L>, T, isize);

/// The place that is swept.
pub(crate) struct SweptPlace<L, T> {
    pub(crate) place: Option<u64>,
    /// The thresholds that hold for it.
    thresholds: Vec<ThresholdChange<L, T>>,
    /// Their pieces, in the order of the amounts from which on they cover.
    pieces: Vec<Piece<L, T>>,
    /// The number of pieces that have been reached.
    reached: usize,
    /// The reached pieces that cover the current amount.
    active: Vec<usize>,
}

impl<L, T> Default for SweptPlace<L, T> {
    fn default() -> Self {
        let (thresholds, pieces, active) = (Vec::new(), Vec::new(), Vec::new());
        SweptPlace { place: None, thresholds, pieces, reached: 0, active }
    }
}

impl<L: Ord + Copy, T: Ord + Clone> SweptPlace<L, T> {
    /// Moves to a later place; `ahead` are thresholds by the starts of their ranges, the next one last.
    pub(crate) fn move_to(&mut self, place: u64, ahead: &mut Vec<ThresholdChange<L, T>>) {
        let before = self.thresholds.len();
        self.thresholds.retain(|(threshold, ..)| place < threshold.until);
        let mut changed = self.thresholds.len() < before;
        while let Some(next) = ahead.pop_if(|(threshold, ..)| threshold.from <= place) {
            if place < next.0.until {
                self.thresholds.push(next);
                changed = true;
            }
        }
        if changed {
            let mut steps = StepChanges::default();
            for (threshold, time, diff) in &self.thresholds {
                steps.add(*threshold, time.clone(), *diff);
            }
            self.pieces = steps.into_pieces();
            self.pieces.sort_unstable_by_key(|piece| piece.from);
        }
        (self.place, self.reached) = (Some(place), 0);
        self.active.clear();
    }

    /// The next place that may have other pieces; `None`: there is none.
    pub(crate) fn next_change(&self, ahead: &[ThresholdChange<L, T>]) -> Option<u64> {
        let ends = self.thresholds.iter().map(|(threshold, ..)| threshold.until);
        let starts = ahead.last().map(|(threshold, ..)| threshold.from);
        ends.chain(starts).min().filter(|place| *place < u64::MAX)
    }

    /// Moves to an amount of the place.
    pub(crate) fn reach(&mut self, amount: i64) {
        let SweptPlace { pieces, reached, active, .. } = self;
        while pieces.get(*reached).is_some_and(|piece| piece.from <= amount) {
            active.push(*reached);
            *reached += 1;
        }
        active.retain(|piece| pieces[*piece].until.is_none_or(|until| amount < until));
    }

    /// Whether any amount of the place is covered by a piece.
    pub(crate) fn is_covered(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// The pieces that cover the amount reached.
    pub(crate) fn active(&self) -> impl Iterator<Item = &Piece<L, T>> {
        self.active.iter().map(|piece| &self.pieces[*piece])
    }

    /// The least amount beyond the one reached that a piece begins to cover.
    pub(crate) fn next_amount(&self) -> Option<i64> {
        self.pieces.get(self.reached).map(|piece| piece.from)
    }
}

/// The step functions of a key's thresholds, by limit and time.
struct StepChanges<L, T> {
    steps: Vec<((L, T, i64), isize)>,
}

impl<L, T> Default for StepChanges<L, T> {
    fn default() -> Self {
        StepChanges { steps: Vec::new() }
    }
}

impl<L: Ord + Copy, T: Ord + Clone> StepChanges<L, T> {
    fn add(&mut self, threshold: Threshold<L>, time: T, diff: isize) {
        let Threshold { limit, bound, value, .. } = threshold;
        match bound {
            // Nothing is over the greatest amount.
            Bound::Max => {
                if let Some(from) = value.checked_add(1) {
                    self.steps.push(((limit, time, from), diff));
                }
            }
            Bound::Min => {
                self.steps.push(((limit, time.clone(), i64::MIN), diff));
                self.steps.push(((limit, time, value), -diff));
            }
        }
    }

    fn into_pieces(mut self) -> Vec<Piece<L, T>> {
        differential_dataflow::consolidation::consolidate(&mut self.steps);
        let mut pieces: Vec<Piece<L, T>> = Vec::new();
        let mut height = 0;
        let mut steps = self.steps.into_iter().peekable();
        while let Some(((limit, time, from), diff)) = steps.next() {
            height += diff;
            let same = |other: &((L, T, i64), isize)| other.0.0 == limit && other.0.1 == time;
            let until = steps.peek().filter(|next| same(next)).map(|next| next.0.2);
            if height != 0 {
                pieces.push(Piece { from, until, limit, time, diff: height });
            }
            if until.is_none() {
                height = 0;
            }
        }
        pieces
    }
}
