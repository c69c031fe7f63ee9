//! Checks of costs at 1, 10, 100, ... 100 000 of one thing.
//!
//! The result of each follows from plain arithmetic, and its cost is linear in the size: the largest
//! takes a second or two unoptimized. A step that is quadratic in the size takes minutes, so it shows
//! as a hang.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Options};
use floodmark_dataflows::reference::TickInput;
use floodmark_dataflows::time::{END_OF_INPUT, Time, Window, Windows};
use floodmark_dataflows::types::{
    Change, Entity, Event, LimitId, Pair, Per, Prefix, Scope, Version, VersionId, Volume,
};
use timely::dataflow::operators::Inspect;

use crate::workers;

/// Runs a check at each size.
pub(crate) fn grow(check: impl Fn(u32)) {
    grow_to(100_000, check);
}

/// Runs a check at each size up to one.
pub(crate) fn grow_to(greatest: u32, check: impl Fn(u32)) {
    let sizes = [1, 10, 100, 1000, 10_000, 100_000].into_iter();
    for size in sizes.take_while(|size| *size <= greatest) {
        let start = Instant::now();
        check(size);
        let took = start.elapsed();
        assert!(
            took < Duration::from_secs(60),
            "{size} took {took:?}: does it grow faster than the size?"
        );
    }
}

/// The form in which records enter the dataflow.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Enter {
    /// Those of a tick combined, as a source does it.
    Combined,
    /// Each by itself.
    Apart,
}

/// Runs ticks, and returns the changes of each. Records and windows seen are dealt to the workers in turn.
pub(crate) fn changes_by_tick(
    workers: usize,
    windows: Windows,
    enter: Enter,
    ticks: Vec<TickInput>,
) -> Vec<Vec<Change>> {
    let (send, receive) = mpsc::channel();
    let send = Arc::new(std::sync::Mutex::new(send));
    let order: BTreeMap<u64, usize> = (0..).zip(&ticks).map(|(at, tick)| (tick.tick, at)).collect();
    let ticks = Arc::new(ticks);
    let guards = workers::execute(workers, "growth".to_owned(), move |worker| {
        let send = send.lock().expect("no worker panics with the lock").clone();
        let options = Options { windows, ..Options::default() };
        let (mut inputs, probe) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build(scope, options);
            outputs.changes.inspect(move |(change, time)| {
                send.send((time.tick, *change)).expect("the test waits");
            });
            (inputs, probe)
        });
        let mut combiner = Combiner::new(worker.peers());
        let mine = |at: usize| at % worker.peers() == worker.index();
        for tick in &*ticks {
            if tick.tick > 0 {
                inputs.advance_to(tick.tick);
            }
            if worker.index() == 0 {
                for (version, diff) in &tick.edits {
                    inputs.edit(*version, *diff);
                }
                inputs.mark(SourceProgress::Watermark(tick.watermark));
            }
            for (at, (window, pair, volume)) in tick.records.iter().enumerate() {
                if mine(at) {
                    inputs.mark(SourceProgress::Seen(*window));
                    combiner.add(*window, *pair, *volume);
                    if enter == Enter::Apart {
                        inputs.batches(combiner.take());
                    }
                }
            }
            inputs.batches(combiner.take());
        }
        let end = inputs.tick() + 1;
        inputs.advance_to(end);
        worker.step_while(|| probe.less_than(&Time::start(end)));
    })
    .expect("workers start");
    for result in guards.join() {
        result.expect("no worker panics");
    }
    let mut published = vec![Vec::new(); order.len()];
    for (tick, change) in receive.try_iter() {
        published[order[&tick]].push(change);
    }
    published
}

/// The limits of the changes with an event. No limit has two such changes.
pub(crate) fn limits(changes: &[Change], event: Event) -> BTreeSet<u32> {
    let of_event = changes.iter().filter(|change| change.event == event);
    let limits = of_event.map(|change| change.violation.limit.0);
    let mut once = BTreeSet::new();
    for limit in limits {
        assert!(once.insert(limit), "limit {limit} {event:?} twice");
    }
    once
}

/// The sources of the pairs of the changes with an event. No pair has two such changes.
fn sources(changes: &[Change], event: Event) -> BTreeSet<u32> {
    let mut once = BTreeSet::new();
    for change in changes.iter().filter(|change| change.event == event) {
        let Entity::Pair(pair) = change.violation.entity else {
            panic!("not a pair: {change:?}");
        };
        let Pair::V4(source, _) = pair else {
            panic!("not IPv4: {change:?}");
        };
        assert!(once.insert(source.to_bits()), "{pair:?} {event:?} twice");
    }
    once
}

const TO: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The pair number `n`.
pub(crate) fn pair(n: u32) -> Pair {
    Pair::V4(Ipv4Addr::from_bits(n), TO)
}

/// A record of the first window.
fn record(n: u32, bytes: u32) -> (Window, Pair, Volume) {
    (Window(0), pair(n), Volume::new(bytes.into(), 1))
}

/// A `max` in bytes.
pub(crate) fn max(limit: u32, value: u32) -> Version {
    Version {
        limit: LimitId(limit),
        id: VersionId(limit),
        value: Some(value.into()),
        ..Version::default()
    }
}

/// Edits that make rows hold, or not hold.
pub(crate) fn edits(rows: &[Version], diff: isize) -> Vec<(Version, isize)> {
    rows.iter().map(|row| (*row, diff)).collect()
}

#[test]
fn limits_on_one_scope_scale_linearly() {
    grow(|n| {
        let rows: Vec<_> = (0..n).map(|limit| max(limit, limit)).collect();
        let ticks = vec![
            TickInput {
                edits: edits(&rows, 1),
                records: vec![record(1, n / 2)],
                ..TickInput::default()
            },
            TickInput { tick: 1, records: vec![record(1, n)], ..TickInput::default() },
            TickInput { tick: 2, edits: edits(&rows, -1), ..TickInput::default() },
        ];
        let published = changes_by_tick(1, Windows::default(), Enter::Combined, ticks);
        assert_eq!(limits(&published[0], Event::Raised), (0..n / 2).collect());
        assert_eq!(limits(&published[1], Event::Raised), (n / 2..n).collect());
        assert_eq!(limits(&published[2], Event::Cleared), (0..n).collect());
        let changes: usize = published.iter().map(Vec::len).sum();
        assert_eq!(changes, 2 * n as usize);
    });
}

/// As many limits as there are scopes, each for one source; every third of these sends.
fn limits_on_disjoint_scopes(per: Per) {
    grow(|n| {
        let rows: Vec<_> = (0..n)
            .map(|source| {
                let network = IpAddr::from(Ipv4Addr::from_bits(source)).into();
                Version {
                    scope: Scope { per, source: Prefix::new(network), ..Scope::default() },
                    ..max(source, 10)
                }
            })
            .collect();
        // Those beyond the scopes must not matter to any.
        let senders = (0..2 * n).step_by(3);
        let ticks = vec![
            TickInput { edits: edits(&rows, 1), ..TickInput::default() },
            TickInput {
                tick: 1,
                records: senders.map(|source| record(source, 11)).collect(),
                ..TickInput::default()
            },
            TickInput { tick: 2, edits: edits(&rows, -1), ..TickInput::default() },
        ];
        let published = changes_by_tick(2, Windows::default(), Enter::Combined, ticks);
        let senders: BTreeSet<u32> = (0..n).step_by(3).collect();
        assert_eq!(published[0], []);
        assert_eq!(limits(&published[1], Event::Raised), senders);
        assert_eq!(limits(&published[2], Event::Cleared), senders);
    });
}

#[test]
fn limits_on_disjoint_scopes_of_pairs_scale_linearly() {
    limits_on_disjoint_scopes(Per::Pair);
}

#[test]
fn limits_on_disjoint_scopes_with_a_rollup_each_scale_linearly() {
    limits_on_disjoint_scopes(Per::Total);
}

#[test]
fn pairs_in_one_window_scale_linearly() {
    grow(|n| {
        let ticks = vec![TickInput {
            edits: vec![(max(1, n / 2), 1)],
            records: (0..n).map(|source| record(source, source)).collect(),
            ..TickInput::default()
        }];
        let published = changes_by_tick(1, Windows::default(), Enter::Combined, ticks);
        assert_eq!(sources(&published[0], Event::Raised), (n / 2 + 1..n).collect());
    });
}

/// Windows of one second, in each of which one pair sends. A limit moves, then all of them settle.
fn retained_windows(order: impl Fn(u32) -> Vec<Vec<u32>>) {
    let rules = Windows { width_secs: 1, max_gap_secs: u64::MAX, ..Windows::default() };
    let end = 1 << 40;
    grow(|n| {
        let record = |second: u32| {
            let volume = Volume::new(second.into(), 1);
            (Window(second.into()), pair(second), volume)
        };
        let mut ticks: Vec<_> = (0..)
            .zip(order(n))
            .map(|(tick, seconds)| TickInput {
                tick,
                records: seconds.into_iter().map(record).collect(),
                ..TickInput::default()
            })
            .collect();
        ticks[0].edits.push((max(1, n), 1));
        let loaded = ticks.len();
        let dated = Version { id: VersionId(2), ..max(1, n / 2) };
        ticks.push(TickInput {
            tick: end,
            edits: vec![(max(1, n), -1), (dated, 1)],
            ..TickInput::default()
        });
        ticks.push(TickInput { tick: end + 1, watermark: END_OF_INPUT, ..TickInput::default() });
        let published = changes_by_tick(1, rules, Enter::Combined, ticks);
        let over: BTreeSet<u32> = (n / 2 + 1..n).collect();
        assert!(published[..loaded].iter().all(Vec::is_empty));
        assert_eq!(sources(&published[loaded], Event::Raised), over);
        assert_eq!(sources(&published[loaded + 1], Event::Updated), over);
    });
}

#[test]
fn retained_windows_that_open_at_once_scale_linearly() {
    retained_windows(|n| vec![(0..n).collect()]);
}

/// The last one comes first, so that all of the others lie in a gap when they come, one after another.
#[test]
fn retained_windows_that_fill_a_gap_scale_linearly() {
    retained_windows(|n| {
        let first = [0, n - 1].into_iter().collect::<BTreeSet<_>>();
        let rest: Vec<u32> = (1..n - 1).collect();
        let rest = rest.chunks(rest.len().div_ceil(10).max(1));
        let first = first.into_iter().collect();
        std::iter::once(first).chain(rest.map(<[u32]>::to_vec)).collect()
    });
}

#[test]
fn violations_raised_by_one_limit_change_scale_linearly() {
    grow(|n| {
        let low = Version { id: VersionId(2), ..max(1, 0) };
        let high = max(1, 1 << 20);
        let ticks = vec![
            TickInput {
                edits: vec![(high, 1)],
                records: (1..=n).map(|source| record(source, source)).collect(),
                ..TickInput::default()
            },
            TickInput { tick: 1, edits: vec![(high, -1), (low, 1)], ..TickInput::default() },
            TickInput { tick: 2, edits: vec![(high, 1), (low, -1)], ..TickInput::default() },
        ];
        let published = changes_by_tick(2, Windows::default(), Enter::Combined, ticks);
        assert_eq!(published[0], []);
        assert_eq!(sources(&published[1], Event::Raised), (1..=n).collect());
        assert_eq!(sources(&published[2], Event::Cleared), (1..=n).collect());
    });
}

/// A row that takes effect at a millisecond.
fn dated(limit: u32, at_ms: u64, value: u32) -> Version {
    Version {
        effective: i128::from(at_ms) * 1_000_000,
        id: VersionId(at_ms as u32),
        ..max(limit, value)
    }
}

#[test]
fn rows_of_many_limits_waiting_for_a_date_scale_linearly() {
    grow(|n| {
        // Ten dates; each row is broken as soon as it holds.
        let due = |limit: u32| u64::from(1 + limit % 10);
        let rows: Vec<_> = (0..n).map(|limit| dated(limit, due(limit), 5)).collect();
        let mut ticks: Vec<_> =
            (0..12).map(|tick| TickInput { tick, ..TickInput::default() }).collect();
        ticks[0].edits = edits(&rows, 1);
        ticks[0].records = vec![record(1, 6)];
        ticks[11].edits = edits(&rows, -1);
        let published = changes_by_tick(1, Windows::default(), Enter::Combined, ticks);
        assert_eq!(published[0], []);
        for (tick, changes) in (1..).zip(&published[1..11]) {
            let begun = (0..n).filter(|limit| due(*limit) == tick).collect();
            assert_eq!(limits(changes, Event::Raised), begun);
        }
        assert_eq!(limits(&published[11], Event::Cleared), (0..n).collect());
    });
}

#[test]
fn rows_of_one_limit_waiting_for_their_dates_scale_linearly() {
    grow(|n| {
        // The one dated last holds the window, at each of ten ticks; only then is it broken.
        let rows: Vec<_> =
            (1..=n).map(|ms| dated(1, ms.into(), if ms == n { 5 } else { 7 })).collect();
        let step = u64::from(n).div_ceil(10);
        let mut ticks: Vec<_> =
            (0..12).map(|tick| TickInput { tick: tick * step, ..TickInput::default() }).collect();
        ticks[0].edits = edits(&rows, 1);
        ticks[0].records = vec![record(1, 6)];
        ticks[11].edits = edits(&rows, -1);
        let published = changes_by_tick(1, Windows::default(), Enter::Combined, ticks);
        let begins = u64::from(n).div_ceil(step) as usize;
        for (tick, changes) in published.iter().enumerate() {
            let events: Vec<_> = changes.iter().map(|change| change.event).collect();
            match tick {
                _ if tick == begins => assert_eq!(events, [Event::Raised]),
                11 => assert_eq!(events, [Event::Cleared]),
                _ => assert_eq!(events, []),
            }
        }
    });
}

/// All updates change the pair and its source, both over their limits; then one tick corrects all of
/// them to zero.
#[test]
fn updates_of_one_entity_from_several_workers_scale_linearly() {
    grow(|n| {
        let of_source =
            Version { scope: Scope { per: Per::Source, ..Scope::default() }, ..max(2, 0) };
        let back = (Window(0), pair(1), Volume::new(-1, -1));
        let ticks = vec![
            TickInput { edits: vec![(max(1, 0), 1), (of_source, 1)], ..TickInput::default() },
            TickInput { tick: 1, records: vec![record(1, 1); n as usize], ..TickInput::default() },
            TickInput { tick: 2, records: vec![back; n as usize], ..TickInput::default() },
        ];
        let published = changes_by_tick(3, Windows::default(), Enter::Apart, ticks);
        let volumes = |tick: usize, event| -> Vec<_> {
            let of_event = published[tick].iter().filter(|change| change.event == event);
            of_event.map(|change| change.violation.volume).collect()
        };
        let all = Volume::new(n.into(), n.into());
        assert_eq!(volumes(1, Event::Raised), [all; 2]);
        assert_eq!(volumes(2, Event::Cleared), [Volume::default(); 2]);
    });
}

/// Sums for each source: of a limit that was there before the records came, and of one that comes into use
/// when all is counted. Workers exchange them in batches.
#[test]
fn entities_of_rollups_scale_linearly() {
    grow(|n| {
        let per_source = Scope { per: Per::Source, ..Scope::default() };
        let before = Version { scope: per_source, ..max(1, n) };
        let network = Prefix::new(IpAddr::from(TO).into());
        let later =
            Version { scope: Scope { destination: network, ..per_source }, ..max(2, n / 2) };
        let ticks = vec![
            TickInput { edits: vec![(before, 1)], ..TickInput::default() },
            TickInput {
                tick: 1,
                records: (0..n).map(|source| record(source, source)).collect(),
                ..TickInput::default()
            },
            TickInput {
                tick: 2,
                records: (0..n).map(|source| record(source, n)).collect(),
                ..TickInput::default()
            },
            TickInput { tick: 3, edits: vec![(later, 1)], ..TickInput::default() },
        ];
        let published = changes_by_tick(2, Windows::default(), Enter::Combined, ticks);
        let sources = |tick: usize| -> BTreeSet<u32> {
            let raised = published[tick].iter().map(|change| match change.violation.entity {
                Entity::Source(IpAddr::V4(source)) => source.to_bits(),
                other => panic!("no source: {other:?}"),
            });
            raised.collect()
        };
        assert_eq!(published[1], []);
        // Both records of a source together are beyond the limit, but for the source whose first has no bytes.
        assert_eq!(sources(2), (1..n).collect());
        assert_eq!((published[3].len(), sources(3)), (n as usize, (0..n).collect()));
    });
}
