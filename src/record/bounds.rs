//! Bounds on the sizes of records and messages.

/// The most bytes, and the most packets, that one record may have. Sums of such amounts stay far from
/// the end of 64 bits.
pub const AMOUNT_MAX: u64 = 1 << 40;

/// The most records that one message may have: more than fit into the 1,000,000 bytes that clients and brokers
/// accept by default. A message enters a tick as a whole, so that this bounds a tick.
pub const RECORDS_MAX: usize = 1 << 18;
