//! Reads of retained state, and their responses.

use std::collections::BTreeMap;

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

/// The moment at which the operator of the pairs emits the totals of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitTotals {
    /// At the tick at which the window settles: no record changes the totals any more. Windows that are not whole
    /// are left out.
    OnSettle,
    /// At the tick at which the window retires: the totals leave memory.
    OnRetire,
}

/// A part of a response. The response is complete when the tick of its read is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Totals of pairs: for a read, or [emitted](EmitTotals) without one.
    Rows {
        /// The window.
        window: Window,
        /// In no order.
        rows: Vec<(Pair, Volume)>,
    },
    /// The numbers of live entries of a worker, in parts to be added.
    Held {
        /// Totals of pairs.
        pairs: u64,
        /// Totals of rollups.
        rollups: u64,
        /// IPv6 addresses that totals use, or that an operator downstream may still resolve.
        addresses: u64,
    },
    /// The volume of an entity, in parts to be added; there is no part if nothing of the entity is retained.
    Amount {
        /// The window.
        window: Window,
        /// The sum over pairs; `None`: the total of a pair.
        rollup: Option<Rollup>,
        /// The entity.
        entity: Entity,
        /// The volume of this part.
        volume: Volume,
    },
}

/// The volumes of entities in windows, by a sum over pairs or as a pair: the added parts of responses to
/// [`Read::Amount`]. A key that is absent has nothing retained.
pub type Amounts = BTreeMap<(Window, Option<Rollup>, Entity), Volume>;
