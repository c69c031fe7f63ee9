//! Columns under each other, for people.

use std::fmt::{self, Display};

/// Lines of cells, the first the heading. Each column is as wide as its widest cell.
#[derive(Clone, Debug)]
pub struct Grid<const COLUMNS: usize> {
    lines: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Grid<COLUMNS> {
    /// A grid with nothing under its heading.
    pub fn new(heading: [&str; COLUMNS]) -> Self {
        Grid { lines: vec![heading.map(str::to_owned)] }
    }

    /// Adds a line; an empty cell becomes `-`, so that columns can be counted.
    pub fn push(&mut self, cells: [String; COLUMNS]) {
        self.lines.push(cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
    }

    fn width(&self, column: usize) -> usize {
        self.lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0)
    }
}

impl<const COLUMNS: usize> Display for Grid<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: [usize; COLUMNS] = std::array::from_fn(|column| self.width(column));
        for cells in &self.lines {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(widths) {
                line += &format!("{cell:width$}  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut grid = Grid::new(["name", "n"]);
        grid.push(["größer".into(), "1".into()]);
        grid.push([String::new(), "22".into()]);
        assert_eq!(grid.to_string(), "name    n\ngrößer  1\n-       22\n");
    }
}
