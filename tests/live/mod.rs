//! `floodmark run`, run as a user runs it: topics of a real broker in, alerts out.
//!
//! What holds of all of them: once its windows have settled, a live run has said what a replay of the
//! same records says.
//!
//! - `equality`: each format, any number of workers, processes and partitions.
//! - `sinks`: all places where changes go, totals, and limits that change.
//! - `streams`: standard output, FIFOs and files that take nothing, fail, or lose their reader.
//! - `what_if`: a second set of limits beside the first.
//! - `partitions`: some idle, behind or new; messages that can't be read; where a run begins.
//! - `transactions`: messages behind an open transaction of another producer.
//! - `recreated`: topics that are deleted while they are read, and created again.
//! - `outputs`: topics that a run writes to: not read as records, deleted, and refusing what it sends.
//! - `overflow`: sums beyond 64 bits.
//! - `beginnings`: topics that do not begin with their first record, and windows that are partial.
//! - `stragglers`: partitions and records with a wrong clock.
//! - `outages`: brokers that go away, before and after the run.
//! - `clock`: clocks that are set while a run goes on.
//! - `crashes`: processes that die, hang or panic, and are started again.
//! - `databases`: limits from a table, which change, begin by themselves, and can't be read for a while.
//! - `bounds`: what waits takes no more memory the longer it waits.
//! - `explain`: which limits apply to a pair, asked while records and limits come.
//! - `ends`: how a run ends, and what it says then.
//! - `kit`: topics with traffic in them, and the answers that runs are held to.

mod beginnings;
mod bounds;
mod clock;
mod crashes;
mod databases;
mod ends;
mod equality;
mod explain;
mod kit;
mod numbers;
mod outages;
mod outputs;
mod overflow;
mod partitions;
mod recreated;
mod sinks;
mod stragglers;
mod streams;
mod transactions;
mod what_if;
