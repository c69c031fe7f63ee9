//! Strays: packets or records with a time far ahead of the next one, from a wrong clock or a damaged timestamp. A
//! single stray would move the clock of a whole replay.
//!
//! A record that moves the clock of its part of the input by more than the bound is held until the next record arrives.
//! If the held record is ahead of the next one by more than the bound, it is a stray and is dropped; else the next
//! record confirms the jump, and the held record is accepted. The last record of a part is accepted: no later record is
//! left to suffer from its time, and a part may well have a single record, or one record after days of silence.
//!
//! The clock of a part is the second-greatest accepted time, so that the record that confirms a jump is held, too: of
//! two strays in a row, the record after them drops the second one. Until two records are accepted, the first one is
//! the clock, so that a record that closely follows the first one is not held. A record of a pipe therefore waits for
//! the next one only after a jump.

use std::collections::VecDeque;

/// A packet or a record.
pub trait Timed: Copy {
    /// Returns its event time in milliseconds.
    fn time_ms(&self) -> u64;
}

/// Decides which records of one part of the input are strays.
pub struct StrayFilter<T> {
    max_ahead_ms: u64,
    /// The greatest time of an accepted record.
    greatest: u64,
    /// The clock of the part: the second-greatest time of an accepted record.
    clock: u64,
    /// Records before this time are accepted at once; 0 while one is held.
    gate: u64,
    held: Option<Held<T>>,
    /// Accepted records that were held or came right after a held one; at most two.
    ready: VecDeque<T>,
}

#[derive(Clone, Copy)]
struct Held<T> {
    record: T,
    position: u64,
}

/// A record far ahead of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stray<T> {
    /// The record.
    pub record: T,
    /// Its position in its part, such as the number of its frame.
    pub position: u64,
}

impl<T: Timed> StrayFilter<T> {
    /// Creates a filter that accepts every record.
    pub fn disabled() -> Self {
        // No time is later than this clock, so that it never moves.
        StrayFilter { clock: u64::MAX, gate: u64::MAX, ..StrayFilter::new(u64::MAX) }
    }

    /// Creates a filter with this bound on how far a record may be ahead of the next one.
    pub fn new(max_ahead_ms: u64) -> Self {
        let mut strays = StrayFilter {
            max_ahead_ms,
            greatest: 0,
            clock: 0,
            gate: 0,
            held: None,
            ready: VecDeque::new(),
        };
        strays.update_gate();
        strays
    }

    /// Returns the bound.
    pub fn max_ahead_ms(&self) -> u64 {
        self.max_ahead_ms
    }

    /// Accepts a record of this time at once if it can. Returns false for one that [`StrayFilter::examine`] must decide
    /// on.
    #[inline(always)]
    pub fn try_accept(&mut self, time_ms: u64) -> bool {
        if time_ms >= self.gate {
            return false;
        }
        // No branch: a processor can hardly predict whether a record is later than all but one before it.
        self.advance_clock(time_ms);
        true
    }

    #[inline(always)]
    fn advance_clock(&mut self, time_ms: u64) {
        self.clock = self.clock.max(time_ms.min(self.greatest));
        self.greatest = self.greatest.max(time_ms);
        self.update_gate();
    }

    #[inline(always)]
    fn update_gate(&mut self) {
        self.gate = self.clock.saturating_add(self.max_ahead_ms).saturating_add(1);
    }

    /// Decides on the held record by the next one, and returns the held record if it is a stray. The next record is
    /// held in its place, or becomes ready.
    #[cold]
    pub fn examine(&mut self, record: T, position: u64) -> Option<Stray<T>> {
        let held = self.held.take();
        let time_ms = record.time_ms();
        let bound = time_ms.saturating_add(self.max_ahead_ms);
        let stray = held.filter(|held| held.record.time_ms() > bound);
        if let (Some(Held { record, .. }), None) = (held, stray) {
            self.confirm(record);
        }
        if time_ms > self.clock.saturating_add(self.max_ahead_ms) {
            self.held = Some(Held { record, position });
            self.gate = 0;
        } else {
            self.confirm(record);
        }
        stray.map(|Held { record, position }| Stray { record, position })
    }

    /// Accepts the held record, if any, when no next one arrived.
    pub fn release(&mut self) {
        if let Some(Held { record, .. }) = self.held.take() {
            self.confirm(record);
        }
    }

    fn confirm(&mut self, record: T) {
        if self.greatest == 0 {
            self.greatest = record.time_ms();
        }
        self.advance_clock(record.time_ms());
        self.ready.push_back(record);
    }

    /// Whether a record is held or ready.
    #[inline]
    pub fn has_records(&self) -> bool {
        self.held.is_some() || !self.ready.is_empty()
    }

    /// Whether a record is held.
    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Returns the next accepted record that was held or came right after a held one.
    pub fn next_ready(&mut self) -> Option<T> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    /// A record with nothing but its time.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct At(u64);

    impl Timed for At {
        fn time_ms(&self) -> u64 {
            self.0
        }
    }

    /// Filters records of these days, and returns the days of the accepted ones in order.
    fn accepted(days: &[u64]) -> Vec<u64> {
        let mut strays = StrayFilter::new(DAY);
        let (mut all, mut dropped) = (Vec::new(), 0);
        for (position, day) in days.iter().enumerate() {
            let record = At(day * DAY);
            if strays.try_accept(record.0) {
                assert!(strays.next_ready().is_none(), "records keep their order");
                all.push(*day);
                continue;
            }
            dropped += usize::from(strays.examine(record, position as u64 + 1).is_some());
            all.extend(std::iter::from_fn(|| strays.next_ready()).map(|record| record.0 / DAY));
        }
        strays.release();
        all.extend(std::iter::from_fn(|| strays.next_ready()).map(|record| record.0 / DAY));
        assert_eq!(all.len() + dropped, days.len());
        all
    }

    #[test]
    fn stray_before_another_record_is_dropped() {
        assert_eq!(accepted(&[900, 100, 100, 100]), [100, 100, 100]);
        assert_eq!(accepted(&[100, 900, 100, 100]), [100, 100, 100]);
        assert_eq!(accepted(&[100, 100, 900, 100]), [100, 100, 100]);
        assert_eq!(accepted(&[100, 100, 900, 101, 800, 101, 700, 102]), [100, 100, 101, 101, 102]);
    }

    #[test]
    fn last_record_is_accepted() {
        assert_eq!(accepted(&[900]), [900]);
        assert_eq!(accepted(&[100, 100, 900]), [100, 100, 900]);
    }

    #[test]
    fn second_of_two_strays_is_dropped_and_the_first_if_far_ahead_of_the_second() {
        assert_eq!(accepted(&[100, 100, 900, 900, 100]), [100, 100, 900, 100]);
        assert_eq!(accepted(&[100, 100, 900, 950, 100]), [100, 100, 900, 100]);
        assert_eq!(accepted(&[100, 100, 950, 900, 100]), [100, 100, 100]);
        assert_eq!(accepted(&[950, 900, 100]), [100]);
        // Two strays in a row leave the clock unchanged.
        assert_eq!(accepted(&[100, 100, 900, 900, 100, 900, 100]), [100, 100, 900, 100, 100]);
    }

    #[test]
    fn jump_confirmed_by_the_next_record_is_accepted() {
        let days = [100, 100, 900, 900, 901, 901, 100, 902];
        assert_eq!(accepted(&days), days);
        let ascending: Vec<u64> = (1..50).map(|day| day * 3).collect();
        assert_eq!(accepted(&ascending), ascending);
    }

    #[test]
    fn records_exactly_the_bound_apart_are_accepted() {
        let descending: Vec<u64> = (1..50).rev().collect();
        assert_eq!(accepted(&descending), descending);
        let two_days_each: Vec<u64> = (1..50).rev().map(|day| day * 2).collect();
        assert_eq!(accepted(&two_days_each), [2]);
    }

    #[test]
    fn record_of_the_past_makes_no_stray_of_records_before_it() {
        let days = [100, 100, 101, 0, 101, 101, 0, 101];
        assert_eq!(accepted(&days), days);
    }

    #[test]
    fn filter_holds_one_record_with_a_bound_and_none_without() {
        let mut strays = StrayFilter::<At>::disabled();
        assert!(strays.try_accept(0) && strays.try_accept(u64::MAX - 1) && strays.try_accept(5));
        let mut strays = StrayFilter::new(DAY);
        assert!(!strays.try_accept(100 * DAY));
        assert_eq!(strays.examine(At(100 * DAY), 1), None);
        assert!(strays.is_holding() && strays.next_ready().is_none());
        // Even a record of time 0 waits until the held record is decided.
        assert!(!strays.try_accept(0));
        let stray = strays.examine(At(0), 2).expect("the first one is a stray");
        assert_eq!((stray.position, stray.record), (1, At(100 * DAY)));
        assert_eq!(strays.next_ready(), Some(At(0)));
        assert!(!strays.is_holding() && strays.try_accept(5));
        // Only `examine` decides on the greatest possible time, under any bound.
        assert_eq!(strays.examine(At(u64::MAX), 4), None);
        strays.release();
        assert_eq!(strays.next_ready(), Some(At(u64::MAX)));
        let mut strays = StrayFilter::new(u64::MAX);
        assert_eq!(strays.examine(At(u64::MAX), 1), None);
        assert_eq!(strays.next_ready(), Some(At(u64::MAX)));
    }
}
