//! The steps of jobs on tables of pairs: each works until it is done, or until its fuel is spent.

use std::collections::BTreeSet;

use super::{PairWindow, Pairs};
use crate::combine::UpdateBatch;
use crate::counting::Counting;
use crate::emit_bounds::MonitoredTable;
use crate::folds::{FoldIndex, Folds, Outgoing};
use crate::moves::Moves;
use crate::pending::{COPY_COST, EMIT_COST, Fuel};
use crate::stale::Renewal;
use crate::time::{Time, Window};
use crate::top::Greatest;
use crate::types::{Entity, Per};

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
            EMIT_COST * moves.emit(|| addresses.pair(key), key, volume, &mut emitted)
        })
    }

    /// Emits the totals of a window that lower bounds look at. `true` when all are emitted.
    pub(super) fn emit_to_lower_bounds(
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
            EMIT_COST
                * pairs.emit_to_lower_bounds(&self.emit_bounds, place, key, volume, &mut emitted)
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
        let sends = folds.is_some_and(|folds| folds.is_full() || folds.is_sending());
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

    /// Retracts the totals that a window has emitted. `true` when all are retracted.
    pub(super) fn retract(
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
        if pairs.has_emitted_nothing() {
            return true;
        }
        let addresses = self.shared.addresses.borrow();
        let mut emitted = self.emitted.of(time, window, None);
        pairs.table.walk(position, fuel, |key, volume| {
            let place = || addresses.pair(key);
            EMIT_COST * pairs.retract(&self.emit_bounds, place, key, volume, &mut emitted)
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
}
