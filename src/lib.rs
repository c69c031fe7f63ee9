//! floodmark holds network traffic to limits.
//!
//! The computation is in [`floodmark_dataflows`]; here is everything that touches a file, a socket, a
//! clock or a terminal:
//!
//! - [`base`]: times, networks, texts, errors, messages, the log: used by all other modules.
//! - [`capture`]: captures in, packets out.
//! - [`record`]: messages of a topic in any format in, records out, and back.
//! - [`aggregate`]: packets folded per pair and bucket of time.
//! - [`sniffer`]: from an interface or captures to a topic.
//! - [`convert`]: from any source of records to any sink.
//! - [`limits`]: rows of limits in, versions out.
//! - [`merge`]: several captures as one input, by time.
//! - [`replay`]: that input, cut into ticks.
//! - [`computation`]: the computation on one worker; [`driver`] is the leader of a replay of it.
//! - [`sink`]: the consumers of closed ticks: files, streams of lines, topics.
//! - [`scenario`]: cases of limits, traffic and expected alerts, from files.
//! - [`live`]: a run over a topic: ticks by the clock, limits that change, alerts.
//! - [`cluster`]: workers and processes, and how they find each other.
//! - [`kafka`]: Apache Kafka: addresses, options, topics, messages out.
//! - [`http`]: health and readiness, and [`metrics`], over HTTP.
//! - [`output`]: changes and rankings as JSON or as a table, totals as CSV.
//! - [`generate`]: a workload of any size.
//! - [`cli`]: the commands.

pub mod aggregate;
pub mod base;
pub mod capture;
pub mod cli;
pub mod cluster;
pub mod computation;
pub mod convert;
pub mod driver;
pub mod generate;
pub mod http;
pub mod kafka;
pub mod limits;
pub mod live;
pub mod merge;
pub mod metrics;
pub mod output;
pub mod record;
pub mod replay;
pub mod scenario;
pub mod sink;
pub mod sniffer;

/// The version, and behind it a digest of the sources that this program was built from.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("FLOODMARK_BUILD"));
