//! Laws of every history.
//!
//! The reference is checked against itself here: the changes of its ticks must add up to its active
//! violations, and the settled result must not depend on the split of the input into ticks. The hand-computed
//! cases catch a wrong meaning; these catch a case that was forgotten.

use std::collections::{BTreeMap, BTreeSet};

use floodmark_dataflows::reference::{Existence, Reference, TickInput, TickOutput};
use floodmark_dataflows::time::{END_OF_INPUT, Window};
use floodmark_dataflows::types::{
    Change, Entity, Event, LimitId, Reason, Updates, Version, Violation, Volume,
};

use crate::histories::{History, Size, history};

type Id = (LimitId, Window, Entity);

fn id(violation: &Violation) -> Id {
    (violation.limit, violation.window, violation.entity)
}

/// The histories of this page; `at` names one when it fails.
fn histories() -> impl Iterator<Item = (String, History)> {
    let small = (0..400).map(|seed| (seed, Size::SMALL));
    let all = small.chain((1000..1004).map(|seed| (seed, Size::LARGE)));
    all.map(|(seed, size)| (format!("seed {seed}, {size:?}"), history(seed, size)))
}

fn run(history: &History, updates: Updates) -> Vec<TickOutput> {
    let mut reference = Reference::new(history.windows, updates, history.top);
    let ticks = history.ticks.iter().cloned();
    ticks.map(|input| reference.tick(input)).collect()
}

/// Folds changes by id: the last change of each active violation.
fn fold(published: &mut BTreeMap<Id, Change>, changes: &BTreeSet<Change>, at: &str) {
    let ids: BTreeSet<Id> = changes.iter().map(|change| id(&change.violation)).collect();
    assert_eq!(ids.len(), changes.len(), "one change of an id; {at}");
    for change in changes {
        let id = id(&change.violation);
        let before = match change.event {
            Event::Raised | Event::Updated => published.insert(id, *change),
            Event::Cleared => published.remove(&id),
        };
        let stood = change.event != Event::Raised;
        assert_eq!(before.is_some(), stood, "{change:?} after {before:?}; {at}");
    }
}

#[test]
fn changes_add_up_to_active_violations() {
    for (at, history) in histories() {
        let mut published = BTreeMap::new();
        let mut held: BTreeSet<Window> = BTreeSet::new();
        for (input, output) in history.ticks.iter().zip(run(&history, history.updates)) {
            let at = format!("tick {}, {at}", input.tick);
            fold(&mut published, &output.changes, &at);
            // Retired windows have no changes.
            let now: BTreeSet<Window> = output.windows.keys().copied().collect();
            let windows = output.changes.iter().map(|change| change.violation.window);
            for window in windows {
                assert!(held.contains(&window) || now.contains(&window), "{at}");
            }
            held = now;

            let standing: BTreeMap<Id, &Violation> =
                output.violations.iter().map(|v| (id(v), v)).collect();
            let last_changes = published.iter().filter(|((_, window, _), _)| held.contains(window));
            let last_changes: BTreeMap<Id, &Change> =
                last_changes.map(|(id, change)| (*id, change)).collect();
            let ids = |only: Vec<&Id>| only.into_iter().copied().collect::<BTreeSet<Id>>();
            assert_eq!(ids(last_changes.keys().collect()), ids(standing.keys().collect()), "{at}");
            // The amount is the last one if every amount is published, and once no other can follow.
            for (id, change) in last_changes {
                let settled = history.windows.bounds(input.watermark).settled(id.1);
                assert_eq!(change.settled, settled, "{change:?}; {at}");
                if settled || history.updates == Updates::Tick {
                    let amount = change.violation.volume.amount(change.metric);
                    let stands = standing[&id].volume.amount(change.metric);
                    assert_eq!(amount, stands, "{change:?}; {at}");
                }
            }
        }
    }
}

#[test]
fn setting_of_more_updates_adds_only_updated_events() {
    for (at, history) in histories() {
        let runs = [Updates::Settled, Updates::Limit, Updates::Tick].map(|u| run(&history, u));
        let [settled, limit, tick] = &runs;
        for ((settled, limit), tick) in settled.iter().zip(limit).zip(tick) {
            // The reason of an update that settling would give as well may be an earlier one.
            let what = |output: &TickOutput| -> BTreeSet<Change> {
                let changes = output.changes.iter().copied();
                let without_reason = |change: Change| match change.event {
                    Event::Updated => Change { reason: Reason::Data, ..change },
                    Event::Raised | Event::Cleared => change,
                };
                changes.map(without_reason).collect()
            };
            let [few, more, most] = [settled, limit, tick].map(what);
            assert!(few.is_subset(&more) && more.is_subset(&most), "{at}");
            let others = most.difference(&few);
            assert!(others.into_iter().all(|c| c.event == Event::Updated), "{at}");
            assert_eq!(settled.violations, tick.violations, "{at}");
        }
    }
}

#[test]
fn settled_result_does_not_depend_on_the_split_into_ticks() {
    let mut compared = 0;
    for (at, mut history) in histories() {
        // Windows that retire, and records that are too late, do depend on it. Without lateness
        // and retention there are neither.
        history.windows.lateness_ms = None;
        history.windows.retention_ms = None;
        let ticks = &mut history.ticks;
        ticks.retain(|input| input.watermark != END_OF_INPUT);
        let last = ticks.iter().flat_map(|input| &input.seen).max().copied();
        let Some(last) = last else {
            continue;
        };
        let tick = ticks.last().map_or(0, |input| input.tick);
        let tick = tick.max(history.windows.end_ms(last)) + 1;
        ticks.push(TickInput { tick, watermark: END_OF_INPUT, ..TickInput::default() });

        // A closed window stays whole or partial, so the first tick must decide which windows are whole.
        let begun = ticks.iter_mut().filter_map(|input| input.begun.take()).max();
        let truncated = ticks.iter_mut().flat_map(|input| std::mem::take(&mut input.truncated));
        let truncated = truncated.filter(|(_, first)| first.is_some()).collect();
        (ticks[0].begun, ticks[0].truncated) = (begun, truncated);

        let mut rows: BTreeMap<Version, isize> = BTreeMap::new();
        for (row, difference) in ticks.iter().flat_map(|input| &input.edits) {
            *rows.entry(*row).or_default() += difference;
        }
        let at_once = TickInput {
            tick,
            edits: rows.into_iter().filter(|(_, count)| *count != 0).collect(),
            records: ticks.iter().flat_map(|input| input.records.clone()).rev().collect(),
            seen: ticks.iter().flat_map(|input| input.seen.clone()).collect(),
            truncated: ticks[0].truncated.clone(),
            begun: ticks[0].begun,
            watermark: END_OF_INPUT,
            rules: None,
        };
        let summary = History { ticks: vec![at_once], ..history.clone() };
        let result = |history: &History| {
            let outputs = run(history, history.updates);
            let mut published = BTreeMap::new();
            for output in &outputs {
                fold(&mut published, &output.changes, &at);
            }
            // The event and reason depend on the split into ticks.
            let last_changes = published.into_values().map(|change| Change {
                event: Event::Raised,
                reason: Reason::Data,
                ..change
            });
            let last_changes: BTreeSet<Change> = last_changes.collect();
            let last = outputs.into_iter().next_back().expect("a tick");
            (last_changes, last.violations, last.held, last.top, last.windows)
        };
        let expected = result(&summary);
        assert_eq!(result(&history), expected, "{at}");
        compared += usize::from(!expected.0.is_empty());
    }
    assert!(compared > 200, "{compared} histories end in violations");
}

/// Each kind of change, and each kind of state, occurs at least ten times.
#[test]
fn histories_cover_every_kind_of_change() {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = |what: String| *counts.entry(what).or_default() += 1;
    for (_, history) in histories() {
        let mut before: BTreeMap<Window, Existence> = BTreeMap::new();
        for output in run(&history, history.updates) {
            for change in &output.changes {
                let settled = if change.settled { " settled" } else { "" };
                count(format!("{:?} {:?}{settled}", change.event, change.reason));
                count(format!("{:?} {:?}", change.event, change.bound));
                let entity = format!("{:?}", change.violation.entity);
                let kind = entity.split('(').next().unwrap_or_default();
                count(format!("{:?} {kind}", change.event));
                if change.version.is_none() {
                    count("Cleared for good".to_owned());
                }
                if output.windows.get(&change.violation.window) == Some(&Existence::Gap) {
                    count(format!("{:?} in a gap", change.event));
                }
            }
            for (window, existence) in &output.windows {
                if *existence == Existence::Seen && before.get(window) == Some(&Existence::Gap) {
                    count("seen after all".to_owned());
                }
            }
            before = output.windows;
            let happened = [
                ("retired", !output.retired.is_empty()),
                ("top", !output.top.is_empty()),
                ("too late", output.late_dropped > 0),
                ("saturated", output.held.values().any(Volume::is_saturated)),
            ];
            for (what, _) in happened.iter().filter(|(_, happened)| *happened) {
                count((*what).to_owned());
            }
        }
    }
    let mut expected: BTreeSet<String> = BTreeSet::new();
    for event in ["Raised", "Updated", "Cleared"] {
        let reasons = ["LimitChange", "Schedule", "LateData", "Data"];
        let bounds = ["Max", "Min", "in a gap"];
        let entities = ["Pair", "Source", "Destination", "Host", "Total"];
        let what = reasons.iter().chain(&bounds).chain(&entities);
        expected.extend(what.map(|what| format!("{event} {what}")));
        let settled = ["LimitChange settled", "Schedule settled"];
        expected.extend(settled.map(|what| format!("{event} {what}")));
    }
    let others = ["Cleared for good", "seen after all", "retired", "top", "too late", "saturated"];
    expected.extend(others.map(str::to_owned));
    for what in expected {
        let times = counts.get(&what).copied().unwrap_or_default();
        assert!(times >= 10, "{what}: {times} times; all: {counts:#?}");
    }
}
