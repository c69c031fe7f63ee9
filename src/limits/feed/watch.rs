//! Receives file system events about a file, through links.
//!
//! The watched objects are directories, since writers mostly replace a file by another one of its name: the
//! directory of the path, and those of all links on the route to the file, such as those of a mounted ConfigMap.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// Maximum links to follow, since links may form a circle.
const LINKS_MAX: usize = 40;

/// All events about a file since the last poll, as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileEvents {
    /// No event that requires a reading.
    None,
    /// A file was moved or removed in a watched directory.
    Nearby,
    /// A writer closed the file, or moved it into its place.
    Complete,
}

/// The meaning of one event for the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventMeaning {
    /// A writer changed the file and may change it again.
    Written,
    /// A file was moved or removed in a watched directory.
    Nearby,
    /// A writer closed the file, or moved it into its place.
    Complete,
    /// Events were lost.
    Lost,
}

/// The names that lead to the file.
type Names = Arc<Mutex<Vec<OsString>>>;

/// All events since the last poll, merged: the file system may not respond to a poll for hours, while files beside
/// this one come and go.
#[derive(Default)]
struct MergedEvents {
    state: Mutex<MergedState>,
    arrived: Condvar,
}

#[derive(Clone, Copy)]
struct MergedState {
    events: FileEvents,
    is_written: bool,
}

impl Default for MergedState {
    fn default() -> Self {
        MergedState { events: FileEvents::None, is_written: false }
    }
}

impl MergedEvents {
    fn state(&self) -> MutexGuard<'_, MergedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, event: EventMeaning) {
        let mut state = self.state();
        let MergedState { events, is_written } = *state;
        let (events, is_written) = match event {
            // The file is no longer complete.
            EventMeaning::Written => (FileEvents::None, true),
            EventMeaning::Complete => (FileEvents::Complete, false),
            EventMeaning::Nearby if events == FileEvents::None => (FileEvents::Nearby, is_written),
            EventMeaning::Nearby => (events, is_written),
            EventMeaning::Lost => (FileEvents::Nearby, false),
        };
        *state = MergedState { events, is_written };
        drop(state);
        self.arrived.notify_all();
    }

    /// Waits for events, for `at_most` this long, and takes them.
    fn wait(&self, at_most: Duration) -> MergedState {
        let silent = |state: &mut MergedState| state.events == FileEvents::None;
        let waited = self.arrived.wait_timeout_while(self.state(), at_most, silent);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let taken = *state;
        state.events = FileEvents::None;
        taken
    }
}

pub(super) struct FileWatch {
    path: PathBuf,
    /// `None`: this system has no file events, or no watches left.
    watcher: Option<RecommendedWatcher>,
    names: Names,
    /// The watched directories, with device and inode as of the start of the watch.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    merged: Arc<MergedEvents>,
    /// Whether a writer has the file open.
    is_written: bool,
}

impl FileWatch {
    pub(super) fn of(path: &Path) -> Self {
        let (merged, names) = (Arc::<MergedEvents>::default(), Names::default());
        let (to, known) = (merged.clone(), names.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(event) =
                event.as_ref().map_or(Some(EventMeaning::Lost), |event| meaning(event, &known))
            {
                to.add(event);
            }
        });
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "no file events about limits: the file is polled every second");
        });
        let mut watch = FileWatch {
            path: path.to_owned(),
            watcher: watcher.ok(),
            names,
            watched: BTreeMap::new(),
            merged,
            is_written: false,
        };
        watch.follow_links();
        watch
    }

    /// Watches the directories that now lead to the file: links may have changed, and another directory may have taken
    /// the name of a watched one.
    pub(super) fn follow_links(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let (directories, names) = link_route(&self.path);
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        let identity = |directory: &Path| {
            let meta = std::fs::metadata(directory).ok()?;
            Some((meta.dev(), meta.ino()))
        };
        let wanted: BTreeMap<PathBuf, (u64, u64)> = directories
            .into_iter()
            .filter_map(|directory| identity(&directory).map(|found| (directory, found)))
            .collect();
        for (directory, found) in &self.watched {
            if wanted.get(directory) != Some(found) {
                // This fails for a directory that was removed: the system no longer watches it.
                let _ = watcher.unwatch(directory);
            }
        }
        let mut watched = BTreeMap::new();
        for (directory, found) in wanted {
            let is_watched = self.watched.get(&directory) == Some(&found);
            // The next poll tries a watch that fails again, and sees the file anyway.
            if is_watched || watcher.watch(&directory, RecursiveMode::NonRecursive).is_ok() {
                watched.insert(directory, found);
            }
        }
        self.watched = watched;
    }

    /// Waits for events, for `at_most` this long, and returns all of them as one.
    pub(super) fn wait(&mut self, at_most: Duration) -> FileEvents {
        let MergedState { events, is_written } = self.merged.wait(at_most);
        self.is_written = is_written;
        events
    }

    /// Whether a writer has the file open.
    pub(super) fn is_written(&self) -> bool {
        self.is_written
    }
}

/// Returns the directories on the route to a file, and the names that lead through them.
fn link_route(path: &Path) -> (Vec<PathBuf>, Vec<OsString>) {
    let (mut directories, mut names) = (Vec::new(), Vec::new());
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let directory = match at.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        names.extend(at.file_name().map(ToOwned::to_owned));
        directories.push(directory.clone());
        // A directory on the route may be a link, too: when the link is replaced, the event is in its own directory.
        if let Ok(real) = directory.canonicalize()
            && let Some(above) = directory.parent().filter(|above| *above != Path::new(""))
            && directory.is_symlink()
        {
            directories.push(above.to_owned());
            directories.push(real);
        }
        match std::fs::read_link(&at) {
            Ok(target) => at = directory.join(target),
            Err(_) => break,
        }
    }
    (directories, names)
}

/// Returns the meaning of an event for a file of these names. A write requires no reading, since the file may be half
/// written. Events of reading are ignored: each would lead to a reading, which makes the next such event.
fn meaning(event: &Event, names: &[OsString]) -> Option<EventMeaning> {
    let named = || {
        let mut found = event.paths.iter().filter_map(|path| path.file_name());
        found.any(|name| names.iter().any(|known| known == name))
    };
    let is_link = || event.paths.iter().any(|path| path.is_symlink());
    match event.kind {
        _ if event.need_rescan() => Some(EventMeaning::Lost),
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
            named().then_some(EventMeaning::Complete)
        }
        EventKind::Modify(ModifyKind::Data(_)) => named().then_some(EventMeaning::Written),
        EventKind::Modify(ModifyKind::Name(_)) if named() => Some(EventMeaning::Complete),
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Some(EventMeaning::Nearby),
        // A link is complete once it exists.
        EventKind::Create(_) if is_link() => Some(EventMeaning::Nearby),
        EventKind::Create(_) => named().then_some(EventMeaning::Written),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use notify::event::{CreateKind, DataChange, Flag, RemoveKind, RenameMode};

    use super::*;

    #[test]
    fn events_of_reading_are_ignored_and_those_of_writing_are_classified() {
        let names = [OsString::from("limits.json")];
        let meaning_of = |kind, path: &str| {
            meaning(&Event { kind, paths: vec![path.into()], attrs: Default::default() }, &names)
        };
        let ours = "/etc/floodmark/limits.json";
        for mode in [AccessMode::Read, AccessMode::Any, AccessMode::Other] {
            assert_eq!(meaning_of(EventKind::Access(AccessKind::Open(mode)), ours), None);
            assert_eq!(meaning_of(EventKind::Access(AccessKind::Close(mode)), ours), None);
        }
        assert_eq!(meaning_of(EventKind::Access(AccessKind::Read), ours), None);
        for written in [
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Data(DataChange::Any)),
        ] {
            assert_eq!(meaning_of(written, ours), Some(EventMeaning::Written));
            assert_eq!(meaning_of(written, "/etc/floodmark/other"), None);
        }
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert_eq!(meaning_of(closed, ours), Some(EventMeaning::Complete));
        assert_eq!(meaning_of(closed, "/etc/floodmark/other"), None);
        let moved = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert_eq!(meaning_of(moved, ours), Some(EventMeaning::Complete));
        assert_eq!(meaning_of(moved, "/etc/floodmark/..data"), Some(EventMeaning::Nearby));
        assert_eq!(
            meaning_of(EventKind::Remove(RemoveKind::File), ours),
            Some(EventMeaning::Nearby)
        );
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(meaning(&lost, &names), Some(EventMeaning::Lost));
    }

    /// One wait returns all events before it.
    #[test]
    fn file_events_are_merged_and_returned_once() {
        let merged = MergedEvents::default();
        let wait_after = |all: &[EventMeaning]| {
            all.iter().for_each(|event| merged.add(*event));
            let MergedState { events, is_written } = merged.wait(Duration::ZERO);
            (events, is_written)
        };
        assert_eq!(wait_after(&[]), (FileEvents::None, false));
        assert_eq!(wait_after(&[EventMeaning::Nearby; 100_000]), (FileEvents::Nearby, false));
        assert_eq!(
            wait_after(&[EventMeaning::Complete, EventMeaning::Nearby]),
            (FileEvents::Complete, false)
        );
        assert_eq!(
            wait_after(&[EventMeaning::Complete, EventMeaning::Written]),
            (FileEvents::None, true)
        );
        assert_eq!(wait_after(&[]), (FileEvents::None, true), "it is not closed yet");
        assert_eq!(wait_after(&[EventMeaning::Nearby]), (FileEvents::Nearby, true));
        assert_eq!(
            wait_after(&[EventMeaning::Lost, EventMeaning::Complete]),
            (FileEvents::Complete, false)
        );
        assert_eq!(wait_after(&[]), (FileEvents::None, false));
    }

    #[test]
    fn directories_and_names_of_all_links_are_on_the_route() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        // As a ConfigMap is mounted.
        std::fs::create_dir(at("..v1")).unwrap();
        std::fs::write(at("..v1/limits.json"), "").unwrap();
        symlink("..v1", at("..data")).unwrap();
        symlink("..data/limits.json", at("limits.json")).unwrap();
        let (directories, names) = link_route(&at("limits.json"));
        for expected in [place.path().to_owned(), at("..data"), at("..v1").canonicalize().unwrap()]
        {
            assert!(directories.contains(&expected), "{expected:?} in {directories:?}");
        }
        assert_eq!(names, ["limits.json", "limits.json"]);
        // A link to itself leads nowhere.
        symlink("loop", at("loop")).unwrap();
        assert!(link_route(&at("loop")).0.len() <= 3 * LINKS_MAX);
        assert_eq!(link_route(Path::new("limits.json")).0, [PathBuf::from(".")]);
    }
}
