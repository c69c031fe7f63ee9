use std::collections::{BTreeMap, BTreeSet};

use floodmark_dataflows::types::{Bound, Metric, Reason, Violation, Volume};
use proptest::prelude::*;

use super::*;
use crate::limits::catalog::LimitSet;
use crate::limits::json;
use crate::limits::rows::Defaults;

const WINDOW: Window = Window(300);

/// Two limit names in both sets, and in each set one name that the other set does not have.
fn catalog() -> (Catalog, [LimitId; 6]) {
    let mut catalog = Catalog::of_two_sets();
    let mut limits = Vec::new();
    for (set, names) in [(LimitSet::Live, ["a", "b", "l"]), (LimitSet::WhatIf, ["a", "b", "w"])] {
        for name in names {
            let row = format!(
                "{{\"limit_name\":\"{name}\",\"limit_value\":1,\"effective_date\":\"2026-01-01\"}}"
            );
            let table = json::read(row.as_bytes(), Defaults::default()).expect("a row");
            let versions = catalog.versions(set, table.held());
            limits.extend(versions.into_iter().map(|version| version.limit));
        }
    }
    (catalog, limits.try_into().expect("six of them"))
}

fn change(event: Event, limit: LimitId, bytes: i64) -> Change {
    Change {
        event,
        reason: Reason::Data,
        violation: Violation {
            limit,
            window: WINDOW,
            entity: Entity::Total,
            volume: Volume::new(bytes, 1),
        },
        bound: Bound::Max,
        metric: Metric::Bytes,
        version: None,
        settled: false,
        partial: false,
    }
}

/// Returns the changes shown for some ticks, as (tick, event, limit) each.
fn show(ticks: &[&[(Event, LimitId)]]) -> Vec<Vec<(u64, Event, LimitId)>> {
    let (catalog, _) = catalog();
    let mut difference = Difference::default();
    let tick = |(tick, events): (u64, &&[(Event, LimitId)])| {
        let changes: Vec<Change> =
            events.iter().map(|(event, limit)| change(*event, *limit, tick as i64)).collect();
        let shown = difference.select(tick, &changes, &catalog).into_iter();
        shown.map(|(tick, change)| (tick, change.event, change.violation.limit)).collect()
    };
    (1..).zip(ticks).map(tick).collect()
}

use Event::{Cleared, Raised, Updated};

#[test]
fn violation_active_in_both_sets_is_shown_while_active_in_one() {
    let (_, [a, _, _, other, ..]) = catalog();
    let shown = show(&[
        &[(Raised, a)],
        &[(Updated, a)],
        &[(Raised, other)],
        &[(Updated, a), (Updated, other)],
        &[(Cleared, a)],
        &[(Cleared, other)],
    ]);
    let expected: [&[_]; 6] = [
        &[(1, Raised, a)],
        &[(2, Updated, a)],
        &[(3, Raised, other)],
        &[],
        // The violation is active in one set alone again; the first change was deferred until now.
        &[(4, Updated, other), (5, Cleared, a)],
        &[(6, Cleared, other)],
    ];
    assert_eq!(shown, expected);
}

#[test]
fn violation_raised_in_both_sets_at_once_is_shown_when_cleared_in_one() {
    let (_, [a, _, _, other, ..]) = catalog();
    let both = |event| [(event, a), (event, other)];
    let [raised, updated, cleared] = [Raised, Updated, Cleared].map(both);
    assert_eq!(show(&[&raised, &updated, &cleared]), [[], [], []]);
    let shown = show(&[&raised, &[(Cleared, other)], &[(Raised, other)], &cleared, &[(Raised, a)]]);
    let expected: [&[_]; 5] = [
        &[],
        &[(1, Raised, a), (2, Cleared, other)],
        &[(3, Raised, other)],
        // The sets agree before and after; but the violations were shown to be active.
        &[(4, Cleared, a), (4, Cleared, other)],
        &[(5, Raised, a)],
    ];
    assert_eq!(shown, expected);
}

#[test]
fn violation_of_a_name_in_one_set_is_always_shown() {
    let (_, [_, _, live, _, _, what_if]) = catalog();
    let shown =
        show(&[&[(Raised, live), (Raised, what_if)], &[(Updated, live), (Cleared, what_if)]]);
    assert_eq!(shown[0], [(1, Raised, live), (1, Raised, what_if)]);
    assert_eq!(shown[1], [(2, Updated, live), (2, Cleared, what_if)]);
}

#[test]
fn window_that_has_retired_is_forgotten() {
    let (catalog, [a, ..]) = catalog();
    let mut difference = Difference::default();
    difference.accept(vec![change(Raised, a, 1)]);
    assert_eq!(difference.end_tick(1, &[], &catalog).len(), 1);
    assert_eq!(difference.active.len(), 1);
    // The changes of that very tick are forgotten, too.
    difference.accept(vec![change(Updated, a, 2)]);
    let retired = WindowRange { from: WINDOW, until: Window(WINDOW.0 + 600) };
    assert_eq!(difference.end_tick(2, &[retired], &catalog).len(), 1);
    assert!(difference.active.is_empty());
}

/// The result of folding changes: for each limit, the tick and the bytes of its last change.
type Folded = BTreeMap<LimitId, (u64, i64)>;

fn fold(folded: &mut Folded, changes: &[TickChange]) {
    for (tick, change) in changes {
        let limit = change.violation.limit;
        match change.event {
            Cleared => drop(folded.remove(&limit)),
            Raised | Updated => drop(folded.insert(limit, (*tick, change.violation.volume.bytes))),
        }
    }
}

proptest! {
    /// The history has a number for each limit and tick: 0 and 1 leave the violation as it is, 2 raises or clears
    /// it, 3 updates it.
    #[test]
    fn shown_changes_fold_to_the_violations_that_differ(
        history in prop::collection::vec(prop::array::uniform6(0u8..4), 1..40),
    ) {
        let (catalog, limits) = catalog();
        let mut difference = Difference::default();
        let (mut all, mut folded) = (Folded::new(), Folded::new());
        let mut shown_before = BTreeSet::new();
        for (tick, turns) in (1..).zip(history) {
            let mut changes = Vec::new();
            for (at, turn) in (0..).zip(turns) {
                let limit = limits[at];
                let event = match (turn, all.contains_key(&limit)) {
                    (2, false) => Raised,
                    (2, true) => Cleared,
                    (3, true) => Updated,
                    _ => continue,
                };
                changes.push(change(event, limit, i64::from(turn) + at as i64));
            }
            let made: Vec<TickChange> = changes.iter().map(|change| (tick, *change)).collect();
            fold(&mut all, &made);
            let shown = difference.select(tick, &changes, &catalog);
            for (tick, change) in &shown {
                prop_assert!(shown_before.insert((*tick, change.violation.limit)), "shown twice");
            }
            fold(&mut folded, &shown);
            for limit in limits {
                let other = catalog.counterpart(limit);
                let of_other =
                    |folded: &Folded| other.is_some_and(|other| folded.contains_key(&other));
                match (all.get(&limit), of_other(&all)) {
                    (Some(last), false) => {
                        prop_assert_eq!(folded.get(&limit), Some(last));
                        prop_assert!(!of_other(&folded));
                    }
                    (Some(_), true) => {
                        prop_assert_eq!(folded.contains_key(&limit), of_other(&folded));
                    }
                    (None, _) => prop_assert_eq!(folded.get(&limit), None),
                }
            }
        }
    }
}

/// A deferred change names the row of the version that set its threshold when it was made.
#[test]
fn version_of_a_deferred_change_is_returned_until_the_change_is_shown() {
    use floodmark_dataflows::types::VersionId;
    let (catalog, [a, _, _, other, ..]) = catalog();
    let mut difference = Difference::default();
    let by = |event, limit, version| Change {
        version: Some(VersionId(version)),
        ..change(event, limit, 1)
    };
    let deferred_versions = |difference: &mut Difference, tick, changes: &[Change]| {
        difference.select(tick, changes, &catalog);
        difference.versions().into_iter().map(|version| version.0).collect::<BTreeSet<u32>>()
    };
    let raised = [by(Raised, a, 7), by(Raised, other, 8)];
    assert_eq!(deferred_versions(&mut difference, 1, &raised), [7, 8].into());
    let updated = [by(Updated, other, 9)];
    assert_eq!(deferred_versions(&mut difference, 2, &updated), [7, 9].into());
    // The violation that is active in one set alone is shown, by its deferred change.
    assert_eq!(deferred_versions(&mut difference, 3, &[by(Cleared, other, 9)]), [].into());
}
