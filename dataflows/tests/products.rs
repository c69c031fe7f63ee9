//! Two things grow together, and the cost with their sum, not with their product.
//!
//! At ten thousand of each a step for every one of both would be a hundred million: it shows as a hang, as
//! in [`growth`](crate::growth).

use floodmark_dataflows::reference::TickInput;
use floodmark_dataflows::time::{END_OF_INPUT, Window, Windows};
use floodmark_dataflows::types::{
    Bound, Change, Event, LimitId, Pair, Per, Prefix, Reason, Scope, Version, VersionId, Violation,
    Volume,
};
use std::net::{IpAddr, Ipv4Addr};

use crate::growth::{Enter, changes_by_tick, edits, grow_to, limits, max, pair};

const GREATEST: u32 = 10_000;

/// Windows of a second that leave memory soon.
const RULES: Windows =
    Windows { width_secs: 1, lateness_ms: Some(0), retention_ms: Some(2000), max_gap_secs: 10 };

/// One tick for each window: in window `n` the pair `n` sends `n` bytes, and the window before closes.
fn one_window_per_tick(n: u32) -> Vec<TickInput> {
    let tick = |second: u32| TickInput {
        tick: u64::from(second) * 1000 + 500,
        records: vec![(Window(second.into()), pair(second), Volume::new(second.into(), 1))],
        watermark: u64::from(second) * 1000,
        ..TickInput::default()
    };
    (0..n).map(tick).collect()
}

fn source(n: u32) -> Prefix {
    Prefix::new(IpAddr::from(Ipv4Addr::from_bits(n)).into())
}

/// The changes of all ticks with an event.
fn all(published: &[Vec<Change>], event: Event) -> Vec<Change> {
    published.iter().flatten().filter(|change| change.event == event).copied().collect()
}

/// As many limits as windows, each on a source of its own.
fn limits_by_windows(workers: usize, per: Per, bound: Bound) {
    grow_to(GREATEST, |n| {
        let row = |limit: u32| Version {
            bound,
            scope: Scope { per, source: source(limit), ..Scope::default() },
            // The amount of the source, in the only window in which it sends, is on the wrong side.
            value: Some(i64::from(limit) + if bound == Bound::Max { -1 } else { 1 }),
            ..max(limit, 0)
        };
        let rows: Vec<Version> = (1..=n).map(row).collect();
        let mut ticks = one_window_per_tick(n + 1);
        ticks[0].edits = edits(&rows, 1);
        ticks.push(TickInput { tick: 1 << 40, watermark: END_OF_INPUT, ..TickInput::default() });
        let published = changes_by_tick(workers, RULES, Enter::Combined, ticks);
        let raised = all(&published, Event::Raised);
        assert_eq!(limits(&raised, Event::Raised), (1..=n).collect());
        for change in raised {
            assert_eq!(change.violation.window, Window(change.violation.limit.0.into()));
        }
    });
}

#[test]
fn limits_on_pairs_and_windows_cost_their_sum() {
    limits_by_windows(1, Per::Pair, Bound::Max);
}

#[test]
fn limits_on_sources_and_windows_on_two_workers_cost_their_sum() {
    limits_by_windows(2, Per::Source, Bound::Max);
}

#[test]
fn lower_bounds_on_pairs_and_windows_cost_their_sum() {
    limits_by_windows(1, Per::Pair, Bound::Min);
}

/// One name with a version for each window, which are read before the windows come, or in their time.
fn versions_by_windows(read_at_once: bool, windows: Windows) {
    grow_to(GREATEST, |n| {
        // The amount of a window is over the value of every third.
        let row = |second: u32| Version {
            id: VersionId(second),
            effective: i128::from(second) * 1_000_000_000,
            value: Some(i64::from(second) - i64::from(second.is_multiple_of(3))),
            ..max(1, 0)
        };
        let mut ticks = one_window_per_tick(n + 1);
        let rows: Vec<Version> = (1..=n).map(row).collect();
        if read_at_once {
            // All of their dates have come.
            ticks.iter_mut().for_each(|tick| tick.tick += 1 << 30);
            ticks[0].edits = edits(&rows, 1);
        } else {
            for (tick, row) in ticks[1..].iter_mut().zip(&rows) {
                tick.edits = edits(&[*row], 1);
            }
        }
        let published = changes_by_tick(1, windows, Enter::Combined, ticks);
        let raised = all(&published, Event::Raised);
        let over: Vec<u64> = (1..=u64::from(n)).filter(|second| second % 3 == 0).collect();
        let windows: Vec<u64> = raised.iter().map(|change| change.violation.window.0).collect();
        assert_eq!(windows, over);
        assert!(raised.iter().all(|change| {
            change.version.map(|version| u64::from(version.0)) == Some(change.violation.window.0)
        }));
    });
}

#[test]
fn versions_and_windows_that_retire_cost_their_sum() {
    versions_by_windows(false, RULES);
}

#[test]
fn versions_and_windows_that_stay_cost_their_sum() {
    versions_by_windows(true, Windows { width_secs: 1, ..Windows::default() });
}

/// A limit that is set low for a moment, and as many windows before and after: those that hold totals keep
/// what they emitted, the others do not.
#[test]
fn windows_before_and_after_a_withdrawn_low_limit_cost_their_sum() {
    grow_to(GREATEST, |n| {
        let windows = Windows { width_secs: 1, ..Windows::default() };
        let high = max(1, u32::MAX);
        let low = Version { id: VersionId(2), ..max(1, 0) };
        let mut ticks = one_window_per_tick(2 * n + 2);
        ticks[0].edits = edits(&[high], 1);
        let at = n as usize + 1;
        ticks[at].edits = vec![(high, -1), (low, 1)];
        ticks[at + 1].edits = vec![(low, -1), (high, 1)];
        let published = changes_by_tick(1, windows, Enter::Combined, ticks);
        // Window 0 has a record of no bytes.
        assert_eq!(published[at].len(), at, "{:?}", published[at].first());
        assert_eq!(
            published[at + 1].iter().filter(|change| change.event == Event::Cleared).count(),
            at
        );
        assert_eq!(published.iter().flatten().count(), 2 * at);
    });
}

/// As many limits with a rollup each as windows; only the sums with traffic exist.
#[test]
fn rollups_and_windows_cost_their_sum() {
    grow_to(GREATEST, |n| {
        let row = |limit: u32| Version {
            limit: LimitId(limit),
            scope: Scope { per: Per::Destination, source: source(limit), ..Scope::default() },
            value: Some(i64::from(limit) - 1),
            ..max(limit, 0)
        };
        let rows: Vec<Version> = (1..=n).map(row).collect();
        let mut ticks = one_window_per_tick(n + 1);
        ticks[0].edits = edits(&rows, 1);
        let published = changes_by_tick(2, RULES, Enter::Combined, ticks);
        assert_eq!(limits(&all(&published, Event::Raised), Event::Raised), (1..=n).collect());
    });
}

/// A lower bound of a total, all of whose versions are 1 or more.
fn floor(version: u32) -> Version {
    Version {
        id: VersionId(version),
        bound: Bound::Min,
        scope: Scope { per: Per::Total, source: source(1 << 30), ..Scope::default() },
        ..max(1, version)
    }
}

/// The first and the last window have a record, those between are silent and close, and do not settle before
/// the end.
fn silent_windows(n: u32) -> Vec<TickInput> {
    let record_in = |second: u32| (Window(second.into()), pair(0), Volume::new(1, 1));
    let watermark = u64::from(n + 1) * 1000;
    let records = vec![record_in(0), record_in(n)];
    vec![TickInput { tick: watermark, records, watermark, ..TickInput::default() }]
}

const SILENT: Windows =
    Windows { width_secs: 1, lateness_ms: None, retention_ms: None, max_gap_secs: u64::MAX };

/// A version of a limit for each tick, and as many silent windows that break it. No change
/// is published for another version before windows settle.
#[test]
fn versions_of_a_lower_bound_and_silent_windows_cost_their_sum() {
    grow_to(GREATEST, |n| {
        let mut ticks = silent_windows(n);
        ticks[0].edits = edits(&[floor(1)], 1);
        let first = ticks[0].tick;
        ticks.extend((1..=n).map(|version| TickInput {
            tick: first + u64::from(version),
            edits: vec![(floor(version), -1), (floor(version + 1), 1)],
            watermark: first,
            ..TickInput::default()
        }));
        ticks.push(TickInput {
            tick: 1 << 40,
            edits: vec![(floor(n + 1), -1)],
            watermark: first,
            ..TickInput::default()
        });
        for workers in [1, 2] {
            let published = changes_by_tick(workers, SILENT, Enter::Combined, ticks.clone());
            let windows = |tick: &[Change]| -> Vec<u64> {
                tick.iter().map(|change| change.violation.window.0).collect()
            };
            // The two windows with a record have no traffic in the scope of the limit either.
            let all: Vec<u64> = (0..=n.into()).collect();
            assert_eq!(windows(&published[0]), all);
            assert!(published[1..=n as usize].iter().all(Vec::is_empty));
            assert_eq!(windows(&published[n as usize + 1]), all);
        }
    });
}

/// As many ticks in which a record comes late to a silent window as there are such windows, each of which a lower
/// bound judges until then.
#[test]
fn late_records_and_silent_windows_cost_their_sum() {
    grow_to(GREATEST, |n| {
        let mut ticks = silent_windows(n + 1);
        ticks[0].edits = edits(&[floor(1)], 1);
        let first = ticks[0].tick;
        let source = Ipv4Addr::from_bits(1 << 30);
        let record_in = |window: u32| {
            let pair = Pair::V4(source, source);
            (Window(window.into()), pair, Volume::new(1, 1))
        };
        ticks.extend((1..=n).map(|window| TickInput {
            tick: first + u64::from(window),
            records: vec![record_in(window)],
            watermark: first,
            ..TickInput::default()
        }));
        let published = changes_by_tick(2, SILENT, Enter::Combined, ticks);
        assert_eq!(published[0].len(), n as usize + 2);
        for (window, published) in (1..).zip(&published[1..]) {
            let [change] = published[..] else { panic!("window {window}: {published:?}") };
            let Violation { window: at, volume, .. } = change.violation;
            assert_eq!((change.event, change.reason), (Event::Cleared, Reason::LateData));
            assert_eq!((at, volume), (Window(window), Volume::new(1, 1)));
        }
    });
}
