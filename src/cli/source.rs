//! The options of commands that read a topic.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::values;
use crate::base::date;
use crate::base::duration;
use crate::cluster::{Given, Settings};
use crate::kafka::topics::{self, Plan};
use crate::kafka::{Address, BufferedProducer, OnRefusal, SourceOptions, Start, Tuning, Until};
use crate::record::{Decoder, Options};
use crate::source::topic::OpenDeadLetters;

/// The options about reading a topic.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "reading")]
pub struct Reading {
    /// The topic for messages with records that can't be counted or written
    #[arg(long, value_name = "URI", env = "FLOODMARK_DEAD_LETTER")]
    pub dead_letter: Option<Address>,

    /// Idle time after which a partition no longer holds the watermark
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_IDLE_TIMEOUT",
        default_value = "30s",
        value_parser = duration::positive_millis
    )]
    pub idle_timeout: u64,

    /// Pause a partition that is more than this ahead of the slowest one, in event time
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_MAX_SKEW",
        default_value = "15m",
        value_parser = duration::millis
    )]
    pub max_skew: u64,

    /// Report an error when an open transaction has withheld messages for this time
    ///
    /// Messages behind an open transaction are not read, and their partition holds the watermark.
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_MAX_TRANSACTION",
        default_value = "15m",
        value_parser = duration::positive_millis
    )]
    pub max_transaction: u64,

    /// After --max-transaction, continue as if the open transaction withheld no messages
    ///
    /// The partition then no longer holds the watermark. Messages that become readable when the transaction
    /// ends may be too late for their windows.
    #[arg(long, env = "FLOODMARK_SKIP_OPEN_TRANSACTIONS")]
    pub skip_open_transactions: bool,

    /// The time zone of times in records that state no zone
    #[arg(
        long,
        value_name = "ZONE",
        env = "FLOODMARK_INPUT_TIMEZONE",
        default_value = "UTC",
        value_parser = values::zone
    )]
    pub input_timezone: TimeZone,

    /// Options of the Kafka client.
    #[command(flatten)]
    pub kafka: super::kafka::Args,
}

impl Reading {
    /// Returns the options for reading a topic.
    pub fn source(&self, start: Start, group: &str) -> SourceOptions {
        SourceOptions {
            start,
            idle_timeout: Duration::from_millis(self.idle_timeout),
            max_skew_ms: self.max_skew,
            group: group.to_owned(),
            max_transaction: Duration::from_millis(self.max_transaction),
            skip_open_transactions: self.skip_open_transactions,
        }
    }

    /// Adds the options that decide which records are read, and when their windows close.
    pub fn add_settings(&self, settings: Settings) -> Settings {
        let Reading {
            dead_letter,
            idle_timeout,
            max_skew,
            max_transaction,
            skip_open_transactions,
            input_timezone,
            kafka: _,
        } = self;
        settings
            .with_optional("--dead-letter", Given::when(dead_letter.is_some()))
            .with("--idle-timeout", duration::text(*idle_timeout))
            .with("--max-skew", duration::text(*max_skew))
            .with("--max-transaction", duration::text(*max_transaction))
            .with_optional("--skip-open-transactions", Given::when(*skip_open_transactions))
            .with("--input-timezone", values::shown_zone(input_timezone))
    }

    /// Returns a decoder for messages.
    pub fn decoder(&self) -> Decoder {
        Decoder::new(Options { input_timezone: self.input_timezone.clone() })
    }

    /// Returns the opener of the sink of unreadable messages; `None` unless they are kept.
    ///
    /// Creates a missing topic if `create`; otherwise a missing topic is an error.
    pub fn dead_letters(&self, create: bool) -> Option<OpenDeadLetters> {
        self.dead_letter.clone().map(|address| {
            let kafka = self.kafka.client();
            let open = move || {
                topics::find(&address, &kafka, &Plan::dead_letters(), create)?;
                let buffered = BufferedProducer::open(&address, &kafka, Tuning::for_latency())?;
                // A dead letter that the broker rejects must not end the run.
                Ok(buffered.on_refusal(OnRefusal::Cut))
            };
            Arc::new(open) as OpenDeadLetters
        })
    }
}

/// Reads a start position.
pub fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        text => time(text, "earliest, latest").map(Start::At),
    }
}

/// Reads `earliest`, a time, or an offset.
pub fn start_or_offset(text: &str) -> Result<Start, String> {
    match (offset(text), text) {
        (Some(offset), _) => offset.map(Start::Offset),
        (None, "earliest") => Ok(Start::Earliest),
        (None, text) => time(text, "earliest, an offset").map(Start::At),
    }
}

/// Reads `latest`, a time, or an offset.
pub fn until(text: &str) -> Result<Until, String> {
    match (offset(text), text) {
        (Some(offset), _) => offset.map(Until::Offset),
        (None, "latest") => Ok(Until::Latest),
        (None, text) => time(text, "latest, an offset").map(Until::Time),
    }
}

/// Reads an offset; `None` for a text that is none.
fn offset(text: &str) -> Option<Result<i64, String>> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let read = || text.parse().map_err(|_| format!("\"{text}\" is greater than any offset"));
    is_number.then(read)
}

/// Reads a time, in milliseconds since 1970. `others`: the other values.
fn time(text: &str, others: &str) -> Result<u64, String> {
    let nanos = date::parse(text).map_err(|_| {
        format!("\"{text}\" is none of {others}, and a time such as 2026-01-31T12:00:00Z")
    })?;
    u64::try_from(nanos.div_euclid(1_000_000)).map_err(|_| format!("\"{text}\" is before 1970"))
}

/// Formats an end position as an option value.
pub fn shown_until(until: Until) -> String {
    match until {
        Until::Latest => "latest".to_owned(),
        Until::Time(ms) => date::format_ms(ms).to_string(),
        Until::Offset(offset) => offset.to_string(),
    }
}

/// Formats a start position as an option value.
pub fn shown_start(start: Start) -> String {
    match start {
        Start::Earliest => "earliest".to_owned(),
        Start::Latest => "latest".to_owned(),
        Start::Committed => "committed".to_owned(),
        Start::At(ms) => date::format_ms(ms).to_string(),
        Start::Offset(offset) => offset.to_string(),
    }
}

/// Reads `earliest`, `latest`, a time, or `committed`.
pub fn start_or_committed(text: &str) -> Result<Start, String> {
    match text {
        "committed" => Ok(Start::Committed),
        text => start(text)
            .map_err(|error| error.replace("none of earliest,", "none of committed, earliest,")),
    }
}
