//! Responses of the tables of pairs: to requests, and the totals of windows that settle or retire.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Job, Pairs, ReadJob};
use crate::monitored::Rollup;
use crate::pending::{COPY_COST, Fuel};
use crate::reads::{Chunk, Read, RequestId, Response};
use crate::time::{Time, Window};
use crate::types::{Entity, Pair, Volume};

/// Rows of a response that travel together.
const ROWS: usize = 16 * 1024;

impl Pairs {
    /// Plans the responses to reads. Each read of a request is done once, however often it was entered.
    pub(super) fn plan_reads(&self, reads: BTreeSet<(RequestId, Read)>, jobs: &mut VecDeque<Job>) {
        let mut sums = BTreeMap::<_, Vec<(Rollup, Entity, Volume)>>::new();
        for (request, read) in reads {
            let job = match read {
                Read::Rows { from, until } => {
                    ReadJob::rows(self.windows.range(from..until).map(|(window, _)| *window))
                }
                Read::Part(window) => {
                    let (windows, position) = ([window].into(), 0);
                    ReadJob::Rows { windows, position, worker: self.shared.index }
                }
                Read::Held => ReadJob::CountHeld,
                Read::Amount { window, rollup: None, entity: Entity::Pair(pair) } => {
                    ReadJob::Amount { window, pair }
                }
                Read::Amount { window, rollup: Some(rollup), entity }
                    if !self.in_use.uses(window, rollup) =>
                {
                    let sums = sums.entry((request, window)).or_default();
                    sums.push((rollup, entity, Volume::default()));
                    continue;
                }
                // The operator of the rollups responds from its table, if it has one.
                Read::Amount { .. } => continue,
            };
            jobs.push_back(Job::Respond { request: Some(request), job });
        }
        for ((request, window), sums) in sums {
            let job = ReadJob::Sum { window, sums, position: 0 };
            jobs.push_back(Job::Respond { request: Some(request), job });
        }
    }

    /// Works on a response. `true` when this part of the response is complete, or nobody wants it any more.
    pub(super) fn respond(
        &mut self,
        time: Time,
        request: Option<RequestId>,
        job: &mut ReadJob,
        fuel: &mut Fuel,
    ) -> bool {
        if self.shared.cancelled.contains(request) {
            return true;
        }
        let mut chunks = Vec::new();
        let mut worker = 0;
        let done =
            match job {
                ReadJob::Rows { windows, position, worker: to } => {
                    worker = *to;
                    self.copy_rows(windows, position, fuel, &mut chunks)
                }
                ReadJob::CountHeld => {
                    chunks.push(self.count_held());
                    true
                }
                ReadJob::Amount { window, pair } => {
                    chunks.extend(self.amount(*window, *pair));
                    true
                }
                ReadJob::Sum { window, sums, position } => {
                    let window = *window;
                    let done = self.sum(window, sums, position, fuel);
                    if done {
                        sums.retain(|(_, _, volume)| *volume != Volume::default());
                        chunks.extend(sums.drain(..).map(|(rollup, entity, volume)| {
                            Chunk::Amount { window, rollup: Some(rollup), entity, volume }
                        }));
                    }
                    done
                }
            };
        let responses = chunks.into_iter().map(|chunk| (Response { request, worker, chunk }, time));
        self.responses.extend(responses);
        done
    }

    /// Copies the rows of windows. `true` when all are copied.
    fn copy_rows(
        &self,
        windows: &mut VecDeque<Window>,
        position: &mut usize,
        fuel: &mut Fuel,
        chunks: &mut Vec<Chunk>,
    ) -> bool {
        let addresses = self.shared.addresses.borrow();
        while let Some(window) = windows.front().copied() {
            if let Some(held) = self.windows.get(&window) {
                let mut rows = Vec::new();
                let done = held.pairs.table.walk(position, fuel, |key, volume| {
                    rows.push((addresses.pair(key), volume));
                    COPY_COST
                });
                while !rows.is_empty() {
                    let rest = rows.split_off(rows.len().min(ROWS));
                    chunks.push(Chunk::Rows { window, rows });
                    rows = rest;
                }
                if !done {
                    return false;
                }
            }
            windows.pop_front();
            *position = 0;
        }
        true
    }

    /// Adds up the pairs of a window. `true` when all are.
    fn sum(
        &self,
        window: Window,
        sums: &mut [(Rollup, Entity, Volume)],
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        let Some(held) = self.windows.get(&window) else {
            return true;
        };
        let addresses = self.shared.addresses.borrow();
        held.pairs.table.walk(position, fuel, |key, volume| {
            let pair = addresses.pair(key);
            for (rollup, entity, sum) in &mut *sums {
                if rollup.counts(&pair, entity) {
                    *sum = sum.saturating_add(volume);
                }
            }
            sums.len()
        })
    }

    fn count_held(&self) -> Chunk {
        let tables = self.windows.values().map(|held| &held.pairs.table);
        let pairs = tables.map(|table| table.len() as u64).sum();
        let addresses = self.shared.addresses.borrow().len() as u64;
        Chunk::Held { pairs, rollups: 0, addresses }
    }

    /// Returns the total of a pair, if this worker has it.
    fn amount(&self, window: Window, pair: Pair) -> Option<Chunk> {
        let key = self.shared.addresses.borrow().known_pair_key(pair)?;
        let volume = self.windows.get(&window)?.pairs.table.get(key)?;
        Some(Chunk::Amount { window, rollup: None, entity: Entity::Pair(pair), volume })
    }
}
