//! Aligned columns, for people.

use std::fmt::{self, Display};
use std::io::{self, Write};

/// Lines of cells below a heading. Each column is as wide as its widest cell.
#[derive(Clone, Debug)]
pub struct Grid<const COLUMNS: usize> {
    lines: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Grid<COLUMNS> {
    /// Returns a grid without lines.
    pub fn new(heading: [&str; COLUMNS]) -> Self {
        Grid { lines: vec![heading.map(str::to_owned)] }
    }

    /// Adds a line; an empty cell becomes `-`.
    pub fn push(&mut self, cells: [String; COLUMNS]) {
        self.lines.push(filled(cells));
    }
}

impl<const COLUMNS: usize> Display for Grid<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0; COLUMNS];
        self.lines.iter().for_each(|cells| widen(&mut widths, cells));
        self.lines.iter().try_for_each(|cells| writeln!(f, "{}", line(cells, &widths)))
    }
}

fn widen<const COLUMNS: usize>(widths: &mut [usize; COLUMNS], cells: &[String; COLUMNS]) {
    for (width, cell) in widths.iter_mut().zip(cells) {
        *width = cell.chars().count().max(*width);
    }
}

fn line<const COLUMNS: usize>(cells: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line += &format!("{cell:width$}  ");
    }
    line.truncate(line.trim_end().len());
    line
}

/// Writes a grid without storing its lines: `lines` makes them once to measure the columns, and once to write
/// them. Writes nothing if there are none.
pub fn write_lines<const COLUMNS: usize, L: Iterator<Item = [String; COLUMNS]>>(
    out: &mut dyn Write,
    title: &str,
    heading: [&str; COLUMNS],
    lines: impl Fn() -> L,
) -> io::Result<()> {
    let heading = heading.map(str::to_owned);
    let mut widths = [0; COLUMNS];
    widen(&mut widths, &heading);
    let mut count = 0;
    for cells in lines() {
        widen(&mut widths, &filled(cells));
        count += 1;
    }
    if count == 0 {
        return Ok(());
    }
    writeln!(out, "{title}\n{}", line(&heading, &widths))?;
    lines().try_for_each(|cells| writeln!(out, "{}", line(&filled(cells), &widths)))
}

/// An empty cell becomes `-`, so that columns can be counted.
fn filled<const COLUMNS: usize>(cells: [String; COLUMNS]) -> [String; COLUMNS] {
    cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell })
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
        let lines =
            || [["größer".to_owned(), "1".into()], [String::new(), "22".into()]].into_iter();
        let mut out = Vec::new();
        write_lines(&mut out, "title", ["name", "n"], lines).expect("memory");
        assert_eq!(out, format!("title\n{grid}").as_bytes());
        out.clear();
        write_lines(&mut out, "title", ["name", "n"], || [].into_iter()).expect("memory");
        assert_eq!(out, b"");
    }
}
