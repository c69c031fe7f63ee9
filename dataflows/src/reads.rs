//! Reads of retained state, and their responses.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::monitored::Rollup;
use crate::time::Window;
use crate::types::{Entity, Pair, Volume};

/// A request for state that is retained at the end of a tick, entered at its [`Phase::Read`](crate::time::Phase::Read).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Read {
    /// The totals of pairs in the windows that start within `from..until`.
    Rows {
        /// The first window.
        from: Window,
        /// The first window after these.
        until: Window,
    },
    /// The totals of pairs in a window. The rows stay on the worker that holds the totals.
    Part(Window),
    /// The numbers of live entries.
    Held,
    /// The volume of an entity in a window.
    ///
    /// The sum of a rollup that is not in use there is computed for the response, by a walk of the window's pairs.
    Amount {
        /// The window.
        window: Window,
        /// The sum over pairs to read; `None`: the total of a pair.
        rollup: Option<Rollup>,
        /// The entity: a pair without a rollup, else one that the rollup is for.
        entity: Entity,
    },
}

/// The number of a request, chosen by the caller of [`Inputs::read`](crate::graph::Inputs::read).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// A chunk of the response to a request, of one worker. The response is complete when the tick of the request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The request; `None` for totals that are [emitted](EmitTotals) without one.
    pub request: Option<RequestId>,
    /// The worker that gets it.
    pub worker: usize,
    /// The content.
    pub chunk: Chunk,
}

/// The requests whose responses nobody wants any more, as one worker knows them.
#[derive(Clone, Default)]
pub(crate) struct Cancelled(Rc<RefCell<BTreeSet<RequestId>>>);

impl Cancelled {
    pub(crate) fn add(&self, request: RequestId) {
        self.0.borrow_mut().insert(request);
    }

    pub(crate) fn forget(&self, request: RequestId) {
        self.0.borrow_mut().remove(&request);
    }

    pub(crate) fn contains(&self, request: Option<RequestId>) -> bool {
        request.is_some_and(|request| self.0.borrow().contains(&request))
    }
}

/// The moment at which the operator of the pairs emits the totals of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitTotals {
    /// At the tick at which the window settles: no record changes the totals any more. Windows that are not whole
    /// are left out.
    OnSettle,
    /// At the tick at which the window retires: the totals leave memory.
    OnRetire,
}

/// The content of a chunk. All chunks of a request are to be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Chunk {
    /// Totals of pairs.
    Rows {
        /// The window.
        window: Window,
        /// In no order.
        rows: Vec<(Pair, Volume)>,
    },
    /// The numbers of live entries of a worker.
    Held {
        /// Totals of pairs.
        pairs: u64,
        /// Totals of rollups.
        rollups: u64,
        /// IPv6 addresses that totals use, or that an operator downstream may still resolve.
        addresses: u64,
    },
    /// The volume of an entity; there is no chunk if nothing of the entity is retained.
    Amount {
        /// The window.
        window: Window,
        /// The sum over pairs; `None`: the total of a pair.
        rollup: Option<Rollup>,
        /// The entity.
        entity: Entity,
        /// The volume at this worker.
        volume: Volume,
    },
}

/// The volumes of entities in windows, by a sum over pairs or as a pair: the added parts of responses to
/// [`Read::Amount`]. A key that is absent has nothing retained.
pub type Amounts = BTreeMap<(Window, Option<Rollup>, Entity), Volume>;
