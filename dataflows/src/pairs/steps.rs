//! The steps of jobs on tables of pairs: each works until it is done, or until its fuel is spent.

use std::collections::{BTreeSet, VecDeque};

use super::{PairWindow, Pairs};
use crate::combine::UpdateBatch;
use crate::counting::Counting;
use crate::emit_bounds::MonitoredTable;
use crate::folds::{FoldIndex, Folds, Outgoing};
use crate::monitored::Rollup;
use crate::moves::Moves;
use crate::pending::{COPY_COST, EMIT_COST, Fuel};
use crate::reads::Answer;
use crate::stale::Renewal;
use crate::time::{Time, Window};
use crate::top::Greatest;
use crate::types::{Entity, Pair, Per, Volume};

/// Rows of an answer that travel together.
const ROWS: usize = 16 * 1024;

impl Pairs {
    /// Emits stale totals of a window anew. `true` when all are emitted.
    pub(super) fn renew(
        &mut self,
        time: Time,
        window: Window,
        renewal: &mut Renewal,
        fuel: &mut Fuel,
    ) -> bool {
        let table = &self.windows[&window].pairs.table;
        let mut emitted = self.emitted.of(time, window, None);
        renewal.emit(table, fuel, &mut emitted)
    }

    /// Emits the updates that moved emit bounds make in a window. `true` when all are emitted.
    pub(super) fn walk(
        &mut self,
        time: Time,
        window: Window,
        moves: &Moves,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        let addresses = self.shared.addresses.borrow();
        let table = &self.windows[&window].pairs.table;
        let mut emitted = self.emitted.of(time, window, None);
        table.walk(position, fuel, |key, volume| {
            EMIT_COST * moves.show(|| addresses.pair(key), key, volume, &mut emitted)
        })
    }

    /// Emits the totals of a window that lower bounds look at. `true` when all are emitted.
    pub(super) fn show_ceilings(
        &mut self,
        time: Time,
        window: Window,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        let addresses = self.shared.addresses.borrow();
        let pairs = &self.windows[&window].pairs;
        let mut emitted = self.emitted.of(time, window, None);
        pairs.table.walk(position, fuel, |key, volume| {
            let place = || addresses.pair(key);
            EMIT_COST * pairs.show_ceilings(&self.emit_bounds, place, key, volume, &mut emitted)
        })
    }

    /// Sums the pairs of a window for rollups that come into use, and sends the sums. `true` when all are sent.
    pub(super) fn back_fill(
        &mut self,
        time: Time,
        window: Window,
        begun: &FoldIndex,
        position: &mut usize,
        walked: &mut bool,
        fuel: &mut Fuel,
    ) -> bool {
        let Some(PairWindow { pairs, folds }) = self.windows.get_mut(&window) else {
            return true;
        };
        if !*walked && folds.is_sent() {
            let addresses = self.shared.addresses.borrow();
            *walked = pairs.table.walk(position, fuel, |key, volume| {
                EMIT_COST * folds.add(begun, window, addresses.pair(key), volume)
            });
        }
        let peers = self.shared.peers;
        let to = Outgoing { time, window, peers, batches: &mut self.batches };
        folds.send(begun, to, fuel) && *walked
    }

    /// Sends the sums of a window if there are many. `true` when that is done.
    pub(super) fn send_full(&mut self, time: Time, window: Window, fuel: &mut Fuel) -> bool {
        let folds = self.windows.get(&window).map(|held| &held.folds);
        let sends = folds.is_some_and(|folds| folds.is_full() || folds.is_leaving());
        !sends || self.send(time, window, fuel)
    }

    /// Sends the sums of windows, and looks up the totals that have receded. `true` when that is done.
    pub(super) fn send_all(
        &mut self,
        time: Time,
        windows: &mut BTreeSet<Window>,
        fuel: &mut Fuel,
    ) -> bool {
        while let Some(window) = windows.first().copied() {
            if !self.send(time, window, fuel) {
                return false;
            }
            windows.pop_first();
            fuel.spend(1);
        }
        let windows = &self.windows;
        self.emitted
            .look_up_receded(time, fuel, |window, _| Some(&windows.get(&window)?.pairs.table))
    }

    /// Finds the greatest pairs of a window. `true` when they are found.
    pub(super) fn rank(
        &mut self,
        time: Time,
        window: Window,
        greatest: &mut Greatest,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        let Some(held) = self.windows.get(&window) else {
            return true;
        };
        let addresses = self.shared.addresses.borrow();
        let done = held.pairs.table.walk(position, fuel, |key, volume| {
            greatest.offer(volume, || Entity::Pair(addresses.pair(key)));
            0
        });
        if done {
            self.best.extend(greatest.take_candidates(window, time));
        }
        done
    }

    /// Copies the rows of windows into answers, one window after another. `true` when all are copied.
    pub(super) fn copy_all_rows(
        &mut self,
        time: Time,
        windows: &mut VecDeque<Window>,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        while let Some(window) = windows.front().copied() {
            if !self.copy_rows(time, window, position, fuel) {
                return false;
            }
            windows.pop_front();
            *position = 0;
        }
        true
    }

    /// Answers with the number of live entries.
    pub(super) fn count_held(&mut self, time: Time) -> bool {
        let tables = self.windows.values().map(|held| &held.pairs.table);
        let pairs = tables.map(|table| table.len() as u64).sum();
        let addresses = self.shared.addresses.borrow().len() as u64;
        self.answers.push((Answer::Held { pairs, rollups: 0, addresses }, time));
        true
    }

    /// Answers with the total of a pair, if this worker has it.
    pub(super) fn answer_amount(&mut self, time: Time, window: Window, pair: Pair) -> bool {
        let key = self.shared.addresses.borrow().known_pair_key(pair);
        let table = self.windows.get(&window).map(|held| &held.pairs.table);
        if let Some(volume) = table.zip(key).and_then(|(table, key)| table.get(key)) {
            let entity = Entity::Pair(pair);
            let answer = Answer::Amount { window, rollup: None, entity, volume };
            self.answers.push((answer, time));
        }
        true
    }

    /// Answers with sums over the pairs of a window. `true` when all are summed.
    pub(super) fn answer_sums(
        &mut self,
        time: Time,
        window: Window,
        sums: &mut Vec<(Rollup, Entity, Volume)>,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        if !self.sum(window, sums, position, fuel) {
            return false;
        }
        sums.retain(|(_, _, volume)| *volume != Volume::default());
        self.answers.extend(sums.drain(..).map(|(rollup, entity, volume)| {
            (Answer::Amount { window, rollup: Some(rollup), entity, volume }, time)
        }));
        true
    }

    /// Retracts the totals that a window has emitted. `true` when all are retracted.
    pub(super) fn take_back(
        &mut self,
        time: Time,
        window: Window,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        let Some(PairWindow { pairs, .. }) = self.windows.get_mut(&window) else {
            return true;
        };
        pairs.refresh(&self.emit_bounds);
        if pairs.shows_nothing() {
            return true;
        }
        let addresses = self.shared.addresses.borrow();
        let mut emitted = self.emitted.of(time, window, None);
        pairs.table.walk(position, fuel, |key, volume| {
            let place = || addresses.pair(key);
            EMIT_COST * pairs.take_back(&self.emit_bounds, place, key, volume, &mut emitted)
        })
    }

    /// Releases the addresses of a window, and drops its table. `true` when that is done.
    pub(super) fn retire(
        &mut self,
        time: Time,
        window: Window,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        if let Some(held) = self.windows.get(&window) {
            let mut addresses = self.shared.addresses.borrow_mut();
            let done = held.pairs.table.walk_v6(position, fuel, |key, _| {
                addresses.release(Per::Pair, key, time);
                COPY_COST
            });
            if !done {
                return false;
            }
            self.windows.remove(&window);
        }
        true
    }

    /// Adds up, for reads, the pairs of a window. `true` when all are.
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

    /// Adds the updates of a batch to the table of its window.
    pub(super) fn count(&mut self, time: Time, batch: &UpdateBatch, fuel: &mut Fuel) {
        let window = batch.window;
        let PairWindow { pairs, folds } =
            self.windows.entry(window).or_insert_with(|| PairWindow {
                pairs: MonitoredTable::new(window, self.observed.contains(window)),
                folds: Folds::default(),
            });
        pairs.refresh(&self.emit_bounds);
        let before = self.emitted.len();
        let mut addresses = self.shared.addresses.borrow_mut();
        let mut counting = Counting {
            time,
            window,
            pairs,
            emit_bounds: &self.emit_bounds,
            folds,
            fold_index: &self.fold_index,
            folded: 0,
            saturated: &mut self.saturated,
        };
        counting.batch(batch, &mut addresses, &mut self.emitted.of(time, window, None));
        let folded = counting.folded;
        fuel.spend(EMIT_COST * (batch.len() + folded + self.emitted.len() - before));
    }

    /// Sends what was folded for rollups in a window. `true` when all is sent.
    fn send(&mut self, time: Time, window: Window, fuel: &mut Fuel) -> bool {
        self.windows.get_mut(&window).is_none_or(|held| {
            let to =
                Outgoing { time, window, peers: self.shared.peers, batches: &mut self.batches };
            held.folds.send(&self.fold_index, to, fuel)
        })
    }

    /// Copies rows of one window into answers. `true` when all are.
    fn copy_rows(
        &mut self,
        time: Time,
        window: Window,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        let Some(held) = self.windows.get(&window) else {
            return true;
        };
        let addresses = self.shared.addresses.borrow();
        let mut rows = Vec::new();
        let done = held.pairs.table.walk(position, fuel, |key, volume| {
            rows.push((addresses.pair(key), volume));
            COPY_COST
        });
        while !rows.is_empty() {
            let rest = rows.split_off(rows.len().min(ROWS));
            self.answers.push((Answer::Rows { window, rows }, time));
            rows = rest;
        }
        done
    }
}
