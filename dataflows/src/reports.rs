//! Reports of the tables about records that they could not count as usual.

use serde::{Deserialize, Serialize};

use crate::monitored::Rollup;
use crate::time::Window;
use crate::types::{Entity, Volume};

/// Records that came after their window had closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// Records that came before their window had settled: they count, and revise published changes.
    pub counted: u64,
    /// Records that came after their window had settled: they are not counted.
    pub dropped: u64,
    /// The volume of the dropped records.
    pub dropped_volume: Volume,
}

/// A total that has reached the end of 64 bits ([`Volume::is_saturated`]). It stays there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Saturated {
    /// The window of the total.
    pub window: Window,
    /// The rollup of the total; `None` for the total of a pair.
    pub rollup: Option<Rollup>,
    /// The entity of the total.
    pub entity: Entity,
}
