//! `floodmark replay`, `floodmark limits check` and `floodmark limits explain`, run as a user runs them.
//!
//! Captures are made in the test, so that each test shows what it is about; the large sets of real
//! captures are used where they are at hand.

mod check;
mod contract;
mod equality;
mod exits;
mod explain;
mod files;
pub(crate) mod fold;
mod interrupt;
pub(crate) mod many_limits;
mod oracle;
pub(crate) mod pcap;
pub(crate) mod pipes;
pub(crate) mod processes;
pub(crate) mod run;
pub(crate) mod sets;
mod strangers;
mod strays;
mod supervised;
mod totals;
pub(crate) mod traffic;
mod versions;
mod what_if;
