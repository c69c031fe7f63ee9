//! The files that the inputs of a command name: those in directories, and those that patterns match.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use glob::MatchOptions;
use walkdir::{DirEntry, WalkDir};

use super::names::{is_hidden, is_pattern};
use super::objects::Object;
use super::place::Place;
use crate::base::bucket::SCHEME;
use crate::base::error::{Exit, Failure};
use crate::base::quote::Quoted;

/// Returns the files that are meant, in the order of the inputs and of names.
///
/// # Errors
/// A directory has no files, or can't be read; a pattern matches nothing; or a file in a directory, or one that a pattern
/// matches, is meant twice.
pub fn expand(inputs: &[PathBuf]) -> Result<Vec<Place>, Failure> {
    let mut files = Files::default();
    for input in inputs {
        match input.to_str() {
            Some(place) if place.starts_with(SCHEME) => files.add_objects(place)?,
            Some(pattern) if is_pattern(pattern) && !input.exists() => {
                for matched in matches(pattern)? {
                    files.add(matched, true)?;
                }
            }
            _ => files.add(input.clone(), false)?,
        }
    }
    files.check_twice()?;
    Ok(files.found.into_iter().map(|(place, _)| place).collect())
}

/// Returns the exit code for an object that is not found.
fn exit(error: &anyhow::Error) -> Exit {
    match error.downcast_ref::<object_store::Error>() {
        None | Some(object_store::Error::NotFound { .. }) => Exit::NoInput,
        Some(_) => Exit::Unavailable,
    }
}

/// Returns the paths that match a pattern, as the shell has it.
fn matches(pattern: &str) -> Result<Vec<PathBuf>, Failure> {
    let reading = || format!("\"{pattern}\"");
    let options = MatchOptions {
        require_literal_separator: true,
        require_literal_leading_dot: true,
        ..MatchOptions::new()
    };
    let paths = glob::glob_with(pattern, options).with_context(reading);
    let paths = paths.map_err(|error| Failure::new(Exit::Usage, error))?;
    let paths = paths.collect::<Result<Vec<_>, _>>().with_context(reading);
    let paths = paths.map_err(|error| Failure::new(Exit::NoInput, error))?;
    match paths.is_empty() {
        true => Err(Failure::new(Exit::NoInput, anyhow!("no file matches \"{pattern}\""))),
        false => Ok(paths),
    }
}

/// The files that are found, each with whether a directory or a pattern stands for it.
#[derive(Default)]
struct Files {
    found: Vec<(Place, bool)>,
}

impl Files {
    /// Adds a file, or all files in a directory and those in it.
    fn add(&mut self, path: PathBuf, is_expanded: bool) -> Result<(), Failure> {
        if !path.is_dir() {
            self.found.push((Place::Path(path), is_expanded));
            return Ok(());
        }
        let count = self.found.len();
        let entries = WalkDir::new(&path).follow_links(true).sort_by_file_name().into_iter();
        let is_seen = |entry: &DirEntry| {
            entry.depth() == 0 || !is_hidden(entry.file_name().as_encoded_bytes())
        };
        for entry in entries.filter_entry(is_seen) {
            let entry = match entry {
                Ok(entry) => entry,
                // A link to nothing: editors leave such.
                Err(error) if error.path().is_some_and(is_hidden_path) => continue,
                Err(error) => {
                    let place = path.to_string_lossy();
                    let error =
                        anyhow!(error).context(format!("reading the directory {}", Quoted(&place)));
                    return Err(Failure::new(Exit::NoInput, error));
                }
            };
            if entry.file_type().is_file() {
                self.found.push((Place::Path(entry.into_path()), true));
            }
        }
        match self.found.len() == count {
            true => {
                let error =
                    anyhow!("the directory {} has no files", Quoted(&path.to_string_lossy()));
                Err(Failure::new(Exit::NoInput, error))
            }
            false => Ok(()),
        }
    }

    /// Adds the objects of a bucket that a name stands for.
    fn add_objects(&mut self, place: &str) -> Result<(), Failure> {
        let objects = Object::find(place).with_context(|| format!("finding \"{place}\""));
        let objects = objects.map_err(|error| Failure::new(exit(&error), error))?;
        for object in objects {
            let is_expanded = object.name() != place;
            self.found.push((Place::Object(object), is_expanded));
        }
        Ok(())
    }

    /// Checks that no file is meant twice, but those that the user names twice.
    fn check_twice(&self) -> Result<(), Failure> {
        let mut found: BTreeMap<PathBuf, bool> = BTreeMap::new();
        for (place, is_expanded) in &self.found {
            let name = match place {
                // One that has gone since is reported when it is opened.
                Place::Path(path) if path.is_file() => path.canonicalize().unwrap_or(path.clone()),
                Place::Path(_) => continue,
                Place::Object(object) => PathBuf::from(object.name()),
            };
            if let Some(before) = found.insert(name.clone(), *is_expanded)
                && (before || *is_expanded)
            {
                let name = name.to_string_lossy();
                let error =
                    anyhow!("{} is read twice: its records would count twice", Quoted(&name));
                return Err(Failure::new(Exit::Usage, error));
            }
        }
        Ok(())
    }
}

fn is_hidden_path(path: &Path) -> bool {
    path.file_name().is_some_and(|name| is_hidden(name.as_encoded_bytes()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(directory: &Path, inputs: &[&str]) -> Result<String, String> {
        let inputs: Vec<_> = inputs.iter().map(|input| directory.join(input)).collect();
        let files = expand(&inputs).map_err(|failure| format!("{:#}", failure.error))?;
        let name = |file: &Place| {
            let Place::Path(file) = file else { panic!("an object") };
            let name = file.strip_prefix(directory).expect("a file in the directory");
            name.display().to_string()
        };
        Ok(files.iter().map(name).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn directories_and_patterns_stand_for_their_files() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let place = place.path();
        for directory in ["d/date=1", "d/date=2", "d/_temporary", "empty/.git"] {
            fs::create_dir_all(place.join(directory)).expect("a directory");
        }
        for file in [
            "b.csv",
            "a.csv",
            "c.txt",
            "x[1].csv",
            "d/date=2/a",
            "d/date=1/b",
            "d/.a.crc",
            "d/_SUCCESS",
            "d/_temporary/a",
        ] {
            fs::write(place.join(file), file).expect("a file");
        }
        for (to, link) in [("a.csv", "link"), ("nothing", "d/.#lock")] {
            std::os::unix::fs::symlink(to, place.join(link)).expect("a link");
        }
        for (inputs, expected) in [
            (&["c.txt", "b.csv"][..], "c.txt b.csv"),
            (&["*.csv"], "a.csv b.csv x[1].csv"),
            (&["d/*"], "d/_SUCCESS d/_temporary/a d/date=1/b d/date=2/a"),
            // Named twice, and read twice.
            (&["a.csv", "a.csv"], "a.csv a.csv"),
            (&["x[1].csv"], "x[1].csv"),
            (&["d"], "d/date=1/b d/date=2/a"),
            (&["d/date=*", "[ab].csv"], "d/date=1/b d/date=2/a a.csv b.csv"),
            // One that is not there is reported when it is opened.
            (&["none"], "none"),
        ] {
            assert_eq!(names(place, inputs).as_deref(), Ok(expected), "{inputs:?}");
        }
        for (inputs, expected) in [
            (&["empty"][..], "has no files"),
            (&["*.pcap"], "no file matches"),
            (&["a***"], "a***"),
            (&["a.csv", "?.csv"], "is read twice"),
            (&["link", "*.csv"], "is read twice"),
            (&["d", "d/date=1/b"], "is read twice"),
        ] {
            let error = names(place, inputs).expect_err("a fault");
            assert!(error.contains(expected), "{inputs:?}: {error}");
        }
    }
}
