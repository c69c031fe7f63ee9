//! Lag of a partition, in messages and in time.

use std::collections::VecDeque;
use std::time::Instant;

/// Maximum number of remembered responses. Beyond it, the lag in time gets coarser.
const RESPONSES_MAX: usize = 64;

/// The end offsets that the broker reported for a partition, compared with the offsets processed so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Behind {
    /// End offsets that are not processed yet, with the time at which the broker had them.
    responses: VecDeque<(Instant, i64)>,
    /// The last response.
    last: Option<(Instant, i64)>,
    /// The latest time at which everything that the partition held then is known to be processed.
    caught_up: Option<Instant>,
}

impl Behind {
    /// Notes that the broker had messages up to `end` when it was asked.
    pub(super) fn add_response(&mut self, asked: Instant, end: i64) {
        if self.last.is_some_and(|(last, _)| last >= asked) {
            return;
        }
        self.last = Some((asked, end));
        if self.responses.len() == RESPONSES_MAX {
            self.responses.pop_back();
        }
        self.responses.push_back((asked, end));
    }

    /// Notes that all messages before offset `next` are processed.
    pub(super) fn advance_to(&mut self, next: i64) {
        while self.responses.front().is_some_and(|(_, end)| *end <= next) {
            self.caught_up = self.responses.pop_front().map(|(asked, _)| asked);
        }
    }

    /// Returns the latest time at which everything that the partition held then is known to be processed.
    pub(super) fn caught_up(&self) -> Option<Instant> {
        self.caught_up
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn run_is_caught_up_as_of_the_last_response_that_it_has_reached() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut behind = Behind::default();
        behind.advance_to(100);
        assert_eq!((behind.caught_up(), behind.last), (None, None));
        behind.add_response(at(0), 10);
        behind.add_response(at(5), 20);
        behind.advance_to(9);
        assert_eq!(behind.caught_up(), None);
        behind.advance_to(10);
        assert_eq!(behind.caught_up(), Some(at(0)));
        // An older response that comes late is ignored.
        behind.add_response(at(4), 15);
        assert_eq!(behind.last, Some((at(5), 20)));
        behind.advance_to(25);
        assert_eq!(behind.caught_up(), Some(at(5)));
        // Nothing new came: it is up to date as of the response.
        behind.add_response(at(10), 20);
        behind.advance_to(25);
        assert_eq!(behind.caught_up(), Some(at(10)));
    }

    #[test]
    fn memory_of_responses_is_bounded() {
        let start = Instant::now();
        let mut behind = Behind::default();
        for step in 1..=10 * RESPONSES_MAX as u32 {
            behind.add_response(start + step * Duration::from_secs(1), i64::from(step));
        }
        assert_eq!(behind.responses.len(), RESPONSES_MAX);
        behind.advance_to(1);
        assert_eq!(behind.caught_up(), Some(start + Duration::from_secs(1)));
        let all = 10 * RESPONSES_MAX as u32;
        behind.advance_to(i64::from(all));
        assert_eq!(behind.caught_up(), Some(start + all * Duration::from_secs(1)));
    }
}
