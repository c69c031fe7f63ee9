//! Ticks in flight, and the rounds in which workers agree on them.
//!
//! Agreement on the progress costs the same for one tick and for many, so ticks that are ready together form a round.
//! While rounds are in flight, the next one grows: ticks that end one by one would otherwise each be a round. In a
//! replay, where nobody waits for a single tick, a round waits a little for more ticks.
//!
//! A round must have the same ticks on all workers, so one of them, the leader, ends it for all. An operator holds
//! the time of a round until it is done with all of the round's ticks: two workers with different rounds, each of which
//! waits for the end of one before it ends the next, would wait for each other for ever.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Maximum number of ticks, and of updates, in flight.
const TICKS_IN_FLIGHT: usize = 1024;
const UPDATES_IN_FLIGHT: usize = 200_000;

/// Number of ticks, and of updates, from which on a round is full: workers wait for a round as a whole.
const ROUND_TICKS: usize = 256;
const ROUND_UPDATES: usize = 1 << 16;

/// Maximum number of rounds in flight: with two, workers have the next one as soon as they have completed one.
const ROUNDS_IN_FLIGHT: usize = 2;

/// Ticks that have ended and are not complete.
#[derive(Default)]
pub(super) struct Rounds {
    /// With the number of their updates.
    ticks: VecDeque<(u64, usize)>,
    /// Updates in all of them.
    updates: usize,
    /// Rounds that have ended and are not complete, by their last ticks.
    ended: VecDeque<u64>,
    /// Ticks of the round under way, and updates in them.
    round_ticks: usize,
    round_updates: usize,
    /// The time of the first of them.
    round_began: Option<Instant>,
    /// The time that a round waits for more ticks.
    patience: Duration,
}

impl Rounds {
    /// Adds a tick to the round under way.
    pub(super) fn add(&mut self, tick: u64, updates: usize) {
        self.ticks.push_back((tick, updates));
        self.updates += updates;
        self.round_ticks += 1;
        self.round_updates += updates;
        if !self.patience.is_zero() {
            self.round_began.get_or_insert_with(Instant::now);
        }
    }

    /// Sets the time for which a round waits for more ticks, from now on.
    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Returns the remaining time for which the round under way waits for more ticks.
    pub(super) fn remaining_wait(&self) -> Duration {
        let is_full = self.round_ticks >= ROUND_TICKS || self.round_updates >= ROUND_UPDATES;
        let began = self.round_began.filter(|_| !is_full);
        began.map_or(Duration::ZERO, |began| self.patience.saturating_sub(began.elapsed()))
    }

    /// Whether another tick may be begun.
    pub(super) fn has_capacity(&self) -> bool {
        self.round_ticks < ROUND_TICKS
            && self.round_updates < ROUND_UPDATES
            && self.ticks.len() < TICKS_IN_FLIGHT
            && self.updates < UPDATES_IN_FLIGHT
    }

    /// Whether there is a round under way, and it is time to end it.
    pub(super) fn is_ready(&self) -> bool {
        self.round_ticks > 0
            && self.ended.len() < ROUNDS_IN_FLIGHT
            && self.remaining_wait().is_zero()
    }

    /// Ends the round under way.
    pub(super) fn end(&mut self) {
        self.ended.extend(self.ticks.back().map(|(tick, _)| *tick));
        (self.round_ticks, self.round_updates, self.round_began) = (0, 0, None);
    }

    /// Returns the first tick that is not complete.
    pub(super) fn first(&self) -> Option<u64> {
        self.ticks.front().map(|(tick, _)| *tick)
    }

    /// Removes the first tick, which is complete.
    pub(super) fn complete_first(&mut self) {
        let Some((tick, updates)) = self.ticks.pop_front() else { return };
        self.updates -= updates;
        while self.ended.front().is_some_and(|last| *last <= tick) {
            self.ended.pop_front();
        }
    }

    /// Returns the number of ticks.
    pub(super) fn len(&self) -> usize {
        self.ticks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends the round under way if it is time.
    fn ends(rounds: &mut Rounds) -> bool {
        let ends = rounds.is_ready();
        if ends {
            rounds.end();
        }
        ends
    }

    fn fill(rounds: &mut Rounds, from: u64, updates: usize) -> u64 {
        let mut tick = from;
        while rounds.has_capacity() {
            rounds.add(tick, updates);
            tick += 1;
        }
        tick - from
    }

    #[test]
    fn ready_round_grows_while_two_rounds_are_in_flight() {
        let mut rounds = Rounds::default();
        assert!(!ends(&mut rounds), "there is no tick");
        for tick in 1..=2 {
            rounds.add(tick, 1);
            assert!(ends(&mut rounds));
        }
        for tick in 3..=5 {
            rounds.add(tick, 1);
            assert!(!ends(&mut rounds), "tick {tick} waits for the others");
        }
        rounds.complete_first();
        assert!(ends(&mut rounds));
        (0..4).for_each(|_| rounds.complete_first());
        assert_eq!((rounds.len(), rounds.first()), (0, None));
        rounds.add(6, 1);
        assert!(ends(&mut rounds));
    }

    #[test]
    fn round_waits_for_more_ticks_until_it_is_full_or_its_patience_ends() {
        let mut rounds = Rounds::default();
        rounds.set_patience(Duration::from_secs(3600));
        rounds.add(1, 1);
        assert!(!ends(&mut rounds) && !rounds.remaining_wait().is_zero());
        fill(&mut rounds, 2, 0);
        assert!(ends(&mut rounds) && rounds.remaining_wait().is_zero());
        rounds.add(1000, ROUND_UPDATES);
        assert!(ends(&mut rounds));
        (0..=ROUND_TICKS).for_each(|_| rounds.complete_first());
        rounds.add(1001, 1);
        assert!(!ends(&mut rounds));
        rounds.set_patience(Duration::ZERO);
        assert!(ends(&mut rounds));
        assert!(!ends(&mut rounds), "nothing is left");
    }

    #[test]
    fn ticks_and_updates_in_flight_are_bounded() {
        for (updates, in_round, in_flight) in
            [(0, ROUND_TICKS as u64, 3 * ROUND_TICKS), (ROUND_UPDATES / 4, 4, 12), (1 << 20, 1, 1)]
        {
            let mut rounds = Rounds::default();
            let mut next = 1;
            while rounds.has_capacity() {
                let added = fill(&mut rounds, next, updates);
                assert!(added <= in_round, "{added} ticks of {updates} updates");
                next += added;
                ends(&mut rounds);
            }
            assert_eq!(rounds.len(), in_flight, "ticks of {updates} updates");
        }
    }
}
