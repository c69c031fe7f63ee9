//! The first and last offsets of a partition, and the offset up to which consumers get messages.
//!
//! A producer may write messages in a transaction. Until it ends, a consumer with
//! `isolation.level=read_committed` gets neither them nor any message after the first of them: it reads
//! up to the *last stable offset*, and the messages from there to the high watermark are *withheld*.

use std::time::{Duration, Instant};

/// Time for which the last stable offset may stay below the high watermark before that is a fault: transactional
/// producers always have some transaction open.
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
    /// The time of the first response with this last stable offset below the high watermark.
    pub since: Instant,
    /// Whether the transaction has been open for longer than `--max-transaction`.
    pub overdue: bool,
    /// Whether the messages are skipped (`--skip-open-transactions`).
    pub skipped: bool,
}

/// A broker's response about a partition.
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
    pub(super) requested_at: Instant,
    /// The start of the unbroken time in which the broker has responded and has withheld nothing. After an
    /// interruption, writers may reconnect later than floodmark; after a transaction was aborted, its writer may send
    /// the messages again.
    pub(super) unbroken: Instant,
    /// The greatest high watermark of all responses.
    pub(super) peak: i64,
    /// The time of the first response since which the high watermark has been below `peak`, if it is.
    pub(super) cut_back: Option<Instant>,
}

impl Ends {
    /// Creates the first response about a partition.
    pub(super) fn new(first: i64, end: i64, stable: i64, requested_at: Instant) -> Self {
        let stable = stable.min(end);
        let withheld = Withheld { since: requested_at, overdue: false, skipped: false };
        let withheld = (stable < end).then_some(withheld);
        let unbroken = requested_at;
        Ends { first, end, stable, withheld, requested_at, unbroken, peak: end, cut_back: None }
    }

    /// Returns the offset at which the partition counts as read to its end.
    pub(super) fn due(&self) -> i64 {
        match self.withheld {
            Some(Withheld { skipped: true, .. }) => self.stable,
            _ => self.end,
        }
    }

    /// Whether messages are withheld and not skipped.
    pub(super) fn waits(&self) -> bool {
        self.withheld.is_some_and(|withheld| !withheld.skipped)
    }

    /// Carries over the times of `before`, the previous response. `connected` is whether the broker has responded
    /// without interruption since then.
    pub(super) fn after(mut self, before: &Ends, connected: bool, bounds: Bounds) -> Self {
        if let (Some(withheld), Some(earlier)) = (&mut self.withheld, before.withheld)
            && self.stable == before.stable
        {
            *withheld = earlier;
        }
        if let Some(withheld) = &mut self.withheld {
            let age = self.requested_at.saturating_duration_since(withheld.since);
            withheld.overdue |= age >= bounds.max_transaction;
            withheld.skipped = withheld.overdue && bounds.skip;
        }
        if connected && !before.waits() {
            self.unbroken = before.unbroken;
        }
        if self.end < before.peak {
            self.peak = before.peak;
            self.cut_back = before.cut_back.or(Some(self.requested_at));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { max_transaction: Duration::from_secs(60), skip: false };

    /// Returns the ends after responses 10 s apart, each given as (stable, end).
    fn responses(bounds: Bounds, responses: &[(i64, i64)]) -> (Instant, Vec<Ends>) {
        let start = Instant::now();
        let mut all = Vec::<Ends>::new();
        for (number, (stable, end)) in responses.iter().enumerate() {
            let requested_at = start + Duration::from_secs(10 * number as u64);
            let ends = Ends::new(0, *end, *stable, requested_at);
            all.push(all.last().map_or(ends, |before| ends.after(before, true, bounds)));
        }
        (start, all)
    }

    fn since(start: Instant, ends: &Ends) -> Option<u64> {
        ends.withheld.map(|withheld| (withheld.since - start).as_secs())
    }

    #[test]
    fn transaction_age_counts_from_the_first_response_with_its_stable_offset() {
        let (start, all) =
            responses(BOUNDS, &[(5, 5), (5, 7), (5, 9), (9, 9), (9, 11), (11, 15), (11, 20)]);
        let ages: Vec<_> = all.iter().map(|ends| since(start, ends)).collect();
        assert_eq!(ages, [None, Some(10), Some(10), None, Some(40), Some(50), Some(50)]);
        assert_eq!(all.iter().map(Ends::due).collect::<Vec<_>>(), [5, 7, 9, 9, 11, 15, 20]);
    }

    #[test]
    fn partition_is_quiet_only_since_the_last_transaction_ended() {
        let (start, all) = responses(BOUNDS, &[(5, 5), (5, 5), (5, 7), (8, 8), (8, 8)]);
        let quiet: Vec<_> = all.iter().map(|ends| (ends.unbroken - start).as_secs()).collect();
        // The response that finds the transaction open is quiet until then; the next one starts anew.
        assert_eq!(quiet, [0, 0, 0, 30, 30]);
    }

    #[test]
    fn overdue_transaction_is_skipped_only_with_the_option() {
        let open = [(5, 7); 8];
        let (_, all) = responses(BOUNDS, &open);
        let overdue = |ends: &Ends| ends.withheld.is_some_and(|withheld| withheld.overdue);
        assert_eq!(all.iter().filter(|ends| overdue(ends)).count(), 2);
        assert!(all.iter().all(|ends| ends.waits() && ends.due() == 7));
        let (start, all) = responses(Bounds { skip: true, ..BOUNDS }, &open);
        assert_eq!(all.iter().map(Ends::due).collect::<Vec<_>>(), [7, 7, 7, 7, 7, 7, 5, 5]);
        // The idle timeout starts when the transaction is skipped.
        assert_eq!((all[7].unbroken - start).as_secs(), 60);
    }

    #[test]
    fn high_watermark_below_an_earlier_one_is_cut_back_until_it_is_reached_again() {
        let (start, all) = responses(BOUNDS, &[(5, 5), (4, 4), (3, 3), (4, 4), (5, 5), (6, 6)]);
        let cut: Vec<_> =
            all.iter().map(|ends| ends.cut_back.map(|since| (since - start).as_secs())).collect();
        assert_eq!(cut, [None, Some(10), Some(10), Some(10), None, None]);
        assert_eq!(all.iter().map(|ends| ends.peak).collect::<Vec<_>>(), [5, 5, 5, 5, 5, 6]);
    }

    #[test]
    fn stable_offset_beyond_the_high_watermark_is_capped() {
        let ends = Ends::new(0, 5, 9, Instant::now());
        assert_eq!((ends.stable, ends.withheld), (5, None));
    }
}
