//! `floodmark run`, run as a user runs it: topics of a real broker in, alerts out.
//!
//! The invariant of all of them: once all windows have settled, the violations of a live run equal those of a replay
//! of the same records.
//!
//! - `equality`: each format, any number of workers, processes and partitions.
//! - `sinks`: all sinks of changes, totals, and edits of limits.
//! - `streams`: standard output, FIFOs and files that block, fail, or lose their reader.
//! - `what_if`: a second set of limits beside the first.
//! - `partitions`: idle, lagging and new partitions, unreadable messages, and the start of a run.
//! - `transactions`: messages behind an open transaction of another producer.
//! - `recorded`: replays of topics, and of texts with records.
//! - `recreated`: topics that are deleted while they are read, and created again.
//! - `restarts`: runs that are started again over the alerts of the run before.
//! - `state`: runs that continue from the state of the run before, however that has ended.
//! - `kill_matrix`: such runs with random ends at random moments.
//! - `outputs`: topics that a run writes to: rejected as sources, deleted, and rejecting messages.
//! - `overflow`: sums beyond 64 bits.
//! - `until_end`: runs that stop at the end of their topic.
//! - `trimmed`: topics whose first records are deleted, and partial windows.
//! - `stragglers`: partitions and records with a wrong clock.
//! - `outages`: brokers of records and of alerts that go away.
//! - `clock`: clocks that are set while a run goes on.
//! - `crashes`: processes that die, hang or panic, and are restarted.
//! - `databases`: limits from a table: edits, future versions, and outages.
//! - `bounds`: bounded memory of a blocked run.
//! - `explain`: explain queries while records and limits arrive.
//! - `numbers`: numbers of limits that are reused.
//! - `ends`: the end of a run, and its messages.
//! - `kit`: topics with traffic, and the results of replays that runs are compared with.

mod bounds;
mod clock;
mod continued;
mod crashes;
mod databases;
mod ends;
mod equality;
mod explain;
mod kill_matrix;
mod kit;
mod lines;
mod numbers;
mod object_store;
mod outages;
mod outputs;
mod overflow;
mod partitions;
mod recorded;
mod recreated;
mod restarts;
mod sinks;
mod state;
mod stragglers;
mod streams;
mod transactions;
mod trimmed;
mod until_end;
mod what_if;
