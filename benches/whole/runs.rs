//! Runs processes in turn.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use crate::Bench;
use crate::common::child::{self, Cost};
use crate::common::table;

/// A row of a table: a command, and the costs of its runs.
pub(crate) struct Row {
    pub(crate) name: String,
    command: Box<dyn Fn() -> Command>,
    /// Parses the output of a process that reports its own cost, which replaces the measured one.
    parse_output: Option<fn(&str, Cost) -> ReportedCost>,
    pub(crate) costs: Vec<Cost>,
    /// Violations that stand at the end.
    pub(crate) violations: u64,
}

/// The cost and the result that a process reports.
pub(crate) struct ReportedCost {
    pub(crate) cost: Cost,
    pub(crate) violations: u64,
}

impl Row {
    /// Creates a row for a process that reports no cost of its own.
    pub(crate) fn new(name: &str, command: impl Fn() -> Command + 'static) -> Self {
        let (costs, violations) = (Vec::new(), 0);
        Row {
            name: name.to_owned(),
            command: Box::new(command),
            parse_output: None,
            costs,
            violations,
        }
    }

    /// Uses the cost that the process reports.
    pub(crate) fn with_reported_cost(self, parse_output: fn(&str, Cost) -> ReportedCost) -> Self {
        Row { parse_output: Some(parse_output), ..self }
    }

    pub(crate) fn median(&self) -> Cost {
        table::medians(&self.costs)
    }

    pub(crate) fn line(&self, records: u64) -> String {
        table::row(&self.name, records, &self.costs)
    }
}

/// Runs all rows in turn, `bench.runs` times.
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
            let output = fs::read_to_string(&out).expect("the output is text");
            let ReportedCost { cost, violations } = match row.parse_output {
                Some(parse_output) => parse_output(&output, cost),
                None => ReportedCost { cost, violations: standing(&output) },
            };
            row.costs.push(cost);
            row.violations = violations;
        }
    }
}

/// Counts the violations that stand when all windows have settled, by their settled changes.
fn standing(changes: &str) -> u64 {
    let settled = |line: &&str| {
        line.contains("\"settled\":true") && !line.starts_with("{\"event\":\"cleared\"")
    };
    changes.lines().filter(settled).count() as u64
}
