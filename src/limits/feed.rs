//! A file of limits that is followed: read whole whenever it may have changed, compared, handed on.
//!
//! Notifications only say when to read; a look once a second is the fallback where there are none. What
//! can't be read, or is no file of limits, leaves the limits as they are, and is said once.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use metrics::gauge;
use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher};

use super::json;
use super::rows::{Defaults, Row};
use crate::error::{Exit, Failure};

/// Without a notification the file is looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The rows that hold, whenever they differ from those before.
pub type Rows = Vec<Row>;

/// Since when, and why, limits can't be read, if they can't. Who holds it looks at the thread that reads.
#[derive(Clone, Debug, Default)]
pub struct Health {
    trouble: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Health {
    /// For how long they could not be read, and why.
    pub fn trouble(&self) -> Option<(Duration, String)> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map(|(since, why)| (since.elapsed(), why.clone()))
    }

    /// They were read, or not. Returns whether that is news.
    fn set(&self, complaint: Option<String>) -> bool {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let before = trouble.take();
        let news = before.as_ref().map(|(_, why)| why) != complaint.as_ref();
        let since = before.map_or_else(Instant::now, |(since, _)| since);
        *trouble = complaint.map(|why| (since, why));
        news
    }
}

/// A file of limits.
pub struct FileFeed {
    path: PathBuf,
    defaults: Defaults,
    /// What the file was when it was read last.
    bytes: Vec<u8>,
    health: Health,
}

/// Whether the file may have become another one. While it is being written, half of it is no answer; and
/// to be notified of its being read, which is what a notification leads to, would never end. What is not
/// told here is found at the next look.
fn may_be_new(event: &Event) -> bool {
    let written = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
    let moved = matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)));
    written || moved || event.kind.is_remove() || event.need_rescan()
}

impl FileFeed {
    /// Reads a file for the first time.
    ///
    /// # Errors
    /// It can't be read, or is no file of limits: there is nothing yet that it could leave as it is.
    pub fn open(path: &Path, defaults: Defaults) -> Result<(Self, Rows), Failure> {
        let reading = || format!("reading limits from \"{}\"", path.display());
        let bytes = std::fs::read(path)
            .with_context(reading)
            .map_err(|error| Failure::new(Exit::NoInput, error))?;
        let mut feed = FileFeed {
            path: path.to_owned(),
            defaults,
            bytes: Vec::new(),
            health: Health::default(),
        };
        let rows = feed
            .take(bytes)
            .with_context(reading)
            .map_err(|error| Failure::new(Exit::BadConfig, error))?;
        Ok((feed, rows))
    }

    /// Whether it can be read, also later.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Follows the file on a thread of its own, until the receiver is dropped. `wake` is called after
    /// each change that is handed over.
    pub fn follow(mut self, wake: impl Fn() + Send + 'static) -> anyhow::Result<Receiver<Rows>> {
        let (rows_out, rows) = channel();
        let (touched_out, touched) = channel();
        // The directory, since a file is mostly replaced by another one of its name.
        let directory = match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Of whatever file of the directory: to read ours costs less than to tell.
            if event.as_ref().map_or(true, may_be_new) {
                let _ = touched_out.send(event.map(drop));
            }
        })
        .context("asking for notifications about files")?;
        if let Err(error) = watcher.watch(&directory, RecursiveMode::NonRecursive) {
            tracing::warn!(%error, "no notifications about limits: the file is looked at every second");
        }
        std::thread::Builder::new()
            .name("limits".into())
            .spawn(move || {
                let _watcher = watcher;
                self.run(&touched, &rows_out, wake);
            })
            .context("starting the thread that follows the limits")?;
        Ok(rows)
    }

    fn run(
        &mut self,
        touched: &Receiver<notify::Result<()>>,
        rows_out: &Sender<Rows>,
        wake: impl Fn(),
    ) {
        loop {
            match touched.recv_timeout(LOOK_INTERVAL) {
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                // Only with the watcher, which this thread holds.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // One reading answers all notifications so far.
            while touched.try_recv().is_ok() {}
            if let Some(rows) = self.look() {
                if rows_out.send(rows).is_err() {
                    return;
                }
                wake();
            }
        }
    }

    /// Reads the file, if it has changed. What is wrong with it is said once.
    fn look(&mut self) -> Option<Rows> {
        let read = std::fs::read(&self.path).map_err(anyhow::Error::from);
        if read.as_ref().is_ok_and(|bytes| *bytes == self.bytes) {
            self.read_well();
            return None;
        }
        match read.and_then(|bytes| self.take(bytes)) {
            Ok(rows) => {
                tracing::info!(file = %self.path.display(), rows = rows.len(), "limits have changed");
                Some(rows)
            }
            Err(error) => {
                let why = format!("{error:#}");
                if self.health.set(Some(why.clone())) {
                    let file = self.path.display().to_string();
                    tracing::error!(file, "the limits stay as they are: {why}");
                }
                None
            }
        }
    }

    /// Takes what the file is now; rows that are refused are said.
    fn take(&mut self, bytes: Vec<u8>) -> anyhow::Result<Rows> {
        let table = json::read(&bytes, self.defaults)?;
        let mut refused = 0;
        for (verdict, reason) in table.refusals() {
            let (file, position) = (self.path.display(), verdict.position);
            tracing::warn!("limits \"{file}\", {position}: refused: {reason}");
            refused += 1;
        }
        let rows: Rows = table.rows().cloned().collect();
        self.bytes = bytes;
        gauge!("floodmark_limits", "state" => "held").set(rows.len() as f64);
        gauge!("floodmark_limits", "state" => "refused").set(f64::from(refused));
        self.read_well();
        Ok(rows)
    }

    /// The file is as it should be, changed or not.
    fn read_well(&self) {
        self.health.set(None);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        gauge!("floodmark_limits_last_reload_success_timestamp_seconds").set(now.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use notify::event::{CreateKind, DataChange, Flag, RemoveKind, RenameMode};

    use super::*;

    const ROW: &str = r#"{"limit_name":"max","limit_value":VALUE,"effective_date":"2026-01-01"}"#;

    /// How long a change may take to be noticed. None comes near it, however busy the machine.
    const STUCK_AFTER: Duration = Duration::from_secs(60);

    fn row(value: u32) -> String {
        ROW.replace("VALUE", &value.to_string())
    }

    fn values(rows: &Rows) -> Vec<String> {
        let value =
            |row: &Row| row.value.as_ref().map_or("null".into(), |value| value.text().into());
        rows.iter().map(value).collect()
    }

    fn feed(text: &str) -> (tempfile::TempDir, PathBuf, FileFeed, Rows) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("limits.json");
        fs::write(&path, text).unwrap();
        let (feed, rows) = FileFeed::open(&path, Defaults::default()).ok().unwrap();
        (place, path, feed, rows)
    }

    #[test]
    fn what_is_no_file_of_limits_is_refused_at_first() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("limits.json");
        let exit = || FileFeed::open(&path, Defaults::default()).err().unwrap().exit;
        assert_eq!(exit(), Exit::NoInput);
        fs::write(&path, "[{").unwrap();
        assert_eq!(exit(), Exit::BadConfig);
    }

    #[test]
    fn a_look_tells_only_what_is_new_and_sound() {
        let (_place, path, mut feed, rows) = feed(&row(1));
        assert_eq!(values(&rows), ["1"]);
        assert_eq!(feed.look(), None);
        fs::write(&path, row(2) + "\n" + &row(2).replace("max", "other")).unwrap();
        assert_eq!(feed.look().map(|rows| values(&rows)), Some(vec!["2".into(), "2".into()]));
        assert_eq!(feed.look(), None);
        // Half-written, then gone: the limits stay, and it is remembered what was said about it.
        for broken in [Some(&row(3)[..20]), None] {
            match broken {
                Some(text) => fs::write(&path, text).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            assert_eq!(feed.look(), None);
            assert!(feed.health().trouble().is_some());
        }
        // A row that is no good is refused by itself.
        fs::write(&path, row(4) + "\n" + &row(5).replace("2026-01-01", "soon")).unwrap();
        assert_eq!(feed.look().map(|rows| values(&rows)), Some(vec!["4".into()]));
        assert_eq!(feed.health().trouble(), None);
    }

    #[test]
    fn a_file_that_takes_its_place_is_followed() {
        let (place, path, feed, _) = feed(&row(1));
        let (wake, woken) = channel::<()>();
        let changes = feed.follow(move || wake.send(()).unwrap_or_default()).unwrap();
        for value in 2..5 {
            let next = place.path().join("next");
            fs::write(&next, row(value)).unwrap();
            fs::rename(&next, &path).unwrap();
            let rows = changes.recv_timeout(STUCK_AFTER).expect("the change is told");
            assert_eq!(values(&rows), [value.to_string()]);
            woken.recv_timeout(STUCK_AFTER).expect("somebody is woken");
        }
    }

    #[test]
    fn a_file_is_read_when_it_is_whole_and_not_since_it_was_read() {
        let tells = |kind| may_be_new(&Event::new(kind));
        for mode in [AccessMode::Read, AccessMode::Any, AccessMode::Other] {
            assert!(!tells(EventKind::Access(AccessKind::Open(mode))));
            assert!(!tells(EventKind::Access(AccessKind::Close(mode))));
        }
        assert!(!tells(EventKind::Access(AccessKind::Read)));
        assert!(!tells(EventKind::Create(CreateKind::File)));
        assert!(!tells(EventKind::Modify(ModifyKind::Data(DataChange::Any))));
        assert!(tells(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(tells(EventKind::Modify(ModifyKind::Name(RenameMode::To))));
        assert!(tells(EventKind::Remove(RemoveKind::File)));
        assert!(may_be_new(&Event::new(EventKind::Other).set_flag(Flag::Rescan)));
    }
}
