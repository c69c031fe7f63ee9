//! The outputs of `floodmark run`.

use std::path::Path;
use std::time::Duration;

use anyhow::Error;
use floodmark_dataflows::time::Windows;

use crate::base::duration;
use crate::base::error::{Exit, Failure};
use crate::kafka::topics::{self, Plan, TopicConfig};
use crate::kafka::{
    Address, AddressError, BufferedProducer, ClientOptions, OnRefusal, SCHEME, Tuning,
};
use crate::limits::catalog::Catalog;
use crate::output::Format;
use crate::sink::Stream;

/// The options about outputs.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "outputs")]
pub(super) struct OutputArgs {
    /// An output for changes: `-`, a file, or kafka://HOST:PORT,…/TOPIC; repeatable
    ///
    /// Default: the outputs in the environment variable FLOODMARK_TO, separated by blanks; else `-`, standard
    /// output.
    #[arg(long, value_name = "URI")]
    pub(super) to: Vec<String>,

    /// Detach standard output, a FIFO or a file whose queue is full and which accepts nothing for this time
    ///
    /// Only while another --to remains: the run goes on with the others, and counts the lines that it does
    /// not write. The run always waits for a topic, and for the last --to that remains.
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_DETACH_AFTER",
        default_value = "60s",
        value_parser = duration::positive_millis
    )]
    pub(super) detach_after: u64,

    /// Publish the totals of each settled window to this topic, such as kafka://…/floodmark-totals-v1
    #[arg(long, value_name = "URI", env = "FLOODMARK_PUBLISH")]
    pub(super) publish: Option<Address>,

    /// Create the topics of --to, --publish and --dead-letter that do not exist
    ///
    /// Topics for changes and totals are compacted: they keep the last message of each key. A topic for dead
    /// letters has the broker's default retention. Without this option a missing topic is an error.
    #[arg(long)]
    pub(super) create_topic: bool,
}

/// Parses an output as a topic; `None` if it is a file or standard output.
pub(super) fn topic(to: &str) -> Option<Result<Address, Failure>> {
    let parsed = to.starts_with(SCHEME).then(|| to.parse())?;
    Some(parsed.map_err(|error: AddressError| Failure::new(Exit::Usage, Error::new(error))))
}

impl OutputArgs {
    /// Adds the outputs that are not given on the command line.
    pub(super) fn complete(&mut self) {
        if self.to.is_empty() {
            let given = std::env::var("FLOODMARK_TO").unwrap_or_default();
            self.to = given.split_whitespace().map(str::to_owned).collect();
        }
        if self.to.is_empty() {
            self.to.push("-".into());
        }
    }

    /// Returns the topics of changes.
    pub(super) fn topics(&self) -> Result<Vec<Address>, Failure> {
        self.to.iter().filter_map(|to| topic(to)).collect()
    }

    /// Whether changes or totals go to topics.
    pub(super) fn write_topics(&self) -> bool {
        self.publish.is_some() || self.to.iter().any(|to| to.starts_with(SCHEME))
    }

    /// Returns the outputs of changes that are no topics.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.to.iter().map(String::as_str).filter(|to| !to.starts_with(SCHEME))
    }

    /// Opens the outputs of changes that are no topics.
    pub(super) fn open_lines(
        &self,
        format: Format,
        windows: Windows,
        catalog: &Catalog,
    ) -> Result<Vec<Stream>, Failure> {
        let open = |to: &str| -> Result<Stream, Failure> {
            let stream = match to {
                "-" => Stream::stdout(format, windows, catalog)?,
                path => Stream::open(Path::new(path), windows)?,
            };
            Ok(stream.detached_after(Duration::from_millis(self.detach_after)))
        };
        self.lines().map(open).collect()
    }

    /// Opens a topic whose messages replace each other by their keys.
    pub(super) fn open_topic(
        &self,
        address: &Address,
        kafka: &ClientOptions,
    ) -> Result<BufferedProducer, Failure> {
        let config = self.describe_topic(address, kafka)?;
        let buffered = BufferedProducer::open_known(&config, kafka, Tuning::for_latency())?;
        // A rejected alert must not stop the others.
        Ok(buffered.on_refusal(OnRefusal::Keep))
    }

    /// Returns the configuration of such a topic.
    pub(super) fn describe_topic(
        &self,
        address: &Address,
        kafka: &ClientOptions,
    ) -> Result<TopicConfig, Failure> {
        topics::find(address, kafka, &Plan::state(-1), self.create_topic)?;
        let config = topics::try_describe(address, kafka)?;
        if config.is_known && !config.compacts {
            tracing::warn!(
                topic = address.topic,
                "the topic is not compacted: a reader from its beginning reads all messages of a key, \
                 and after retention.ms no longer finds the last one; docs/kafka.md has a suitable \
                 configuration"
            );
        }
        Ok(config)
    }
}
