//! The parts that the tables of one worker have in common.

use std::cell::RefCell;
use std::rc::Rc;

use timely::dataflow::operators::probe;

use crate::addresses::Addresses;
use crate::reads::{Cancelled, EmitTotals};
use crate::time::{Phase, Time, Windows};
use crate::top::TopQuery;
use crate::types::Updates;

/// The addresses by number, the progress of the computation, the cancelled requests, and the worker's index among its
/// peers.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) addresses: Rc<RefCell<Addresses>>,
    /// The probe behind all operators that consume keys.
    pub(crate) downstream: probe::Handle<Time>,
    pub(crate) cancelled: Cancelled,
    pub(crate) index: usize,
    pub(crate) peers: usize,
}

impl Shared {
    pub(crate) fn reclaim_addresses(&self) {
        // The changes of a tick are published when all of it is known.
        let done = |time: &Time| !self.downstream.less_equal(&Time::new(time.tick, Phase::Read));
        self.addresses.borrow_mut().reclaim(done);
    }
}

/// The options of the tables of pairs and of rollups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrafficOptions {
    pub(crate) windows: Windows,
    pub(crate) top: Option<TopQuery>,
    pub(crate) emit_totals: Option<EmitTotals>,
    pub(crate) updates: Updates,
}
