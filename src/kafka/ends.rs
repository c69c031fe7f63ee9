//! The offsets between which a broker has messages of a partition, and those of them that consumers get.
//!
//! A producer may write messages in a transaction. Until it ends, a consumer with
//! `isolation.level=read_committed` gets neither them nor any message after the first of them: it reads
//! up to the *last stable offset*, and the messages from there to the high watermark are *withheld*.

use std::time::{Duration, Instant};

/// Time that the last stable offset may stand below the high watermark before that is a fault:
/// transactional producers always have some transaction open.
pub const TRANSACTION_PATIENCE: Duration = Duration::from_secs(30);

/// Bounds on the age of a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// From this age on a transaction is overdue.
    pub(super) max_transaction: Duration,
    /// Whether a partition with an overdue transaction counts as read to its end at the last stable
    /// offset.
    pub(super) skip: bool,
}

/// Messages that consumers do not get, behind an open transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// The time of the first answer with this last stable offset below the high watermark.
    pub since: Instant,
    /// Whether the transaction has been open for longer than `--max-transaction`.
    pub overdue: bool,
    /// Whether the messages count as not there, by `--skip-open-transactions`.
    pub skipped: bool,
}

/// A broker's answer about a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// The first offset of the partition.
    pub(super) first: i64,
    /// The high watermark: the offset after the last message.
    pub(super) end: i64,
    /// The last stable offset: consumers get the messages before it. Never above `end`.
    pub(super) stable: i64,
    /// The messages between `stable` and `end`, if there are any.
    pub(super) withheld: Option<Withheld>,
    /// The time of the request.
    pub(super) asked: Instant,
    /// The start of an unbroken time in which the broker has answered and has withheld nothing. After a
    /// break, writers may take longer to come back than we do; after a transaction was aborted, its
    /// writer may send the messages again.
    pub(super) unbroken: Instant,
    /// The greatest high watermark of all answers.
    pub(super) peak: i64,
    /// The time of the first answer since which the high watermark has been below `peak`, if it is.
    pub(super) cut_back: Option<Instant>,
}

impl Ends {
    /// The first answer about a partition.
    pub(super) fn new(first: i64, end: i64, stable: i64, asked: Instant) -> Self {
        let stable = stable.min(end);
        let withheld = Withheld { since: asked, overdue: false, skipped: false };
        let withheld = (stable < end).then_some(withheld);
        let unbroken = asked;
        Ends { first, end, stable, withheld, asked, unbroken, peak: end, cut_back: None }
    }

    /// The offset at which the partition counts as read to its end.
    pub(super) fn due(&self) -> i64 {
        match self.withheld {
            Some(Withheld { skipped: true, .. }) => self.stable,
            _ => self.end,
        }
    }

    /// Whether messages are withheld that must be waited for.
    pub(super) fn waits(&self) -> bool {
        self.withheld.is_some_and(|withheld| !withheld.skipped)
    }

    /// Carries over what `before`, the previous answer, says about times. `connected` is whether the
    /// broker has answered without a break in between.
    pub(super) fn after(mut self, before: &Ends, connected: bool, bounds: Bounds) -> Self {
        if let (Some(withheld), Some(earlier)) = (&mut self.withheld, before.withheld)
            && self.stable == before.stable
        {
            *withheld = earlier;
        }
        if let Some(withheld) = &mut self.withheld {
            let age = self.asked.saturating_duration_since(withheld.since);
            withheld.overdue |= age >= bounds.max_transaction;
            withheld.skipped = withheld.overdue && bounds.skip;
        }
        if connected && !before.waits() {
            self.unbroken = before.unbroken;
        }
        if self.end < before.peak {
            self.peak = before.peak;
            self.cut_back = before.cut_back.or(Some(self.asked));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { max_transaction: Duration::from_secs(60), skip: false };

    /// Answers 10 s apart, each as (stable, end).
    fn answers(bounds: Bounds, answers: &[(i64, i64)]) -> (Instant, Vec<Ends>) {
        let start = Instant::now();
        let mut all = Vec::<Ends>::new();
        for (number, (stable, end)) in answers.iter().enumerate() {
            let asked = start + Duration::from_secs(10 * number as u64);
            let ends = Ends::new(0, *end, *stable, asked);
            all.push(all.last().map_or(ends, |before| ends.after(before, true, bounds)));
        }
        (start, all)
    }

    fn since(start: Instant, ends: &Ends) -> Option<u64> {
        ends.withheld.map(|withheld| (withheld.since - start).as_secs())
    }

    #[test]
    fn transaction_age_counts_from_the_first_answer_with_its_stable_offset() {
        let (start, all) =
            answers(BOUNDS, &[(5, 5), (5, 7), (5, 9), (9, 9), (9, 11), (11, 15), (11, 20)]);
        let ages: Vec<_> = all.iter().map(|ends| since(start, ends)).collect();
        assert_eq!(ages, [None, Some(10), Some(10), None, Some(40), Some(50), Some(50)]);
        assert_eq!(all.iter().map(Ends::due).collect::<Vec<_>>(), [5, 7, 9, 9, 11, 15, 20]);
    }

    #[test]
    fn partition_is_quiet_only_since_the_last_transaction_ended() {
        let (start, all) = answers(BOUNDS, &[(5, 5), (5, 5), (5, 7), (8, 8), (8, 8)]);
        let quiet: Vec<_> = all.iter().map(|ends| (ends.unbroken - start).as_secs()).collect();
        // The answer that finds the transaction open is quiet until then; the next one begins anew.
        assert_eq!(quiet, [0, 0, 0, 30, 30]);
    }

    #[test]
    fn overdue_transaction_is_skipped_only_if_asked_for() {
        let open = [(5, 7); 8];
        let (_, all) = answers(BOUNDS, &open);
        let overdue = |ends: &Ends| ends.withheld.is_some_and(|withheld| withheld.overdue);
        assert_eq!(all.iter().filter(|ends| overdue(ends)).count(), 2);
        assert!(all.iter().all(|ends| ends.waits() && ends.due() == 7));
        let (start, all) = answers(Bounds { skip: true, ..BOUNDS }, &open);
        assert_eq!(all.iter().map(Ends::due).collect::<Vec<_>>(), [7, 7, 7, 7, 7, 7, 5, 5]);
        // The idle time-out runs from the moment at which it is skipped.
        assert_eq!((all[7].unbroken - start).as_secs(), 60);
    }

    #[test]
    fn high_watermark_below_an_earlier_one_is_cut_back_until_it_is_reached_again() {
        let (start, all) = answers(BOUNDS, &[(5, 5), (4, 4), (3, 3), (4, 4), (5, 5), (6, 6)]);
        let cut: Vec<_> =
            all.iter().map(|ends| ends.cut_back.map(|since| (since - start).as_secs())).collect();
        assert_eq!(cut, [None, Some(10), Some(10), Some(10), None, None]);
        assert_eq!(all.iter().map(|ends| ends.peak).collect::<Vec<_>>(), [5, 5, 5, 5, 5, 6]);
    }

    #[test]
    fn stable_offset_beyond_the_high_watermark_is_of_messages_that_came_in_between() {
        let ends = Ends::new(0, 5, 9, Instant::now());
        assert_eq!((ends.stable, ends.withheld), (5, None));
    }
}
