//! A file of limits that is followed: read whole whenever it may have changed, compared, handed on.
//!
//! Notifications only say when to read; a look once a second is the fallback where there are none. What
//! can't be read, or is no file of limits, leaves the limits as they are, and is said once.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use metrics::gauge;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};

use super::json;
use super::rows::{Defaults, Row};
use crate::error::{Exit, Failure};

/// Without a notification the file is looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The rows that hold, whenever they differ from those before.
pub type Rows = Vec<Row>;

/// A file of limits.
pub struct FileFeed {
    path: PathBuf,
    defaults: Defaults,
    /// What the file was when it was read last.
    bytes: Vec<u8>,
    /// What was said about it last, if it could not be read.
    complaint: Option<String>,
}

/// Whether something may have changed. That somebody reads is no change: this reads, too, and would tell
/// itself so for ever.
fn is_change(event: &notify::Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
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
        let mut feed =
            FileFeed { path: path.to_owned(), defaults, bytes: Vec::new(), complaint: None };
        let rows = feed
            .take(bytes)
            .with_context(reading)
            .map_err(|error| Failure::new(Exit::BadConfig, error))?;
        Ok((feed, rows))
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
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<_>| {
            // Whichever file it is about: to read ours costs less than to tell.
            if event.as_ref().map_or(true, is_change) {
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
            self.complaint = None;
            return None;
        }
        match read.and_then(|bytes| self.take(bytes)) {
            Ok(rows) => {
                tracing::info!(file = %self.path.display(), rows = rows.len(), "limits have changed");
                self.complaint = None;
                Some(rows)
            }
            Err(error) => {
                let why = format!("{error:#}");
                if self.complaint.as_ref() != Some(&why) {
                    let file = self.path.display().to_string();
                    tracing::error!(file, "the limits stay as they are: {why}");
                    self.complaint = Some(why);
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
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        gauge!("floodmark_limits_last_reload_success_timestamp_seconds").set(now.as_secs_f64());
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use notify::Event;
    use notify::event::{CreateKind, ModifyKind};

    use super::*;

    #[test]
    fn reading_is_no_change() {
        let is_change = |kind| is_change(&Event::new(kind));
        for mode in [AccessMode::Read, AccessMode::Any] {
            assert!(!is_change(EventKind::Access(AccessKind::Open(mode))));
            assert!(!is_change(EventKind::Access(AccessKind::Close(AccessMode::Read))));
        }
        assert!(is_change(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(is_change(EventKind::Create(CreateKind::File)));
        assert!(is_change(EventKind::Modify(ModifyKind::Any)));
        assert!(is_change(EventKind::Any));
    }
}
