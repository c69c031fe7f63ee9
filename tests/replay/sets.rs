//! What a consumer makes of changes of two sets of limits.

use std::collections::BTreeMap;

use serde_json::Value;

use super::fold::{Object, changes, text};

/// Both sets, as changes name them.
pub(crate) const SETS: [&str; 2] = ["live", "what_if"];

/// What a violation is, but for the set: the limit's name, the window, who.
type Key = (String, String, String);

/// What stands in each set.
pub(crate) type Standing = BTreeMap<Key, BTreeMap<String, Object>>;

/// The lines of standard output without changes of the other set, as they are with one set only.
pub(crate) fn live_only(stdout: &str) -> String {
    let lines = stdout.lines().filter(|line| !line.contains("\"limit_set\":\"what_if\""));
    lines.map(|line| line.replacen("\"limit_set\":\"live\",", "", 1) + "\n").collect()
}

/// The changes of one set, and all that is no change, without what tells the set.
pub(crate) fn of_set(stdout: &str, set: &str) -> String {
    let lines = stdout.lines().map(|line| serde_json::from_str::<Object>(line).expect("JSON"));
    let of_set = lines.filter_map(|mut line| match line.remove("limit_set") {
        Some(said) if said != set => None,
        _ => Some(Value::from(line).to_string() + "\n"),
    });
    of_set.collect()
}

/// Folds changes as someone who may not have heard all: only the last word on each id counts.
pub(crate) fn standing(stdout: &str) -> Standing {
    let mut ids = BTreeMap::<String, (Key, String)>::new();
    let mut standing = Standing::new();
    for change in changes(stdout) {
        let set = text(&change, "limit_set").to_owned();
        let key = (
            text(&change, "limit_name").to_owned(),
            text(&change, "window_start").to_owned(),
            change["entity"].to_string(),
        );
        // One id, one violation.
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

/// What stands in one of the sets and not in the other.
pub(crate) fn alone(standing: &Standing) -> impl Iterator<Item = &Object> {
    standing.values().filter(|sets| sets.len() == 1).flat_map(BTreeMap::values)
}

/// The same, as lines to compare.
pub(crate) fn alone_lines(standing: &Standing) -> String {
    alone(standing).map(|object| Value::from(object.clone()).to_string() + "\n").collect()
}
