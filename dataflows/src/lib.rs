//! From network traffic and limits to violations, incrementally.
//!
//! This is the computation of floodmark, on timely and differential dataflow, without I/O and without
//! a clock. [`graph::build`] makes all of it; its parts can be used alone, [`threshold_join()`] first of
//! all.
//!
//! # Words
//!
//! | word | meaning |
//! | --- | --- |
//! | record | one observation: event time, source, destination, bytes, packets |
//! | [pair](types::Pair) | source and destination, of one address family |
//! | [volume](types::Volume) | bytes and packets; negative for corrections |
//! | [window](time::Window) | `floor(event time / width)`, half-open, aligned to the Unix epoch |
//! | [tick](time::Time) | when something is judged, in milliseconds; it has [phases](time::Phase) |
//! | [entity](types::Entity) | what a limit is counted for: a pair, a source, a destination, a host, the total |
//! | [scope](types::Scope) | per, metric, and the networks of source, destination and host |
//! | limit | a name with dated [versions](types::Version) |
//! | [violation](types::Violation) | an amount over a `max`, or under a `min` once the window has closed |
//! | watermark | no record before it is expected: [closed, settled, retired](time::Windows) follow from it |
//! | [monitored scope](monitored::MonitoredScope) | what the limits of one scope and bound look at; its *emit bound* is where they begin to, its *roof* where each `max` is broken |
//! | [cell](monitored::EmitBound) | amounts that no limit of a monitored scope tells apart |
//! | [rollup](monitored::Rollup) | a sum over pairs that some limit or view asks for |
//! | held | not retired |
//!
//! # Collections
//!
//! All differences are `isize`, all times [`Time`](time::Time).
//!
//! | collection | record | meaning | where |
//! | --- | --- | --- | --- |
//! | versions | [`Version`](types::Version) | the row has taken effect | worker that read it |
//! | existing | [`Existing`](spans::Existing) | the window, or each of a range, exists, seen or in a gap, open or closed | first worker |
//! | rules | [`Rule`](limits::Rule) | the version, and the windows that it judges | one, then all |
//! | thresholds | (monitored scope, [`Threshold`](threshold::Threshold)) | the same, by monitored scope | all |
//! | totals | (monitored scope, (window, [`Total`](monitored::Total))) | the total is beyond the emit bound; it may have grown since, within its cell | owner of the entity |
//! | violations | [`Violation`](types::Violation) | the total breaks the limit, with the amount published last | owner of the entity |
//!
//! [`textbook`] computes the violations in plain differential dataflow, and [`mod@reference`] everything
//! from scratch; the tests hold all three against each other.
//!
//! [`threshold_join()`]: threshold_join::threshold_join

pub mod addresses;
mod broadcast;
pub(crate) mod changes;
pub mod clock;
pub mod combine;
pub(crate) mod control;
pub(crate) mod counting;
pub mod delivery;
pub(crate) mod emit;
pub(crate) mod emit_bounds;
pub(crate) mod emitted;
pub mod floors;
pub(crate) mod folds;
pub mod graph;
pub(crate) mod in_use;
pub mod key;
pub mod limits;
pub mod monitored;
pub(crate) mod moves;
pub(crate) mod pairs;
pub(crate) mod pending;
pub(crate) mod pieces;
pub mod prefix_index;
pub mod ranges;
pub mod reads;
pub mod reference;
pub mod reports;
pub(crate) mod rollups;
pub(crate) mod shared;
pub mod spans;
pub(crate) mod stale;
pub mod table;
pub mod textbook;
pub mod threshold;
pub mod threshold_join;
pub mod time;
pub mod top;
pub(crate) mod traffic;
pub mod types;
pub mod watermark;
pub(crate) mod wiring;
