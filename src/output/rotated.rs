//! A file that goes on being written after it was moved away, as programs that rotate logs do.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Exit, Failure};

/// A file that is appended to by its name: when the name stands for another file, or none, that one is
/// opened, or made.
#[derive(Debug)]
pub struct RotatedFile {
    path: PathBuf,
    file: File,
    /// Device and number of the file.
    identity: (u64, u64),
}

fn open(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, (metadata.dev(), metadata.ino())))
}

impl RotatedFile {
    /// Opens a file, and makes it if there is none.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let (file, identity) = open(path).map_err(|error| failed("opening", path, error))?;
        Ok(RotatedFile { path: path.to_owned(), file, identity })
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends whole lines.
    pub fn write(&mut self, lines: &[u8]) -> Result<(), Failure> {
        let here = std::fs::metadata(&self.path).map(|found| (found.dev(), found.ino()));
        if here.ok() != Some(self.identity) {
            let opened = open(&self.path).map_err(|error| failed("opening", &self.path, error));
            (self.file, self.identity) = opened?;
        }
        self.file.write_all(lines).map_err(|error| failed("writing to", &self.path, error))
    }
}

fn failed(doing: &str, path: &Path, error: io::Error) -> Failure {
    let context = format!("{doing} \"{}\"", path.display());
    Failure::new(Exit::Failed, anyhow::Error::new(error).context(context))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn what_is_moved_away_stays_as_it_was() -> anyhow::Result<()> {
        let place = tempfile::tempdir()?;
        let (path, moved) = (place.path().join("alerts"), place.path().join("alerts.1"));
        std::fs::write(&path, "before\n")?;
        let write = |file: &mut RotatedFile, line: &str| {
            file.write(line.as_bytes()).map_err(|failure| failure.error)
        };
        let mut file = RotatedFile::open(&path).map_err(|failure| failure.error)?;
        write(&mut file, "one\n")?;
        std::fs::rename(&path, &moved)?;
        write(&mut file, "two\n")?;
        std::fs::remove_file(&path)?;
        write(&mut file, "three\n")?;
        // Cut by a program that copies first, such as logrotate with copytruncate.
        File::options().write(true).open(&path)?.set_len(0)?;
        write(&mut file, "four\n")?;
        let read = |path: &Path| std::fs::read_to_string(path).context("reading");
        assert_eq!((read(&moved)?, read(&path)?), ("before\none\n".into(), "four\n".into()));
        Ok(())
    }
}
