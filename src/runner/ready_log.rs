//! The log of whether a run is ready: each kind of reason at once, and again while it lasts, at growing
//! intervals. A run that catches up has other partitions in its reasons each second: these make no line.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::ready::Reason;
use crate::limits::catalog::LimitSet;

/// Least interval between two lines about a kind of reason that comes and goes.
const APART: Duration = Duration::from_secs(10);

/// Time after which reasons that last are logged again; each time after that it takes twice as long.
const AGAIN: Duration = Duration::from_secs(60);

/// The longest time between two lines about reasons that last.
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// The identity of a reason, with the partition only where that does not change all the time.
type Kind = (&'static str, Option<LimitSet>, Option<String>, Option<u32>);

fn kind(reason: &Reason) -> Kind {
    let changing =
        reason.reason == "partition_waits" || matches!(reason.state, Some("behind" | "elsewhere"));
    let partition = reason.partition.filter(|_| !changing);
    (reason.reason, reason.limit_set, reason.name.clone(), partition)
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The run is ready, for the first time or again.
    Ready,
    /// The run is not ready, for these reasons.
    NotReady(String),
}

/// The state of the log.
#[derive(Debug, Default)]
pub(super) struct ReadyLog {
    /// When each kind of reason was logged last.
    last: BTreeMap<Kind, Instant>,
    /// The kinds that were logged since the run was ready last.
    logged: BTreeSet<Kind>,
    /// When these are logged again, and the time until then.
    again: Option<(Instant, Duration)>,
    was_ready: bool,
}

impl ReadyLog {
    /// Takes the reasons for which a run is not ready at this time. Returns the line to log, if any.
    pub(super) fn line(&mut self, reasons: &[Reason], now: Instant) -> Option<Line> {
        if reasons.is_empty() {
            let first = !std::mem::replace(&mut self.was_ready, true);
            let logged = !std::mem::take(&mut self.logged).is_empty();
            self.again = None;
            return (first || logged).then_some(Line::Ready);
        }
        self.last.retain(|_, at| now.saturating_duration_since(*at) < APART);
        let kinds: BTreeSet<Kind> = reasons.iter().map(kind).collect();
        let new =
            kinds.iter().any(|kind| !self.logged.contains(kind) && !self.last.contains_key(kind));
        let again = self.again.filter(|(at, _)| *at <= now);
        let wait = match again {
            _ if new => AGAIN,
            Some((_, wait)) => (wait * 2).min(AGAIN_MAX),
            None => return None,
        };
        self.again = Some((now + wait, wait));
        self.last.extend(kinds.iter().map(|kind| (kind.clone(), now)));
        self.logged.extend(kinds);
        let texts: Vec<&str> = reasons.iter().map(|reason| reason.text.as_str()).collect();
        Some(Line::NotReady(texts.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(reason: &'static str, state: Option<&'static str>, partition: Option<u32>) -> Reason {
        let text = format!("{reason} {partition:?}");
        Reason { reason, text, state, partition, ..Reason::default() }
    }

    /// The seconds in which there is a line; those with a `+` say that the run is ready.
    fn lines(seconds: u64, reasons: impl Fn(u64) -> Vec<Reason>) -> Vec<String> {
        let start = Instant::now();
        let mut log = ReadyLog::default();
        (0..seconds)
            .filter_map(|second| {
                let line = log.line(&reasons(second), start + Duration::from_secs(second))?;
                Some(match line {
                    Line::Ready => format!("+{second}"),
                    Line::NotReady(_) => second.to_string(),
                })
            })
            .collect()
    }

    #[test]
    fn reason_that_lasts_is_logged_at_once_and_again_ever_more_rarely() {
        let stands = |_| vec![reason("tick_stands", None, None)];
        assert_eq!(lines(2000, stands), ["0", "60", "180", "420", "900", "1500"]);
    }

    #[test]
    fn run_that_catches_up_is_not_logged_each_second() {
        let behind = |second| match second {
            // Each second another partition is the slowest one.
            ..100 => vec![
                reason("watermark_held", Some("behind"), Some(second as u32 % 7)),
                reason("partition_waits", None, Some(second as u32 % 5)),
            ],
            _ => Vec::new(),
        };
        assert_eq!(lines(200, behind), ["0", "60", "+100"]);
    }

    #[test]
    fn new_reason_is_logged_at_once() {
        let reasons = |second| {
            let mut reasons = vec![reason("watermark_held", Some("behind"), Some(1))];
            if second >= 5 {
                reasons.push(reason("sink_unreachable", None, None));
            }
            if second >= 7 {
                reasons[0] = reason("watermark_held", Some("unreachable"), Some(2));
            }
            reasons
        };
        assert_eq!(lines(60, reasons), ["0", "5", "7"]);
    }

    #[test]
    fn run_that_is_ready_each_other_second_is_logged_now_and_then() {
        let flaps = |second| match second % 2 {
            0 => vec![reason("behind", Some("behind"), Some(1))],
            _ => Vec::new(),
        };
        assert_eq!(lines(30, flaps), ["0", "+1", "10", "+11", "20", "+21"]);
        assert_eq!(lines(30, |_| Vec::new()), ["+0"]);
    }
}
