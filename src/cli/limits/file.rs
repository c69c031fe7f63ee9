//! Files that are replaced as a whole, so that a follower never reads half of one.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::base::error::{Exit, Failure};

/// Replaces the text of a file by the result of `change`; `None` leaves the file. Concurrent calls run one
/// after the other.
pub(super) fn rewrite<T>(
    path: &Path,
    change: impl FnOnce(&[u8]) -> Result<(Option<String>, T), Failure>,
) -> Result<T, Failure> {
    let (path, mut file, metadata) = open(path)
        .with_context(|| format!("reading limits from \"{}\"", path.display()))
        .map_err(|error| Failure::new(Exit::NoInput, error))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .with_context(|| format!("reading limits from \"{}\"", path.display()))
        .map_err(|error| Failure::new(Exit::NoInput, error))?;
    let (text, result) = change(&bytes)?;
    if let Some(text) = text {
        replace(&path, text.as_bytes(), Some(&metadata))?;
    }
    Ok(result)
}

/// Opens a file and locks it against other rewrites. Follows links to the file to replace.
fn open(path: &Path) -> std::io::Result<(PathBuf, File, Metadata)> {
    loop {
        let target = fs::canonicalize(path)?;
        // Check before opening, which would wait for the other end of a pipe.
        if !fs::metadata(&target)?.is_file() {
            return Err(std::io::Error::other(
                "the path is no regular file, so it can't be replaced",
            ));
        }
        let file = File::open(&target)?;
        // Fails on a file system without locks; then nothing serializes rewrites.
        let _ = file.lock();
        let metadata = file.metadata()?;
        // During the wait another process may have replaced the file.
        if fs::metadata(&target).is_ok_and(|there| there.ino() == metadata.ino()) {
            return Ok((target, file, metadata));
        }
    }
}

/// Writes a file: creates or replaces it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    match fs::canonicalize(path) {
        Ok(target) => {
            let metadata = fs::metadata(&target).ok();
            if metadata.as_ref().is_some_and(|metadata| !metadata.is_file()) {
                // A pipe or device is not replaced.
                return fs::write(&target, bytes)
                    .with_context(|| write_context(path))
                    .map_err(Into::into);
            }
            replace(&target, bytes, metadata.as_ref())
        }
        Err(_) => replace(path, bytes, None),
    }
}

fn write_context(path: &Path) -> String {
    format!("writing \"{}\"", path.display())
}

fn replace(path: &Path, bytes: &[u8], like: Option<&Metadata>) -> Result<(), Failure> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let write = || {
        // The umask of the process applies to the mode of a new file.
        let mode = like.map_or(0o666, |like| like.permissions().mode());
        let mut new = tempfile::Builder::new()
            .prefix(".floodmark-")
            .permissions(Permissions::from_mode(mode & 0o777))
            .tempfile_in(directory.unwrap_or(Path::new(".")))?;
        new.write_all(bytes)?;
        if let Some(like) = like {
            // Only root can change the owner, and must: the old owner may be the reader of the file.
            let _ = fchown(new.as_file(), Some(like.uid()), Some(like.gid()));
            new.as_file().set_permissions(like.permissions())?;
        }
        new.as_file().sync_all()?;
        new.persist(path)?;
        Ok::<_, std::io::Error>(())
    };
    write().with_context(|| write_context(path)).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upper(bytes: &[u8]) -> Result<(Option<String>, usize), Failure> {
        Ok((Some(String::from_utf8_lossy(bytes).to_uppercase()), bytes.len()))
    }

    #[test]
    fn path_that_is_no_regular_file_is_not_replaced() {
        let place = tempfile::tempdir().unwrap();
        let pipe = place.path().join("pipe");
        let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
        nix::unistd::mkfifo(&pipe, mode).unwrap();
        for other in [&pipe, place.path()] {
            let failure = rewrite(other, upper).unwrap_err();
            assert_eq!(failure.exit, Exit::NoInput);
            assert!(format!("{:#}", failure.error).contains("no regular file"));
            assert!(!fs::metadata(other).unwrap().is_file());
        }
    }

    #[test]
    fn rewritten_file_keeps_its_mode_and_symbolic_links() {
        let place = tempfile::tempdir().unwrap();
        let (file, link) = (place.path().join("file"), place.path().join("link"));
        fs::write(&file, "abc").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let before = fs::metadata(&file).unwrap().ino();
        assert_eq!(rewrite(&link, upper).unwrap(), 3);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "ABC");
        let after = fs::metadata(&file).unwrap();
        assert_eq!(after.permissions().mode() & 0o777, 0o640);
        assert_ne!(after.ino(), before);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
        let missing = rewrite(&place.path().join("none"), upper).unwrap_err();
        assert_eq!(missing.exit, Exit::NoInput);
    }

    #[test]
    fn concurrent_rewrites_are_all_kept() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        write(&file, b"").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..8 {
                        let more = |bytes: &[u8]| {
                            let text = String::from_utf8_lossy(bytes) + "x";
                            Ok((Some(text.into_owned()), ()))
                        };
                        rewrite(&file, more).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_to_string(&file).unwrap(), "x".repeat(64));
    }
}
