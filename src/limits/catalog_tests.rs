//! Names, rows and numbers of a catalog.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use floodmark_dataflows::types::Version;
use proptest::prelude::*;

use super::catalog::{Catalog, LimitSet};
use super::rows::Row;
use super::tests::{row, table};
use crate::base::date;

#[test]
fn equal_rows_are_equal_versions_whenever_they_are_read() {
    let mut catalog = Catalog::new();
    let first = catalog.versions(LimitSet::Live, table(&row("")).held());
    let other = catalog.versions(LimitSet::Live, table(&row("").replace(":1,", ":2,")).held());
    let again = catalog.versions(LimitSet::Live, table(&row("").replace(":1,", ":1.0,")).held());
    assert_eq!(first, again);
    let (first, other) = (*first.first().unwrap(), *other.first().unwrap());
    assert_eq!(first.limit, other.limit);
    assert_ne!(first.id, other.id);
    assert_eq!((first.value, other.value), (Some(1), Some(2)));
    assert_eq!(catalog.name(first.limit), "a");
    assert_eq!(catalog.limit(LimitSet::Live, "a"), Some(first.limit));
    assert_eq!(catalog.limit(LimitSet::Live, "b"), None);
    let text = |version: Version| catalog.row(version.id).value.clone().unwrap();
    assert_eq!((text(first).text(), text(other).text()), ("1.0", "2"));
}

#[test]
fn name_in_both_sets_is_two_limits() {
    let (live, what_if) = (LimitSet::Live, LimitSet::WhatIf);
    let mut catalog = Catalog::of_two_sets();
    let one = *catalog.versions(live, table(&row("")).held()).first().unwrap();
    assert_eq!(catalog.counterpart(one.limit), None);
    let other = row("").replace(":1,", ":1.0,");
    let other = *catalog.versions(what_if, table(&other).held()).first().unwrap();
    assert_ne!(one.limit, other.limit);
    assert_eq!((catalog.set(one.limit), catalog.set(other.limit)), (live, what_if));
    assert_eq!(catalog.counterpart(one.limit), Some(other.limit));
    assert_eq!(catalog.counterpart(other.limit), Some(one.limit));
    assert_eq!((catalog.name(one.limit), catalog.name(other.limit)), ("a", "a"));
    // The spelling of a value in one set does not change the spelling that is reported for the other set.
    let text = |version: Version| catalog.row(version.id).value.clone().unwrap();
    assert_eq!((text(one).text(), text(other).text()), ("1", "1.0"));
    assert_eq!(catalog.named_set(one.limit), Some(live));
    assert_eq!(catalog.sets(), [live, what_if]);

    let mut catalog = Catalog::new();
    let one = *catalog.versions(live, table(&row("")).held()).first().unwrap();
    assert_eq!((catalog.named_set(one.limit), catalog.sets()), (None, &[live][..]));
}

#[test]
fn latest_version_that_has_begun_is_in_force() {
    let dates = ["2024-03-01", "2024-01-01", "2024-02-01", "2024-04-01"];
    let rows: Vec<String> = dates.map(|date| row("").replace("2024-05-01", date)).into();
    let mut catalog = Catalog::new();
    let versions = catalog.versions(LimitSet::Live, table(&rows.join("\n")).held());
    for (at, now, next) in [
        ("2023-12-31", None, Some("2024-01-01")),
        ("2024-01-01", Some("2024-01-01"), Some("2024-02-01")),
        ("2024-02-29T23:59:59.999Z", Some("2024-02-01"), Some("2024-03-01")),
        ("2024-03-01", Some("2024-03-01"), Some("2024-04-01")),
        ("2025-01-01", Some("2024-04-01"), None),
    ] {
        let mut limits = catalog.in_force(date::parse(at).unwrap());
        let rows = limits.next().unwrap().1;
        let effective = |row: Option<&Row>| row.map(|row| row.effective);
        let date = |date: Option<&str>| date.map(|date| date::parse(date).unwrap());
        assert_eq!(effective(rows.now), date(now), "{at}");
        assert_eq!(effective(rows.next), date(next), "{at}");
    }
    versions.iter().for_each(|version| catalog.set_holds(version.id, false));
    assert!(catalog.in_force(i128::MAX).next().is_none(), "no row holds");
    assert!(Catalog::new().in_force(0).next().is_none());
}

#[test]
fn row_that_no_longer_holds_is_forgotten() {
    let mut catalog = Catalog::new();
    let live = LimitSet::Live;
    let mut held = BTreeSet::new();
    for value in 0..1000 {
        let text = row("").replace(":1,", &format!(":{value},"));
        let versions = catalog.versions(live, table(&text).held());
        // The new row is added before the old one is forgotten.
        for old in held.difference(&versions) {
            catalog.forget(old.id);
        }
        held = versions;
        assert_eq!(catalog.len(), 1);
    }
    let last = *held.first().unwrap();
    let name = catalog.name(last.limit).to_owned();
    assert_eq!(catalog.limit(live, &name), Some(last.limit));
    catalog.forget(last.id);
    assert!(catalog.is_empty());
    assert_eq!(catalog.limit(live, &name), None);
    // A new row has none of the old numbers.
    let again = *catalog.versions(live, table(&row("")).held()).first().unwrap();
    assert!(again.id > last.id && again.limit > last.limit);
}

/// The catalog has hardly more numbers than rows at one time.
#[test]
fn numbers_of_forgotten_names_and_rows_are_reused() {
    let mut catalog = Catalog::of_two_sets().with_numbers(7);
    let sets = [LimitSet::Live, LimitSet::WhatIf];
    let mut held: VecDeque<(LimitSet, String, Version)> = VecDeque::new();
    let mut used = BTreeSet::new();
    for round in 0..500 {
        if held.len() > round % 7 {
            let (_, _, oldest) = held.pop_front().unwrap();
            catalog.forget(oldest.id);
        }
        // A name may have several rows, and may be in both sets.
        let (set, name) = (sets[round % 2], format!("name {}", round / 3));
        let text = row("").replace("\"a\"", &format!("{name:?}"));
        let text = text.replace(":1,", &format!(":{round},"));
        let version = *catalog.versions(set, table(&text).held()).first().unwrap();
        held.push_back((set, name, version));
        used.insert((version.id, version.limit));
        assert_eq!(catalog.len(), held.len());
        let ids: BTreeSet<_> = held.iter().map(|(.., version)| version.id).collect();
        assert_eq!(ids.len(), held.len(), "each row has a number of its own");
        for (set, name, version) in &held {
            assert_eq!(catalog.name(version.limit), name);
            assert_eq!(catalog.set(version.limit), *set);
            assert_eq!(catalog.limit(*set, name), Some(version.limit));
            let row = Arc::new(catalog.row(version.id).clone());
            let again = catalog.clone().version(*set, &row);
            assert_eq!((&*row.name, again), (name.as_str(), *version));
        }
    }
    assert!(used.iter().all(|(id, limit)| id.0 < 7 && limit.0 < 7) && used.len() > 7);
}

proptest! {
    #[test]
    fn rows_in_force_are_those_of_a_scan(
        steps in prop::collection::vec(("[a-c]", 1..6_u8, any::<bool>(), any::<bool>()), 0..30),
        day in 0..7_u8,
    ) {
        let mut catalog = Catalog::of_two_sets();
        let date = |day: u8| i128::from(day) * 86_400_000_000_000;
        let mut held = BTreeMap::<_, BTreeSet<i128>>::new();
        for (name, day, is_live, holds) in steps {
            let set = if is_live { LimitSet::Live } else { LimitSet::WhatIf };
            let text = row("").replace("\"a\"", &format!("{name:?}"));
            let text = text.replace("2024-05-01", &date::format_ns(date(day)).to_string());
            let version = *catalog.versions(set, table(&text).held()).first().unwrap();
            catalog.set_holds(version.id, holds);
            let dates = held.entry(version.limit).or_default();
            if holds { dates.insert(date(day)) } else { dates.remove(&date(day)) };
        }
        held.retain(|_, dates| !dates.is_empty());
        let effective = |row: Option<&Row>| row.map(|row| row.effective);
        let found = catalog.in_force(date(day)).map(|(limit, rows)| {
            (limit, effective(rows.now), effective(rows.next))
        });
        let expected = held.iter().map(|(limit, dates)| {
            let now = dates.range(..=date(day)).next_back().copied();
            let next = dates.range(date(day) + 1..).next().copied();
            (*limit, now, next)
        });
        prop_assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}
