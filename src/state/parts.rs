//! Writes the totals of windows that a worker has, on a thread of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::Context as _;
use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::{Pair, Volume};
use serde::{Deserialize, Serialize};

use super::manifest::{SavedPart, TOTALS};
use super::store::Store;
use super::totals;
use crate::base::error::Failure;
use crate::base::threads;

/// The totals of some windows, to be written under names of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsRequest {
    /// The tick of the totals.
    pub tick: u64,
    /// The owner of the state.
    pub incarnation: u64,
    /// The windows.
    pub windows: Vec<Window>,
}

/// The result of a request, of one worker. A window of which the worker has no totals is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenParts {
    /// The tick of the totals.
    pub tick: u64,
    /// The parts by window, or the reason why they could not be written.
    pub parts: Result<Vec<(Window, SavedPart)>, String>,
}

enum Job {
    Rows(Window, Vec<(Pair, Volume)>),
    Finish(PartsRequest),
}

/// The writer of one worker. The rows of the windows of one request wait for it.
pub struct PartWriter {
    jobs: Sender<Job>,
    written: Receiver<WrittenParts>,
}

impl PartWriter {
    /// Starts the thread.
    pub fn start(store: Arc<dyn Store>, worker: usize) -> Result<Self, Failure> {
        let (jobs, to_do) = channel();
        let (done, written) = channel();
        let worker_thread = thread::current();
        thread::Builder::new()
            .name("state".into())
            .spawn(move || {
                // Ticks would wait for the processor meanwhile.
                threads::let_others_go_first();
                let mut rows = BTreeMap::<Window, Vec<_>>::new();
                for job in to_do {
                    match job {
                        Job::Rows(window, more) => rows.entry(window).or_default().extend(more),
                        Job::Finish(request) => {
                            let rows = std::mem::take(&mut rows);
                            let parts = write(&*store, worker, &request, rows);
                            let parts = parts.map_err(|error| format!("{error:#}"));
                            if done.send(WrittenParts { tick: request.tick, parts }).is_err() {
                                return;
                            }
                            worker_thread.unpark();
                        }
                    }
                }
            })
            .context("starting the thread that writes the state")?;
        Ok(PartWriter { jobs, written })
    }

    /// Adds totals of a window of the next request.
    pub fn add(&self, window: Window, rows: Vec<(Pair, Volume)>) {
        // The thread ends only with the receiver of its results, which is this one.
        let _ = self.jobs.send(Job::Rows(window, rows));
    }

    /// Has the parts of a request written: all totals were added.
    pub fn finish(&self, request: PartsRequest) {
        let _ = self.jobs.send(Job::Finish(request));
    }

    /// Returns the next result, if there is one.
    pub fn next(&self) -> Option<WrittenParts> {
        self.written.try_recv().ok()
    }
}

fn write(
    store: &dyn Store,
    worker: usize,
    request: &PartsRequest,
    rows: BTreeMap<Window, Vec<(Pair, Volume)>>,
) -> anyhow::Result<Vec<(Window, SavedPart)>> {
    let PartsRequest { tick, incarnation, .. } = request;
    let mut parts = Vec::new();
    for (window, rows) in rows {
        let sum = |number: fn(&Volume) -> i64| -> i128 {
            rows.iter().map(|(_, volume)| i128::from(number(volume))).sum()
        };
        let (bytes, packets) = (sum(|volume| volume.bytes), sum(|volume| volume.packets));
        let count = rows.len() as u64;
        let content = totals::write(window, rows)?;
        let file = format!("{TOTALS}/{}-{tick}-{incarnation}-{worker}.parquet", window.0);
        store.put(&file, &content).with_context(|| format!("writing {file}"))?;
        let (size, crc32) = (content.len() as u64, crc32fast::hash(&content));
        parts.push((window, SavedPart { file, rows: count, bytes, packets, size, crc32 }));
    }
    Ok(parts)
}
