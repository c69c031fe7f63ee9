//! The receiver of what tables emit, and the entries of a table that a scope looks at.

use crate::key::Key;
use crate::monitored::{MonitoredScope, Total};
use crate::types::{Per, Prefix, Scope};

/// Receives what tables emit.
pub(crate) trait Emit {
    /// The tick in which they emit.
    fn tick(&self) -> u64;
    /// Receives a total that comes to lie beyond an emit bound (+1), or no longer does (-1).
    fn emit(&mut self, monitored: MonitoredScope, total: Total, diff: isize);
    /// Receives the key of a total that an update moved from beyond an emit bound to within, or toward that.
    fn receded(&mut self, monitored: MonitoredScope, key: Key);
    /// Receives a stale total that is emitted anew, with its current amount.
    fn renewed(&mut self, monitored: MonitoredScope, total: Total);
}

/// The part of a scope that chooses among the entries of its table.
///
/// The prefixes of a scope either choose what is summed, and then the table itself is under them, or
/// which of the entries are looked at: the filter of a monitored scope. An address has the place (itself, itself).
pub(crate) fn filter(scope: &Scope) -> (Prefix, Prefix) {
    match scope.per {
        Per::Pair => (scope.source, scope.destination),
        Per::Source => (scope.source, Prefix::ANY),
        Per::Destination => (scope.destination, Prefix::ANY),
        Per::Host => (scope.host, Prefix::ANY),
        Per::Total => (Prefix::ANY, Prefix::ANY),
    }
}
