//! The steps of jobs on tables of rollups: each works until it is done, or until its fuel is spent.

use super::{Rollups, visit_all};
use crate::monitored::Rollup;
use crate::moves::Moves;
use crate::pending::{COPY_COST, Fuel};
use crate::reads::{Chunk, RequestId, Response};
use crate::stale::Renewal;
use crate::time::{Time, Window};
use crate::top::Greatest;
use crate::types::Entity;

impl Rollups {
    /// Emits stale totals of a table anew. `true` when all are emitted.
    pub(super) fn renew_table(
        &mut self,
        time: Time,
        window: Window,
        rollup: Rollup,
        renewal: &mut Renewal,
        fuel: &mut Fuel,
    ) -> bool {
        let Some(monitored_table) = self.tables.get(&(window, rollup)) else {
            return true;
        };
        let mut emitted = self.emitted.of(time, window, Some(rollup));
        renewal.emit(&monitored_table.table, fuel, &mut emitted)
    }

    /// Emits the updates that moved emit bounds make in a table. `true` when all are emitted.
    pub(super) fn walk(
        &mut self,
        time: Time,
        window: Window,
        rollup: Rollup,
        moves: &Moves,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        let Some(monitored_table) = self.tables.get(&(window, rollup)) else {
            return true;
        };
        let addresses = self.shared.addresses.borrow();
        let mut emitted = self.emitted.of(time, window, Some(rollup));
        visit_all(monitored_table, rollup, position, fuel, &addresses, |place, key, volume| {
            moves.emit(|| place, key, volume, &mut emitted)
        })
    }

    /// Emits the totals of a table that lower bounds look at. `true` when all are emitted.
    pub(super) fn emit_to_lower_bounds(
        &mut self,
        time: Time,
        window: Window,
        rollup: Rollup,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        let (Some(monitored_table), Some(emit_bounds)) =
            (self.tables.get_mut(&(window, rollup)), self.emit_bounds.get(&rollup))
        else {
            return true;
        };
        monitored_table.refresh(emit_bounds);
        let addresses = self.shared.addresses.borrow();
        let mut emitted = self.emitted.of(time, window, Some(rollup));
        visit_all(monitored_table, rollup, position, fuel, &addresses, |place, key, volume| {
            monitored_table.emit_to_lower_bounds(emit_bounds, || place, key, volume, &mut emitted)
        })
    }

    /// Retracts the totals that a table has emitted. `true` when all are retracted.
    pub(super) fn retract(
        &mut self,
        time: Time,
        window: Window,
        rollup: Rollup,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        let (Some(monitored_table), Some(emit_bounds)) =
            (self.tables.get_mut(&(window, rollup)), self.emit_bounds.get(&rollup))
        else {
            return true;
        };
        monitored_table.refresh(emit_bounds);
        if monitored_table.has_emitted_nothing() {
            return true;
        }
        let addresses = self.shared.addresses.borrow();
        let mut emitted = self.emitted.of(time, window, Some(rollup));
        visit_all(monitored_table, rollup, position, fuel, &addresses, |place, key, volume| {
            monitored_table.retract(emit_bounds, || place, key, volume, &mut emitted)
        })
    }

    /// Releases the addresses of a table, and drops it. `true` when that is done.
    pub(super) fn drop_table(
        &mut self,
        time: Time,
        window: Window,
        rollup: Rollup,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        if let Some(monitored_table) = self.tables.get(&(window, rollup)) {
            let mut addresses = self.shared.addresses.borrow_mut();
            let done = monitored_table.table.walk_v6(position, fuel, |key, _| {
                addresses.release(rollup.per, key, time);
                COPY_COST
            });
            if !done {
                return false;
            }
            self.tables.remove(&(window, rollup));
        }
        true
    }

    /// Looks up the totals that have receded. `true` when all are looked up.
    pub(super) fn look_up_receded(&mut self, time: Time, fuel: &mut Fuel) -> bool {
        let tables = &self.tables;
        self.emitted.look_up_receded(time, fuel, |window, rollup| {
            Some(&tables.get(&(window, rollup?))?.table)
        })
    }

    /// Finds the greatest entities of a table. `true` when they are found.
    pub(super) fn rank(
        &mut self,
        time: Time,
        window: Window,
        rollup: Rollup,
        greatest: &mut Greatest,
        position: &mut usize,
        fuel: &mut Fuel,
    ) -> bool {
        let Some(monitored_table) = self.tables.get(&(window, rollup)) else {
            return true;
        };
        let addresses = self.shared.addresses.borrow();
        let done = monitored_table.table.walk(position, fuel, |key, volume| {
            greatest.offer(volume, || addresses.entity(rollup.per, key));
            0
        });
        if done {
            self.best.extend(greatest.take_candidates(window, time));
        }
        done
    }

    /// Answers with the number of live entries.
    pub(super) fn count_held(&mut self, time: Time, request: RequestId) -> bool {
        let rollups =
            self.tables.values().map(|monitored_table| monitored_table.table.len() as u64).sum();
        self.respond(time, request, Chunk::Held { pairs: 0, rollups, addresses: 0 });
        true
    }

    /// Answers with the amount of an entity, if this worker has it.
    pub(super) fn respond_amount(
        &mut self,
        time: Time,
        request: RequestId,
        window: Window,
        rollup: Rollup,
        entity: &Entity,
    ) -> bool {
        if let Some(volume) = self.amount(window, rollup, entity) {
            let (rollup, entity) = (Some(rollup), *entity);
            self.respond(time, request, Chunk::Amount { window, rollup, entity, volume });
        }
        true
    }

    fn respond(&mut self, time: Time, request: RequestId, chunk: Chunk) {
        self.responses.push((Response { request: Some(request), worker: 0, chunk }, time));
    }
}
