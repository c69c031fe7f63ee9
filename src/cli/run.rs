//! `floodmark run`: a topic, judged as it comes.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use anyhow::anyhow;
use floodmark_dataflows::orders::HandOn;
use floodmark_dataflows::time::Windows;
use jiff::tz::TimeZone;

use super::judging::Judging;
use super::values;
use crate::cluster::{self, Cluster, Restart, watchdog};
use crate::error::{Exit, Failure, Outcome};
use crate::kafka::topics::{self, Plan};
use crate::kafka::{Address, ClientOptions, Outbox, SCHEME, SourceOptions, Start, Topic, Tuning};
use crate::limits::catalog::Catalog;
use crate::limits::date;
use crate::live::{self, Alerts, Lead, Limits, Shared, Sinks, Status, WallClock};
use crate::logging::LogOptions;
use crate::output::rotated::RotatedFile;
use crate::output::{Sink, WriteError};
use crate::terminal::Interrupt;

/// The options of `floodmark run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where records come from: kafka://HOST:PORT,…/TOPIC
    #[arg(long, value_name = "URI", env = "FLOODMARK_FROM")]
    from: Address,

    /// Where changes go: `-`, a file, or kafka://HOST:PORT,…/TOPIC; repeated, to all of them
    #[arg(
        long,
        value_name = "URI",
        env = "FLOODMARK_TO",
        default_value = "-",
        value_delimiter = ' '
    )]
    to: Vec<String>,

    /// A topic for the totals of each window that has settled, such as kafka://…/floodmark-totals-v1
    #[arg(long, value_name = "URI", env = "FLOODMARK_PUBLISH")]
    publish: Option<Address>,

    /// A topic that keeps messages with something in them that can't be counted
    #[arg(long, value_name = "URI", env = "FLOODMARK_DEAD_LETTER")]
    dead_letter: Option<Address>,

    #[command(flatten)]
    judging: Judging,

    /// Where to begin: earliest, latest, or a time, from which on messages are read
    #[arg(
        long,
        value_name = "earliest|latest|TIME",
        env = "FLOODMARK_FROM_OFFSET",
        default_value = "earliest",
        value_parser = start
    )]
    from_offset: Start,

    /// The group under which offsets are committed, for those who look at its lag
    #[arg(long, value_name = "NAME", env = "FLOODMARK_GROUP", default_value = "floodmark")]
    group: String,

    /// How long a partition says nothing before nobody waits for it
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_IDLE_TIMEOUT",
        default_value = "30s",
        value_parser = values::positive_millis
    )]
    idle_timeout: u64,

    /// How far a partition may be ahead of the slowest one, in event time, before it waits
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_MAX_SKEW",
        default_value = "15m",
        value_parser = values::millis
    )]
    max_skew: u64,

    /// How far a record may be ahead of the clock; further ones are refused
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_MAX_AHEAD",
        default_value = "5m",
        value_parser = values::millis
    )]
    max_ahead: u64,

    /// The zone of times in records that state none
    #[arg(
        long,
        value_name = "ZONE",
        env = "FLOODMARK_INPUT_TIMEZONE",
        default_value = "UTC",
        value_parser = values::zone
    )]
    input_timezone: TimeZone,

    #[command(flatten)]
    kafka: ClientOptions,

    #[command(flatten)]
    cluster: cluster::Args,

    #[command(flatten)]
    restart: Restart,

    #[command(flatten)]
    log: LogOptions,
}

/// How long after its end a window takes records, unless said otherwise, in milliseconds.
const LATENESS_MS: u64 = 10 * 60 * 1000;
/// How long a window is held after that, unless said otherwise, in milliseconds.
const RETENTION_MS: u64 = 60 * 60 * 1000;

/// Reads the value of `--from-offset`.
fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        time => {
            let nanos = date::parse(time).map_err(|_| {
                format!(
                    "\"{time}\" is none of earliest, latest, and a time such as 2026-01-31T12:00Z"
                )
            })?;
            u64::try_from(nanos.div_euclid(1_000_000))
                .map(Start::At)
                .map_err(|_| format!("\"{time}\" is before 1970"))
        }
    }
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, error)
}

/// Runs `floodmark run`.
pub fn run(args: &Args) -> Outcome {
    let mut args = args.clone();
    args.judging.lateness.get_or_insert(LATENESS_MS);
    args.judging.retention.get_or_insert(RETENTION_MS);
    if args.to.iter().filter(|to| *to == "-").count() > 1 {
        return Err(usage(anyhow!("--to - is given twice, and standard output is one")));
    }
    args.log.start();
    cluster::launch(&args.cluster, args.restart, |cluster| process(&args, cluster))
}

/// One process of a run.
fn process(args: &Args, cluster: Cluster) -> Outcome {
    let leads = cluster.process == 0;
    let interrupt = match cluster.supervised && !leads {
        // The first one hears it, and ends all.
        true => {
            Interrupt::ignore()?;
            Interrupt::default()
        }
        false => Interrupt::listen()?,
    };
    let source = SourceOptions {
        start: args.from_offset,
        idle_timeout: Duration::from_millis(args.idle_timeout),
        max_skew_ms: args.max_skew,
        group: args.group.clone(),
    };
    let topic = Topic::open(&args.from, &args.kafka, source)?;
    let options = args.judging.options(args.publish.as_ref().map(|_| HandOn::Settled));
    let lead = match leads.then(|| lead(args, options.windows)).transpose() {
        Ok(lead) => lead,
        Err(WriteError::Closed) => return Ok(Exit::Done),
        Err(WriteError::Failed(failure)) => return Err(failure),
    };
    let shared = Shared {
        topic: Arc::new(topic),
        options,
        filter: args.judging.filter(),
        max_ahead_ms: args.max_ahead,
        input_timezone: args.input_timezone.clone(),
        dead_letters: args.dead_letter.clone().map(|address| {
            let kafka = args.kafka.clone();
            let open = move || Outbox::open(&address, &kafka, Tuning::for_latency());
            Arc::new(open) as Arc<dyn Fn() -> Result<Outbox, Failure> + Send + Sync>
        }),
        status: Arc::new(Status::default()),
        interrupt: interrupt.clone(),
        watch: watchdog::start(args.cluster.stall_timeout())?,
    };
    let mut waiting = || match interrupt.pressed() {
        true => Err(Failure::new(
            Exit::Interrupted,
            anyhow!("interrupted while waiting for the other processes"),
        )),
        false => Ok(()),
    };
    let equal = format!("{options:?} {} {}", args.from, args.judging.tick);
    live::execute(cluster, &equal, &mut waiting, shared, lead)
}

/// What the first worker leads with.
fn lead(args: &Args, windows: Windows) -> Result<Lead, WriteError> {
    let leader = Arc::new(OnceLock::<Thread>::new());
    let limits = match &args.judging.limits {
        Some(file) => Limits::follow(file, args.judging.limit_defaults.defaults(), &leader)
            .map_err(WriteError::Failed)?,
        None => Limits::default(),
    };
    Ok(Lead {
        limits,
        leader,
        sinks: sinks(args, windows)?,
        tick: Duration::from_millis(args.judging.tick),
        clock: Box::new(WallClock { idle_timeout_ms: args.idle_timeout }),
        start: args.from_offset,
        fail_on_violation: args.judging.fail_on_violation,
    })
}

/// Opens everything that a run writes to.
fn sinks(args: &Args, windows: floodmark_dataflows::time::Windows) -> Result<Sinks, WriteError> {
    let failed = WriteError::Failed;
    let state_topic = |address: &Address| {
        topics::create(address, &args.kafka, &Plan::state(-1))?;
        Outbox::open(address, &args.kafka, Tuning::for_latency())
    };
    let mut alerts = Vec::new();
    for to in &args.to {
        alerts.push(match to.as_str() {
            "-" => {
                let sink = Sink::open(Path::new("-")).map_err(failed)?;
                Alerts::Stream(sink, args.judging.format)
            }
            uri if uri.starts_with(SCHEME) => {
                let address: Address =
                    uri.parse().map_err(|error| failed(usage(anyhow::Error::new(error))))?;
                Alerts::Topic(state_topic(&address).map_err(failed)?)
            }
            path => Alerts::File(RotatedFile::open(Path::new(path)).map_err(failed)?),
        });
    }
    let totals = args.publish.as_ref().map(state_topic).transpose().map_err(failed)?;
    Sinks::new(alerts, totals, windows, Catalog::new())
}
