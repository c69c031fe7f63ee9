//! Compares published changes with expected ones.

use std::collections::{BTreeMap, VecDeque};

use super::changes::{Actual, Expected, Subject};
use super::moment;
use super::script::Checkpoint;

/// The differences between the changes published and those expected, up to a checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The line of the checkpoint; `None`: after the last checkpoint.
    pub line: Option<usize>,
    /// The checkpoint's time, in the format of a case.
    pub when: String,
    /// The differences.
    pub differences: Vec<Difference>,
}

/// An expectation that no change met, a change that nothing expected, or both of one violation.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// The line of the expectation, and its text.
    pub expected: Option<(usize, String)>,
    /// The line that would expect the published change.
    pub actual: Option<String>,
    /// If both are there, the fields in which they differ.
    pub fields: Vec<&'static str>,
}

/// Compares the published changes with the expected ones, checkpoint by checkpoint. Returns nothing if they match.
pub(super) fn compare(checkpoints: &[Checkpoint], actual: &[Actual], begin: u64) -> Vec<Mismatch> {
    let mut mismatches = Vec::new();
    let mut rest = actual;
    for checkpoint in checkpoints {
        let count = match checkpoint.until {
            Some(until) => rest.partition_point(|actual| actual.tick <= until),
            None => rest.len(),
        };
        let (now, later) = rest.split_at(count);
        rest = later;
        let when =
            checkpoint.until.map_or_else(|| "the end".into(), |at| moment::format(at, begin));
        let differences = differences(&checkpoint.expected, now, begin);
        mismatches.push(Mismatch { line: Some(checkpoint.line), when, differences });
    }
    let differences = differences(&[], rest, begin);
    mismatches.push(Mismatch { line: None, when: "the end".into(), differences });
    mismatches.retain(|mismatch| !mismatch.differences.is_empty());
    mismatches
}

/// The expected and the published changes of one subject.
#[derive(Default)]
struct SubjectChanges<'a> {
    expected: Vec<&'a Expected>,
    actual: Vec<&'a Actual>,
}

fn differences(expected: &[Expected], actual: &[Actual], begin: u64) -> Vec<Difference> {
    let mut by_subject = BTreeMap::<String, SubjectChanges<'_>>::new();
    let key = |subject: &Subject| subject.to_string();
    for expected in expected {
        by_subject.entry(key(&expected.subject)).or_default().expected.push(expected);
    }
    for actual in actual {
        by_subject.entry(key(&actual.subject)).or_default().actual.push(actual);
    }
    by_subject.values().flat_map(|changes| changes.differences(begin)).collect()
}

impl SubjectChanges<'_> {
    fn differences(&self, begin: u64) -> Vec<Difference> {
        let met = self.matches(begin);
        let missing = (0..self.expected.len()).filter(|at| !met.contains(&Some(*at)));
        let missing: Vec<&Expected> = missing.map(|at| self.expected[at]).collect();
        let surplus = self.actual.iter().zip(&met).filter(|(_, met)| met.is_none());
        let surplus: Vec<&Actual> = surplus.map(|(actual, _)| *actual).collect();
        let pairs = (0..missing.len().max(surplus.len()))
            .map(|at| (missing.get(at).copied(), surplus.get(at).copied()));
        pairs
            .map(|(expected, actual)| Difference {
                expected: expected.map(|expected| (expected.line, expected.text.clone())),
                actual: actual.map(|actual| actual.line(begin)),
                fields: expected.zip(actual).map_or_else(Vec::new, |(expected, actual)| {
                    expected.differing_fields(actual, begin)
                }),
            })
            .collect()
    }

    /// Returns for each published change the expectation that it meets. An expectation that names few fields is met
    /// by many changes, so it may move to another change: as many expectations as possible are met.
    fn matches(&self, begin: u64) -> Vec<Option<usize>> {
        let fits = |expected: usize, actual: usize| {
            self.expected[expected].differing_fields(self.actual[actual], begin).is_empty()
        };
        let mut met = vec![None; self.actual.len()];
        for expected in 0..self.expected.len() {
            assign(expected, &fits, &mut met);
        }
        met
    }
}

/// Assigns a change to an expectation. If another expectation has the change already, reassigns that one to another
/// change, and so on along an augmenting path, until one gets a change that is free.
fn assign(expected: usize, fits: &impl Fn(usize, usize) -> bool, met: &mut [Option<usize>]) {
    // For each change visited, the expectation that would move to it, and the change it would leave.
    let mut visited = vec![None; met.len()];
    let mut movers = VecDeque::from([(expected, None)]);
    while let Some((mover, from)) = movers.pop_front() {
        for actual in 0..met.len() {
            if visited[actual].is_some() || !fits(mover, actual) {
                continue;
            }
            visited[actual] = Some((mover, from));
            if let Some(other) = met[actual] {
                movers.push_back((other, Some(actual)));
                continue;
            }
            let mut free = Some(actual);
            while let Some((mover, from)) = free.and_then(|actual: usize| visited[actual]) {
                met[free.expect("the loop stops without a change")] = Some(mover);
                free = from;
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::time::Window;
    use floodmark_dataflows::types::{
        Bound, Change, Entity, Event, LimitId, Metric, Reason, Violation, Volume,
    };

    use super::*;
    use crate::limits::catalog::{Catalog, LimitSet};
    use crate::limits::rows::Defaults;
    use crate::scenario::words::Words;

    fn catalog() -> (Catalog, LimitId) {
        let row = r#"{"limit_name": "max", "limit_value": 1, "effective_date": "1970-01-01"}"#;
        let table = crate::limits::json::read(row.as_bytes(), Defaults::default());
        let table = table.expect("one row");
        let mut catalog = Catalog::new();
        let versions = catalog.versions(LimitSet::Live, table.held());
        (catalog, versions.first().expect("one version").limit)
    }

    /// Returns the published changes of the total at these ticks, each with this many bytes.
    fn actual(changes: &[(u64, i64)]) -> Vec<Actual> {
        let (catalog, limit) = catalog();
        let change = |bytes| Change {
            event: Event::Raised,
            reason: Reason::Data,
            violation: Violation {
                limit,
                window: Window(0),
                entity: Entity::Total,
                volume: Volume::new(bytes, 1),
            },
            bound: Bound::Max,
            metric: Metric::Bytes,
            version: None,
            settled: false,
            partial: false,
        };
        changes.iter().map(|(tick, bytes)| Actual::of(*tick, &change(*bytes), &catalog)).collect()
    }

    fn expected(lines: &[&str]) -> Vec<Expected> {
        let parse = |line: &&str| Expected::parse(1, line, &mut Words::of(line));
        lines.iter().map(parse).collect::<Result<_, _>>().expect("expectations")
    }

    fn checkpoint(until: Option<u64>, lines: &[&str]) -> Checkpoint {
        Checkpoint { line: 1, until, expected: expected(lines) }
    }

    /// Counts the differences: expected alone, actual alone, both.
    fn counts(checkpoints: &[Checkpoint], actual: &[Actual]) -> Vec<(usize, usize, usize)> {
        let count = |mismatch: &Mismatch| {
            let of = |expected, actual| {
                let differences = mismatch.differences.iter();
                let is = |difference: &&Difference| {
                    (difference.expected.is_some(), difference.actual.is_some())
                        == (expected, actual)
                };
                differences.filter(is).count()
            };
            (of(true, false), of(false, true), of(true, true))
        };
        compare(checkpoints, actual, 0).iter().map(count).collect()
    }

    #[test]
    fn loose_expectation_leaves_the_change_that_a_strict_one_needs() {
        let actual = actual(&[(5, 10), (5, 20), (5, 30)]);
        for lines in [
            ["raised max total", "raised max total 10 bytes", "raised max total settled=false"],
            ["raised max total 10 bytes", "raised max total", "raised max total 30 bytes"],
            ["raised max total as_of=5ms", "raised max total", "raised max total 20 bytes"],
        ] {
            assert_eq!(counts(&[checkpoint(Some(5), &lines)], &actual), [], "{lines:?}");
        }
        let twice = ["raised max total 10 bytes", "raised max total 10 bytes", "raised max total"];
        assert_eq!(counts(&[checkpoint(Some(5), &twice)], &actual), [(0, 0, 1)]);
    }

    #[test]
    fn change_is_compared_at_the_first_checkpoint_that_is_not_before_it() {
        let one = |until| checkpoint(until, &["raised max total"]);
        let actual = actual(&[(5, 10), (6, 20)]);
        assert_eq!(counts(&[one(Some(5)), one(Some(9))], &actual), []);
        assert_eq!(counts(&[one(Some(4)), one(Some(9))], &actual), [(1, 0, 0), (0, 1, 0)]);
        assert_eq!(counts(&[one(Some(5)), one(None)], &actual), []);
        // After the last checkpoint nothing is expected.
        assert_eq!(counts(&[one(Some(5))], &actual), [(0, 1, 0)]);
    }

    #[test]
    fn thousand_changes_of_one_subject_are_matched() {
        let changes: Vec<(u64, i64)> = (0..1000).map(|bytes| (5, bytes)).collect();
        let lines: Vec<String> =
            (0..1000).map(|bytes| format!("raised max total {bytes} bytes")).rev().collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(counts(&[checkpoint(Some(5), &lines)], &actual(&changes)), []);
        // Each expectation must leave its change to the one before it.
        let chain: Vec<String> = (0..1000)
            .map(|at| match at {
                999 => "raised max total 0 bytes".to_owned(),
                _ => format!("raised max total {}", if at % 2 == 0 { "settled=false" } else { "" }),
            })
            .collect();
        let chain: Vec<&str> = chain.iter().map(String::as_str).collect();
        assert_eq!(counts(&[checkpoint(Some(5), &chain)], &actual(&changes)), []);
        let loose = vec!["raised max total"; 1001];
        assert_eq!(counts(&[checkpoint(Some(5), &loose)], &actual(&changes)), [(1, 0, 0)]);
    }
}
