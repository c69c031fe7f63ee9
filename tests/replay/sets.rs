//! Folds the changes of two sets of limits as a consumer does.

use std::collections::BTreeMap;

use serde_json::Value;

use super::fold::{Object, changes, text};

/// The names of both sets in changes.
pub(crate) const SETS: [&str; 2] = ["live", "what_if"];

/// A violation apart from its set: the limit's name, the window, the entity.
type Key = (String, String, String);

/// The violations that stand, by set.
pub(crate) type StandingViolations = BTreeMap<Key, BTreeMap<String, Object>>;

/// Returns standard output without the changes of the second set, as it is with one set only.
pub(crate) fn live_only(stdout: &str) -> String {
    let lines = stdout.lines().filter(|line| !line.contains("\"limit_set\":\"what_if\""));
    lines.map(|line| line.replacen("\"limit_set\":\"live\",", "", 1) + "\n").collect()
}

/// Returns the changes of one set, and all lines that are no changes, without the field `limit_set`.
pub(crate) fn changes_of_set(stdout: &str, set: &str) -> String {
    let lines = stdout.lines().map(|line| serde_json::from_str::<Object>(line).expect("JSON"));
    let changes_of_set = lines.filter_map(|mut line| match line.remove("limit_set") {
        Some(name) if name != set => None,
        _ => Some(Value::from(line).to_string() + "\n"),
    });
    changes_of_set.collect()
}

/// Folds changes as a consumer that may have missed some: only the last change of each id counts.
pub(crate) fn standing(stdout: &str) -> StandingViolations {
    let mut ids = BTreeMap::<String, (Key, String)>::new();
    let mut standing = StandingViolations::new();
    for change in changes(stdout) {
        let set = text(&change, "limit_set").to_owned();
        let key = (
            text(&change, "limit_name").to_owned(),
            text(&change, "window_start").to_owned(),
            change["entity"].to_string(),
        );
        // An id identifies one violation of one set.
        let id = text(&change, "id").to_owned();
        let named = ids.entry(id).or_insert_with(|| (key.clone(), set.clone()));
        assert_eq!(*named, (key.clone(), set.clone()));
        let sets = standing.entry(key).or_default();
        match text(&change, "event") {
            "cleared" => drop(sets.remove(&set)),
            _ => drop(sets.insert(set, change)),
        }
    }
    standing
}

/// Returns the violations that stand in one set only.
pub(crate) fn in_one_set(standing: &StandingViolations) -> impl Iterator<Item = &Object> {
    standing.values().filter(|sets| sets.len() == 1).flat_map(BTreeMap::values)
}

/// Returns the violations that stand in one set only, as lines to compare.
pub(crate) fn in_one_set_lines(standing: &StandingViolations) -> String {
    in_one_set(standing).map(|object| Value::from(object.clone()).to_string() + "\n").collect()
}
