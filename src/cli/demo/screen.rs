//! The screen of the demo: permanent lines, and on a terminal a table below them that is redrawn.

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::alerts::Alert;
use crate::base::error::Failure;
use crate::base::network;
use crate::cli::grid::Grid;
use crate::limits::rows::{BOUNDS, METRICS, PERS, Row, word};
use crate::output::{OutputFile, WriteError, table};

/// The columns of a table of violations.
const HEADING: [&str; 5] = ["WINDOW", "LIMIT", "VALUE", "WHO", "AMOUNT"];

/// The width that every terminal has.
const WIDTH: usize = 79;

/// The most violations that are drawn: those of the latest windows.
const DRAWN_MAX: usize = 14;

/// Standard output.
pub(super) struct Screen {
    out: OutputFile,
    /// The redrawn table, on a terminal.
    live: Option<ProgressBar>,
}

impl Screen {
    pub(super) fn open() -> Result<Self, Failure> {
        let live = io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_draw_target(ProgressDrawTarget::stdout());
            bar.set_style(
                ProgressStyle::with_template("{msg}").expect("the template is well formed"),
            );
            bar
        });
        Ok(Screen { out: OutputFile::open(Path::new("-"))?, live })
    }

    /// Whether there is a redrawn table.
    pub(super) fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Prints permanent lines.
    pub(super) fn print(&mut self, text: impl Display) -> Result<(), WriteError> {
        let out = &mut self.out;
        let mut write = || {
            out.write(|out| writeln!(out, "{text}"))?;
            out.flush()
        };
        match &self.live {
            Some(live) => live.suspend(write),
            None => write(),
        }
    }

    /// Prints a change, unless a table shows it.
    pub(super) fn print_change(&mut self, time: &str, alert: &Alert) -> Result<(), WriteError> {
        if self.is_live() {
            return Ok(());
        }
        let [window, limit, value, who, amount] = alert.cells();
        let event = table::event(alert.event);
        self.print(format_args!(
            "{time}  {event:<7}  {window}  {limit:<10}  {value:<9}  {who:<33}  {amount}"
        ))
    }

    /// Draws what is so now: a text, and the violations that stand.
    pub(super) fn draw(&self, text: &str, active: &[&Alert]) {
        let Some(live) = &self.live else { return };
        let left_out = active.len().saturating_sub(DRAWN_MAX);
        let mut text = format!("{text}\n\n{}", violations(&active[left_out..]));
        if left_out > 0 {
            text += &format!("and {left_out} of earlier windows\n");
        }
        let lines: Vec<String> =
            text.lines().map(|line| line.chars().take(WIDTH).collect()).collect();
        live.set_message(lines.join("\n"));
    }

    /// Removes the table.
    pub(super) fn clear(&mut self) {
        if let Some(live) = self.live.take() {
            live.finish_and_clear();
        }
    }
}

/// A table of violations.
pub(super) fn violations(active: &[&Alert]) -> Grid<5> {
    let mut grid = Grid::new(HEADING);
    active.iter().for_each(|alert| grid.push(alert.cells()));
    grid
}

/// A table of limits.
pub(super) fn limits(rows: &[Row]) -> Grid<5> {
    let mut grid = Grid::new(["LIMIT", "VALUE", "METRIC", "PER", "TO"]);
    for row in rows {
        let value = row.value.as_ref().map_or("none", |value| value.text());
        grid.push([
            row.name.to_string(),
            format!("{} {value}", word(&BOUNDS, &row.bound)),
            word(&METRICS, &row.scope.metric).into(),
            word(&PERS, &row.scope.per).into(),
            network::text(row.scope.destination),
        ]);
    }
    grid
}
