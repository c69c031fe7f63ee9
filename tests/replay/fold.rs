//! Folds standard output as a consumer does, to the violations that stand at the end.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

/// Parses the lines of standard output.
pub(crate) fn objects(stdout: &str) -> Vec<Object> {
    let parse = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in line: {line}"))
    };
    stdout.lines().map(parse).collect()
}

/// Returns the changes among the lines of standard output.
pub(crate) fn changes(stdout: &str) -> Vec<Object> {
    objects(stdout).into_iter().filter(|object| object.contains_key("event")).collect()
}

/// Returns the text of a field.
pub(crate) fn text<'a>(object: &'a Object, field: &str) -> &'a str {
    let value = object.get(field).and_then(Value::as_str);
    value.unwrap_or_else(|| panic!("no text in \"{field}\" of {object:?}"))
}

/// Folds changes by `id`. Removes the fields `event`, `reason` and `as_of`, which may differ between runs with the same
/// result.
///
/// Asserts the invariants that every consumer relies on: no violation is raised while it stands, and none is updated or
/// cleared unless it stands.
pub(crate) fn fold(stdout: &str) -> BTreeMap<String, Object> {
    let mut standing: BTreeMap<String, Object> = BTreeMap::new();
    for change in changes(stdout) {
        let id = text(&change, "id").to_owned();
        let stood = standing.contains_key(&id);
        match text(&change, "event") {
            "raised" => assert!(!stood, "raised while it stands: {change:?}"),
            "updated" => assert!(stood, "updated and does not stand: {change:?}"),
            "cleared" => {
                assert!(standing.remove(&id).is_some(), "cleared and does not stand: {change:?}");
                continue;
            }
            other => panic!("event \"{other}\" of {change:?}"),
        }
        standing.insert(id, change);
    }
    for violation in standing.values_mut() {
        for field in ["event", "reason", "as_of"] {
            violation.remove(field).expect("every change has it");
        }
    }
    standing
}

/// Returns the folded output as lines to compare.
pub(crate) fn folded(stdout: &str) -> String {
    let violations = fold(stdout);
    let lines = violations.into_values().map(|object| Value::from(object).to_string() + "\n");
    lines.collect()
}

/// Returns changes as `event limit_name amount`, in their order.
pub(crate) fn events(stdout: &str) -> Vec<String> {
    let line = |change: &Object| {
        let (event, limit) = (text(change, "event"), text(change, "limit_name"));
        format!("{event} {limit} {}", change["amount"])
    };
    changes(stdout).iter().map(line).collect()
}

/// Asserts that two texts are equal; fails with the lines that only one of them has.
pub(crate) fn assert_same(one: &str, other: &str, what: impl FnOnce() -> String) {
    if one == other {
        return;
    }
    let only = |has: &str, has_not: &str| -> String {
        let without: std::collections::BTreeSet<&str> = has_not.lines().collect();
        let lines = has.lines().filter(|line| !without.contains(line)).take(20);
        lines.map(|line| format!("  {line}\n")).collect()
    };
    panic!("{}\nonly here:\n{}only there:\n{}", what(), only(one, other), only(other, one));
}
