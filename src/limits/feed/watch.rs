//! Notifications about a file, wherever links lead.
//!
//! The watched objects are directories, since a file is mostly replaced by another one of its name: the
//! directory of the path, and those of all links on the way to the file, such as those of a mounted ConfigMap.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// The most links that are followed, since links may form a circle.
const LINKS_MAX: usize = 40;

/// The change of a file since the last look, as far as events tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// No event calls for a look.
    None,
    /// Something was moved or removed in a watched directory.
    Around,
    /// The file was written to its end, or moved into its place.
    Whole,
}

/// The meaning of one event for the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Somebody writes to the file.
    Written,
    Around,
    Whole,
    /// Events were lost.
    Lost,
}

/// The names that lead to the file.
type Names = Arc<Mutex<Vec<OsString>>>;

/// All events since the last look, merged: the file system may not respond to the look for hours, while
/// files beside this one come and go.
#[derive(Default)]
struct Ear {
    state: Mutex<EarState>,
    heard: Condvar,
}

#[derive(Clone, Copy)]
struct EarState {
    news: News,
    is_written: bool,
}

impl Default for EarState {
    fn default() -> Self {
        EarState { news: News::None, is_written: false }
    }
}

impl Ear {
    fn state(&self) -> MutexGuard<'_, EarState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, heard: Heard) {
        let mut state = self.state();
        let EarState { news, is_written } = *state;
        let (news, is_written) = match heard {
            // A file that was whole is so no longer.
            Heard::Written => (News::None, true),
            Heard::Whole => (News::Whole, false),
            Heard::Around if news == News::None => (News::Around, is_written),
            Heard::Around => (news, is_written),
            Heard::Lost => (News::Around, false),
        };
        *state = EarState { news, is_written };
        drop(state);
        self.heard.notify_all();
    }

    /// Waits for news, for so long at most, and takes them.
    fn wait(&self, at_most: Duration) -> EarState {
        let silent = |state: &mut EarState| state.news == News::None;
        let waited = self.heard.wait_timeout_while(self.state(), at_most, silent);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let taken = *state;
        state.news = News::None;
        taken
    }
}

pub(super) struct Watch {
    path: PathBuf,
    /// `None`: this system has no notifications, or no more of them.
    watcher: Option<RecommendedWatcher>,
    names: Names,
    /// Directories, and which ones they were when they began to be watched.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    ear: Arc<Ear>,
    /// Whether somebody has begun to write to the file, and not closed it.
    is_written: bool,
}

impl Watch {
    pub(super) fn of(path: &Path) -> Self {
        let (ear, names) = (Arc::<Ear>::default(), Names::default());
        let (to, known) = (ear.clone(), names.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(heard) =
                event.as_ref().map_or(Some(Heard::Lost), |event| tells(event, &known))
            {
                to.hear(heard);
            }
        });
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "no notifications about limits: the file is looked at every second");
        });
        let mut watch = Watch {
            path: path.to_owned(),
            watcher: watcher.ok(),
            names,
            watched: BTreeMap::new(),
            ear,
            is_written: false,
        };
        watch.follow_links();
        watch
    }

    /// Watches the directories of the file as they are now: links may lead elsewhere, and another directory may
    /// have taken the name of one.
    pub(super) fn follow_links(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let (directories, names) = way(&self.path);
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
                // The system itself no longer watches a directory that was removed; then this fails.
                let _ = watcher.unwatch(directory);
            }
        }
        let mut watched = BTreeMap::new();
        for (directory, found) in wanted {
            let is_watched = self.watched.get(&directory) == Some(&found);
            // A watch that fails is tried again before the next look, and that look sees the file anyway.
            if is_watched || watcher.watch(&directory, RecursiveMode::NonRecursive).is_ok() {
                watched.insert(directory, found);
            }
        }
        self.watched = watched;
    }

    /// Waits for news, for so long at most. Returns all news as one.
    pub(super) fn wait(&mut self, at_most: Duration) -> News {
        let EarState { news, is_written } = self.ear.wait(at_most);
        self.is_written = is_written;
        news
    }

    /// Whether somebody has begun to write to the file, and not closed it.
    pub(super) fn is_written(&self) -> bool {
        self.is_written
    }
}

/// The directories on the way to a file, and the names that lead through them.
fn way(path: &Path) -> (Vec<PathBuf>, Vec<OsString>) {
    let (mut directories, mut names) = (Vec::new(), Vec::new());
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let directory = match at.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        names.extend(at.file_name().map(ToOwned::to_owned));
        directories.push(directory.clone());
        // A directory on the way may be a link, too: when the link is replaced, the event is in its own directory.
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

/// Returns the meaning of an event for a file of these names. An event of a write calls for no reading, since
/// the file may be half written. Events of reading are ignored: a notification leads to a reading, so
/// notifications of readings would never end.
fn tells(event: &Event, names: &[OsString]) -> Option<Heard> {
    let named = || {
        let mut found = event.paths.iter().filter_map(|path| path.file_name());
        found.any(|name| names.iter().any(|known| known == name))
    };
    let is_link = || event.paths.iter().any(|path| path.is_symlink());
    match event.kind {
        _ if event.need_rescan() => Some(Heard::Lost),
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => named().then_some(Heard::Whole),
        EventKind::Modify(ModifyKind::Data(_)) => named().then_some(Heard::Written),
        EventKind::Modify(ModifyKind::Name(_)) if named() => Some(Heard::Whole),
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Some(Heard::Around),
        // Links are made, not written.
        EventKind::Create(_) if is_link() => Some(Heard::Around),
        EventKind::Create(_) => named().then_some(Heard::Written),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use notify::event::{CreateKind, DataChange, Flag, RemoveKind, RenameMode};

    use super::*;

    #[test]
    fn a_file_is_read_when_it_is_whole_and_not_since_it_was_read() {
        let names = [OsString::from("limits.json")];
        let told = |kind, path: &str| {
            tells(&Event { kind, paths: vec![path.into()], attrs: Default::default() }, &names)
        };
        let ours = "/etc/floodmark/limits.json";
        for mode in [AccessMode::Read, AccessMode::Any, AccessMode::Other] {
            assert_eq!(told(EventKind::Access(AccessKind::Open(mode)), ours), None);
            assert_eq!(told(EventKind::Access(AccessKind::Close(mode)), ours), None);
        }
        assert_eq!(told(EventKind::Access(AccessKind::Read), ours), None);
        for written in [
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Data(DataChange::Any)),
        ] {
            assert_eq!(told(written, ours), Some(Heard::Written));
            assert_eq!(told(written, "/etc/floodmark/other"), None);
        }
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert_eq!(told(closed, ours), Some(Heard::Whole));
        assert_eq!(told(closed, "/etc/floodmark/other"), None);
        let moved = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert_eq!(told(moved, ours), Some(Heard::Whole));
        assert_eq!(told(moved, "/etc/floodmark/..data"), Some(Heard::Around));
        assert_eq!(told(EventKind::Remove(RemoveKind::File), ours), Some(Heard::Around));
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(tells(&lost, &names), Some(Heard::Lost));
    }

    /// Several events before a wait are returned as one.
    #[test]
    fn news_are_merged_and_taken_once() {
        let ear = Ear::default();
        let heard = |all: &[Heard]| {
            all.iter().for_each(|heard| ear.hear(*heard));
            let EarState { news, is_written } = ear.wait(Duration::ZERO);
            (news, is_written)
        };
        assert_eq!(heard(&[]), (News::None, false));
        assert_eq!(heard(&[Heard::Around; 100_000]), (News::Around, false));
        assert_eq!(heard(&[Heard::Whole, Heard::Around]), (News::Whole, false));
        assert_eq!(heard(&[Heard::Whole, Heard::Written]), (News::None, true));
        assert_eq!(heard(&[]), (News::None, true), "it is not closed yet");
        assert_eq!(heard(&[Heard::Around]), (News::Around, true));
        assert_eq!(heard(&[Heard::Lost, Heard::Whole]), (News::Whole, false));
        assert_eq!(heard(&[]), (News::None, false));
    }

    #[test]
    fn all_links_are_on_the_way() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        // As a ConfigMap is mounted.
        std::fs::create_dir(at("..v1")).unwrap();
        std::fs::write(at("..v1/limits.json"), "").unwrap();
        symlink("..v1", at("..data")).unwrap();
        symlink("..data/limits.json", at("limits.json")).unwrap();
        let (directories, names) = way(&at("limits.json"));
        for expected in [place.path().to_owned(), at("..data"), at("..v1").canonicalize().unwrap()]
        {
            assert!(directories.contains(&expected), "{expected:?} in {directories:?}");
        }
        assert_eq!(names, ["limits.json", "limits.json"]);
        // A link to itself leads nowhere.
        symlink("loop", at("loop")).unwrap();
        assert!(way(&at("loop")).0.len() <= 3 * LINKS_MAX);
        assert_eq!(way(Path::new("limits.json")).0, [PathBuf::from(".")]);
    }
}
