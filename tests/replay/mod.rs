//! `floodmark replay`, `floodmark limits check` and `floodmark limits explain`, run as a user runs them.
//!
//! Most tests create their captures, so that each shows its input; further real captures are used if they are
//! available.

mod check;
mod connections;
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
pub(crate) mod recorded;
pub(crate) mod run;
pub(crate) mod sets;
mod strays;
mod supervised;
mod tables;
mod totals;
pub(crate) mod traffic;
mod versions;
mod what_if;
