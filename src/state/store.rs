//! The place of a state: objects with names, each written as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Objects with names such as `checkpoints/1-2.json`.
///
/// An object that a method has written survives a loss of power.
pub trait Store: Send + Sync {
    /// Writes an object. Another one of the name is replaced: readers see the one or the other.
    fn put(&self, name: &str, content: &[u8]) -> io::Result<()>;

    /// Writes an object unless there is one of the name. Returns whether it has.
    fn create(&self, name: &str, content: &[u8]) -> io::Result<bool>;

    /// Returns the content of an object; `None` if there is none.
    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Returns the names of the objects in a folder, with the name of the folder, and their sizes in bytes.
    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>>;

    /// Deletes an object, if it is there.
    fn delete(&self, name: &str) -> io::Result<()>;

    /// Locks the store for this process, until the lock is dropped or the process ends, if the store has locks.
    ///
    /// # Errors
    /// The owner's description of itself, if another process has the lock.
    fn lock(&self, owner: &str) -> io::Result<Result<Lock, String>>;
}

/// The lock of a store; `None`: the store has no locks.
pub struct Lock(#[expect(dead_code, reason = "it is held")] Option<Flock<File>>);

impl Lock {
    /// The lock of a store without locks.
    pub(super) const NONE: Lock = Lock(None);
}

/// A directory of a file system.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Opens a directory, and creates it if it does not exist.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        Ok(Directory { root: root.to_owned() })
    }

    /// Writes a file that is not visible by its name yet. Returns it with its path and the directory of that.
    fn write(&self, name: &str, content: &[u8]) -> io::Result<(tempfile::NamedTempFile, PathBuf)> {
        let path = self.root.join(name);
        let folder = path.parent().unwrap_or(&self.root);
        if !folder.is_dir() {
            fs::create_dir_all(folder)?;
            sync_folder(&self.root)?;
        }
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        Ok((file, path))
    }
}

/// The start of the names of files that are being written. A process that ends then leaves them behind.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// Makes the names of new files survive a loss of power.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl Store for Directory {
    fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let (file, path) = self.write(name, content)?;
        file.persist(&path)?;
        sync_folder(path.parent().unwrap_or(&self.root))
    }

    fn create(&self, name: &str, content: &[u8]) -> io::Result<bool> {
        let (file, path) = self.write(name, content)?;
        match file.persist_noclobber(&path) {
            Ok(_) => sync_folder(path.parent().unwrap_or(&self.root)).map(|()| true),
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.error),
        }
    }

    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.root.join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut objects = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            // Another process may delete files meanwhile.
            let size = entry.metadata().map(|metadata| metadata.len()).unwrap_or(0);
            objects.push((format!("{folder}/{name}"), size));
        }
        objects.sort();
        Ok(objects)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.root.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn lock(&self, owner: &str) -> io::Result<Result<Lock, String>> {
        let path = self.root.join("lock");
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0)?;
                lock.write_all(owner.as_bytes())?;
                Ok(Ok(Lock(Some(lock))))
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                Ok(Err(String::from_utf8_lossy(&fs::read(&path)?).into_owned()))
            }
            Err((_, error)) => Err(error.into()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn objects_are_written_replaced_listed_and_deleted() {
        let place = tempfile::tempdir().expect("a directory");
        let store = Directory::open(&place.path().join("state")).expect("it is created");
        check_store(&store);
    }

    /// Checks the contract of a store.
    pub(in crate::state) fn check_store(store: &dyn Store) {
        assert_eq!(store.get("a/1").unwrap(), None);
        assert_eq!(store.list("a").unwrap(), []);
        store.put("a/1", b"one").unwrap();
        store.put("a/1", b"eleven").unwrap();
        assert!(store.create("a/2", b"two").unwrap());
        assert!(!store.create("a/2", b"three").unwrap());
        assert_eq!(store.get("a/2").unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(store.list("a").unwrap(), [("a/1".to_owned(), 6), ("a/2".to_owned(), 3)]);
        store.delete("a/1").unwrap();
        store.delete("a/1").unwrap();
        assert_eq!(store.get("a/1").unwrap(), None);
        store.put("b/1", b"").unwrap();
        assert_eq!(store.get("b/1").unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(store.list("a").unwrap(), [("a/2".to_owned(), 3)]);
    }

    #[test]
    fn second_lock_gets_the_description_of_the_first_owner() {
        let place = tempfile::tempdir().expect("a directory");
        let store = Directory::open(place.path()).expect("it exists");
        let first = store.lock("process 7 on a").unwrap().expect("nobody has it");
        assert_eq!(store.lock("process 8 on b").unwrap().err().unwrap(), "process 7 on a");
        drop(first);
        assert!(store.lock("process 8 on b").unwrap().is_ok());
    }
}
