//! Bounds on the sizes of records and messages.

/// Maximum number of bytes, and of packets, of one record. Sums of such amounts stay far from
/// the end of 64 bits.
pub const AMOUNT_MAX: u64 = 1 << 40;

/// Maximum number of records of one message: more than fit into the 1,000,000 bytes that clients and brokers
/// accept by default. A message enters a tick as a whole, so that this bounds a tick.
pub const RECORDS_MAX: usize = 1 << 18;
