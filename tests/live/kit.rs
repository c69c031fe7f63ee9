//! Topics with traffic in them, and the answers that runs over them are held to.

use std::collections::{BTreeMap, BTreeSet};

use floodmark::kafka::Address;
use serde_json::Value;

use crate::common::broker::Broker;
use crate::replay::fold::{self, Object, changes, fold, text};
use crate::replay::run::{Done, Live, Place, Whom};

/// The settled answer: what stands at the end, by id.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    violations: BTreeMap<String, Object>,
}

impl Answer {
    /// What a replay says; `what` is its command line without the limits.
    pub(super) fn of_replay(place: &Place, what: &str) -> Self {
        let line = format!("replay {what} --limits limits.jsonl");
        let answer = Answer { violations: fold(&place.floodmark(&line).stdout(0)) };
        assert!(!answer.violations.is_empty(), "nothing is violated: {line}");
        answer
    }

    /// What changes come to.
    pub(super) fn of_changes(lines: &str) -> Self {
        Answer { violations: fold(lines) }
    }

    fn lines(&self) -> String {
        let line = |object: &Object| Value::from(object.clone()).to_string() + "\n";
        self.violations.values().map(line).collect()
    }

    /// Holds another answer to this one.
    pub(super) fn assert_same(&self, other: &Answer, what: impl FnOnce() -> String) {
        fold::assert_same(&self.lines(), &other.lines(), what);
    }

    /// Reads standard output until every violation of this answer has been said to be settled.
    pub(super) fn wait_for(&self, run: &mut Live) {
        let mut waits: BTreeSet<&String> = self.violations.keys().collect();
        while !waits.is_empty() {
            for change in changes(&run.line()) {
                if change["settled"] == true && text(&change, "event") != "cleared" {
                    waits.remove(&text(&change, "id").to_owned());
                }
            }
        }
    }

    /// Waits until a run has said all of this, asks it to end, and holds all that it has said to it.
    pub(super) fn hold(&self, mut run: Live) -> Done {
        self.wait_for(&mut run);
        run.signal("TERM", Whom::Parent);
        let done = run.finish().expect(0);
        self.assert_same(&Answer::of_changes(&done.stdout), || {
            format!(
                "only in the replay (here) or the run (there)\n{}\n$ {}",
                done.stderr,
                done.shown()
            )
        });
        assert!(!done.stderr.contains("are not counted"), "records are lost: {}", done.stderr);
        done
    }
}

/// Sends captures to a topic by `floodmark capture`; `what` are its files and options.
pub(super) fn capture(place: &Place, what: &str, to: &Address) {
    place.floodmark(&format!("capture {what} --to {to}")).run().expect(0);
}

/// A new topic with captures in it.
pub(super) fn topic_of(place: &Place, what: &str, partitions: i32) -> Address {
    let address = Broker::shared().topic("flows", partitions);
    capture(place, what, &address);
    address
}
