//! Who takes what tables put out, and which of their entries a scope looks at.

use crate::gauge::{Gauge, Total};
use crate::key::Key;
use crate::types::{Per, Prefix, Scope};

/// Takes what tables put out.
pub(crate) trait PutOut {
    /// The tick in which they do.
    fn tick(&self) -> u64;
    /// A total comes to be beyond a cut (+1), or no longer is (-1).
    fn put(&mut self, gauge: Gauge, total: Total, diff: isize);
    /// An update moved a total from beyond a cut to within, or toward that.
    fn recedes(&mut self, gauge: Gauge, key: Key);
    /// A total above a roof is put out as it is.
    fn renews(&mut self, gauge: Gauge, total: Total);
}

/// The part of a scope that chooses among the entries of its table.
///
/// The prefixes of a scope either choose what is summed, and then the table itself is under them, or
/// which of the entries are looked at: the filter of a gauge. An address has the place (itself, itself).
pub(crate) fn filter(scope: &Scope) -> (Prefix, Prefix) {
    match scope.per {
        Per::Pair => (scope.source, scope.destination),
        Per::Source => (scope.source, Prefix::ANY),
        Per::Destination => (scope.destination, Prefix::ANY),
        Per::Host => (scope.host, Prefix::ANY),
        Per::Total => (Prefix::ANY, Prefix::ANY),
    }
}
