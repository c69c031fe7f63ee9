//! Processes, run in turn.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use crate::Bench;
use crate::common::child::{self, Cost};
use crate::common::table;

/// What is run, and what its runs took.
pub(crate) struct Row {
    pub(crate) name: String,
    command: Box<dyn Fn() -> Command>,
    /// What the process says of itself counts, not what is seen from outside.
    says: Option<fn(&str, Cost) -> Said>,
    pub(crate) costs: Vec<Cost>,
    /// Violations that stand at the end.
    pub(crate) violations: u64,
}

/// What a process says of itself.
pub(crate) struct Said {
    pub(crate) cost: Cost,
    pub(crate) violations: u64,
}

impl Row {
    /// A process of `floodmark replay`, or one that says nothing.
    pub(crate) fn new(name: &str, command: impl Fn() -> Command + 'static) -> Self {
        let (costs, violations) = (Vec::new(), 0);
        Row { name: name.to_owned(), command: Box::new(command), says: None, costs, violations }
    }

    /// A process that says itself what it took.
    pub(crate) fn saying(self, says: fn(&str, Cost) -> Said) -> Self {
        Row { says: Some(says), ..self }
    }

    pub(crate) fn median(&self) -> Cost {
        table::medians(&self.costs)
    }

    pub(crate) fn line(&self, records: u64) -> String {
        table::row(&self.name, records, &self.costs)
    }
}

/// Runs all rows in turn, as often as it is asked.
pub(crate) fn in_turn(bench: &Bench, rows: &mut [Row]) {
    let (out, messages) = (bench.place("out"), bench.place("messages"));
    for _ in 0..bench.runs {
        for row in &mut *rows {
            let mut command = (row.command)();
            command
                .stdout(File::create(&out).expect("a file for the output"))
                .stderr(File::create(&messages).expect("a file for messages"))
                .stdin(Stdio::null());
            let cost = child::run(&mut command);
            let said = fs::read_to_string(&out).expect("the output is text");
            let Said { cost, violations } = match row.says {
                Some(says) => says(&said, cost),
                None => Said { cost, violations: standing(&said) },
            };
            row.costs.push(cost);
            row.violations = violations;
        }
    }
}

/// Violations that stand when all windows have settled, of changes as JSON. Each is said once more when its
/// window settles.
fn standing(changes: &str) -> u64 {
    let settled = |line: &&str| {
        line.contains("\"settled\":true") && !line.starts_with("{\"event\":\"cleared\"")
    };
    changes.lines().filter(settled).count() as u64
}
