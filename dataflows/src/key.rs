//! Keys of tables: pairs and addresses in nine bytes.

use serde::{Deserialize, Serialize};

/// The address family of a key.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

/// A pair, an address, or the total, as one worker names it. Which of the three is the table's
/// matter: a pair has its source in the upper half, an address is in the lower, the total is 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Key {
    /// Whether `id` holds IPv4 addresses or numbers of IPv6 addresses.
    pub family: Family,
    /// One or two 32-bit halves.
    pub id: u64,
}

impl Key {
    /// The least key.
    pub const MIN: Key = Key { family: Family::V4, id: 0 };
    /// The only key of a table of totals.
    pub const TOTAL: Key = Key::MIN;

    /// The key of a pair of IPv4 addresses, the source in the upper half.
    pub(crate) fn v4(id: u64) -> Key {
        Key { family: Family::V4, id }
    }

    /// The source and the destination of a pair, or zero and an address.
    pub(crate) fn halves(self) -> (u32, u32) {
        ((self.id >> 32) as u32, self.id as u32)
    }
}
