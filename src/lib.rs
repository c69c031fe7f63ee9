//! floodmark holds network traffic to limits.
//!
//! The computation is in [`floodmark_dataflows`]; this crate has everything that touches a file, a socket, a
//! clock or a terminal:
//!
//! - [`base`]: times, networks, texts, errors, messages, the log: used by all other modules.
//! - [`capture`]: reads packets from captures.
//! - [`files`]: opens files, and tells captures from texts.
//! - [`record`]: decodes and encodes the messages of a topic, in any format.
//! - [`aggregate`]: folds packets per pair and bucket of time.
//! - [`sniffer`]: sends packets of an interface or of captures to a topic.
//! - [`convert`]: copies records from any source to any sink.
//! - [`limits`]: reads rows of limits, and turns them into versions.
//! - [`source`]: the sources of a computation: captures, the partitions of a topic.
//! - [`sink`]: the consumers of its closed ticks: files, streams of lines, topics.
//! - [`computation`]: the computation on one worker; [`runner`]: the leader and the workers that drive it.
//! - [`scenario`]: cases of limits, traffic and expected alerts, from files.
//! - [`cluster`]: workers and processes, and their rendezvous.
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
pub mod files;
pub mod generate;
pub mod http;
pub mod kafka;
pub mod limits;
pub mod metrics;
pub mod output;
pub mod record;
pub mod runner;
pub mod scenario;
pub mod sink;
pub mod sniffer;
pub mod source;
pub mod state;

/// The version, and behind it a digest of the sources that this program was built from.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("FLOODMARK_BUILD"));
