//! The part of one worker in the state of a run: it reads totals at the start, and writes those that it has.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use anyhow::Context as _;
use floodmark_dataflows::combine::{Combiner, UpdateBatch};
use floodmark_dataflows::reads::{Chunk, RequestId};
use floodmark_dataflows::time::Window;

use super::commands::ResumePlan;
use crate::base::error::{Exit, Failure};
use crate::source::TickRecords;
use crate::state::manifest::checked;
use crate::state::totals::Groups;
use crate::state::{PartWriter, PartsRequest, SavedPart, Store, WrittenParts};

/// The state of one worker.
pub(super) struct WorkerState {
    store: Arc<dyn Store>,
    index: usize,
    peers: usize,
    /// The files that are still to be read.
    unread: VecDeque<(Window, SavedPart)>,
    /// The file that is being read.
    reading: Option<(Window, SavedPart, Groups)>,
    /// The ticks up to which records are in the totals of each window.
    counted: BTreeMap<Window, u64>,
    writer: Option<PartWriter>,
    /// The requests whose totals are being read.
    saving: Vec<(RequestId, PartsRequest)>,
    /// Requests whose parts are being written.
    writing: usize,
    /// Requests that came too early.
    rejected: Vec<WrittenParts>,
}

impl WorkerState {
    pub(super) fn new(store: Arc<dyn Store>, index: usize, peers: usize) -> Self {
        WorkerState {
            store,
            index,
            peers,
            unread: VecDeque::new(),
            reading: None,
            counted: BTreeMap::new(),
            writer: None,
            saving: Vec::new(),
            writing: 0,
            rejected: Vec::new(),
        }
    }

    /// Begins to continue an earlier run. Each worker reads its share of the files.
    pub(super) fn resume(&mut self, plan: &ResumePlan) {
        let (index, peers) = (self.index, self.peers);
        let ours = plan.parts.iter().enumerate().filter(|(at, _)| at % peers == index);
        self.unread = ours.map(|(_, part)| part.clone()).collect();
        self.counted.clone_from(&plan.counted);
    }

    /// Returns some of the totals, as updates; `None` if all were returned.
    pub(super) fn load(&mut self) -> Result<Option<Vec<UpdateBatch>>, Failure> {
        loop {
            if let Some((window, part, groups)) = &mut self.reading {
                let rows = groups.next_group().with_context(|| format!("reading {}", part.file));
                let rows = rows.map_err(|error| Failure::new(Exit::BadData, error))?;
                if let Some(rows) = rows {
                    let mut combiner = Combiner::new(self.peers);
                    for (pair, volume) in rows {
                        combiner.add(*window, pair, volume);
                    }
                    return Ok(Some(combiner.take()));
                }
                self.reading = None;
            }
            let Some((window, part)) = self.unread.pop_front() else { return Ok(None) };
            let content = checked(&*self.store, &part.file, part.size, part.crc32);
            // It was undamaged when the run started: it is the store that fails.
            let content = content.map_err(|error| Failure::new(Exit::Unavailable, error))?;
            let groups =
                Groups::open(content).map_err(|error| Failure::new(Exit::BadData, error))?;
            self.reading = Some((window, part, groups));
        }
    }

    /// Leaves out the records of a repeated tick that the totals of their windows contain already.
    pub(super) fn leave_out_counted(&self, tick: u64, records: &mut TickRecords) {
        let is_new = |batch: &UpdateBatch| {
            self.counted.get(&batch.window).is_none_or(|counted| *counted < tick)
        };
        records.update_batches.retain(is_new);
    }

    /// Expects the totals of a request.
    pub(super) fn save(&mut self, request: RequestId, parts: PartsRequest) -> Result<(), Failure> {
        if self.writer.is_none() {
            self.writer = Some(PartWriter::start(self.store.clone(), self.index)?);
        }
        self.saving.push((request, parts));
        Ok(())
    }

    /// Accepts a chunk of a response. Returns it if the response is for somebody else.
    pub(super) fn respond(&mut self, request: RequestId, chunk: Chunk) -> Option<Chunk> {
        if !self.saving.iter().any(|(saving, _)| *saving == request) {
            return Some(chunk);
        }
        // While the store takes long, no more waits for it.
        if let (Chunk::Rows { window, rows }, Some(writer), 0) = (chunk, &self.writer, self.writing)
        {
            writer.add(window, rows);
        }
        None
    }

    /// Has the totals written, when the tick at which they are read is closed.
    pub(super) fn close(&mut self, tick: u64) {
        for (_, request) in self.saving.extract_if(.., |(_, request)| request.tick <= tick) {
            match &self.writer {
                Some(writer) if self.writing == 0 => {
                    self.writing += 1;
                    writer.finish(request);
                }
                _ => {
                    let why = "the totals of an earlier checkpoint are not written yet".to_owned();
                    self.rejected.push(WrittenParts { tick: request.tick, parts: Err(why) });
                }
            }
        }
    }

    /// Returns the parts that were written since the last call.
    pub(super) fn written(&mut self) -> Option<WrittenParts> {
        if let Some(rejected) = self.rejected.pop() {
            return Some(rejected);
        }
        let written = self.writer.as_ref()?.next()?;
        self.writing -= 1;
        Some(written)
    }
}
