//! Compares the table of bounds in `ARCHITECTURE.md` with the code.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn text(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the section of `ARCHITECTURE.md` with the table of bounds.
fn section() -> String {
    let text = text("ARCHITECTURE.md");
    text.split_once("## Everything that waits").expect("the section").1.to_owned()
}

/// Returns all Rust files below a directory.
pub(crate) fn sources(directory: &str) -> Vec<PathBuf> {
    let (mut files, mut directories) = (Vec::new(), vec![root().join(directory)]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => directories.push(path),
                false if path.extension().is_some_and(|extension| extension == "rs") => {
                    files.push(path);
                }
                false => {}
            }
        }
    }
    files
}

#[test]
fn table_of_bounds_names_existing_constants_and_tests() {
    let section = section();
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    let tests: String = ["src", "tests", "dataflows/src", "dataflows/tests"]
        .iter()
        .flat_map(|directory| sources(directory))
        .map(text)
        .collect();
    for row in &rows[1..] {
        assert_eq!(row.len(), 5, "{row:?}");
        if let Some((constant, file)) = row[2].split_once(" in ") {
            let (constant, file) = (constant.trim_matches('`'), file.trim_matches('`'));
            let code = text(file);
            assert!(code.contains(constant), "{file} has no \"{constant}\"");
        }
        let test = row[4].trim_matches('`');
        assert!(tests.contains(&format!("fn {test}")), "there is no test {test}");
    }
}

#[test]
fn unbounded_channel_is_listed_in_the_table_of_bounds() {
    let section = section();
    for path in sources("src") {
        let code = text(&path);
        // Unit tests may use unbounded channels.
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let name = path.strip_prefix(root()).expect("a file of the project").display().to_string();
        let is_test = name.ends_with("tests.rs");
        if !is_test && code.contains("= channel") && code.contains("std::sync::mpsc") {
            assert!(section.contains(&name), "{name} has a channel without a bound");
        }
    }
}
