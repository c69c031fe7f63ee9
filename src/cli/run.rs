//! `floodmark run`: a topic, judged as it comes.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use floodmark_dataflows::orders::HandOn;
use floodmark_dataflows::time::Windows;
use jiff::tz::TimeZone;

use super::judging::Judging;
use super::values;
use crate::cluster::{self, Cluster, Restart, watchdog};
use crate::computation;
use crate::error::{Exit, Failure, Outcome};
use crate::http::HttpOptions;
use crate::kafka::topics::{self, Plan};
use crate::kafka::{Address, ClientOptions, Outbox, SCHEME, SourceOptions, Start, Topic, Tuning};
use crate::limits::catalog::Catalog;
use crate::limits::date;
use crate::limits::feed::{FileFeed, Health};
use crate::live::{self, Alerts, Lead, Limits, Shared, Sinks, Status};
use crate::logging::LogOptions;
use crate::output::rotated::RotatedFile;
use crate::output::{Sink, WriteError};
use crate::terminal::{Interrupt, Messages};

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
    http: HttpOptions,

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
    let tick = Duration::from_millis(args.judging.tick);
    let status = Arc::new(Status::new(cluster.workers, tick));
    // Before anything is counted, and before a broker is waited for.
    let above = if cluster.supervised { cluster.process } else { 0 };
    let _server = args.http.serve(above, status.clone())?;
    let source = SourceOptions {
        start: args.from_offset,
        idle_timeout: Duration::from_millis(args.idle_timeout),
        max_skew_ms: args.max_skew,
        group: args.group.clone(),
    };
    let topic = Arc::new(Topic::open(&args.from, &args.kafka, source)?);
    let watch = watchdog::start(args.cluster.stall_timeout())?;
    status.reads(topic.clone(), watch.clone());
    let options = args.judging.options(args.publish.as_ref().map(|_| HandOn::Settled));
    let lead = match leads.then(|| lead(args, options.windows, &status)).transpose() {
        Ok(lead) => lead,
        Err(WriteError::Closed) => return Ok(Exit::Done),
        Err(WriteError::Failed(failure)) => return Err(failure),
    };
    let shared = Shared {
        topic,
        options,
        filter: args.judging.filter(),
        max_ahead_ms: args.max_ahead,
        input_timezone: args.input_timezone.clone(),
        dead_letters: args.dead_letter.clone().map(|address| {
            let kafka = args.kafka.clone();
            let open = move || Outbox::open(&address, &kafka, Tuning::for_latency());
            Arc::new(open) as Arc<dyn Fn() -> Result<Outbox, Failure> + Send + Sync>
        }),
        status,
        interrupt: interrupt.clone(),
        watch,
    };
    let mut waiting = || match interrupt.pressed() {
        true => Err(Failure::new(
            Exit::Interrupted,
            anyhow!("interrupted while waiting for the other processes"),
        )),
        false => Ok(()),
    };
    let equal = format!("{options:?} {} {}", args.from, args.judging.tick);
    // The first worker takes it.
    let lead = Mutex::new(lead);
    let from_offset = args.from_offset;
    let outcomes = cluster.execute(
        &equal,
        &Messages::new(),
        &mut waiting,
        computation::worker_config(),
        move |worker| {
            let first = worker.index() == 0;
            let lead = first.then(|| lead.lock().unwrap_or_else(PoisonError::into_inner).take());
            let mut lead = lead.flatten();
            if let Some(lead) = &mut lead {
                // Now that all processes are here, which know by now what is the latest.
                lead.begun = begun(from_offset);
            }
            live::run(worker, &shared, lead)
        },
    )?;
    outcomes.into_iter().flatten().next().unwrap_or(Ok(Exit::Done))
}

/// What the first worker leads with.
fn lead(args: &Args, windows: Windows, status: &Status) -> Result<Lead, WriteError> {
    let leader = Arc::new(OnceLock::<Thread>::new());
    let limits = follow_limits(args, &leader, status).map_err(WriteError::Failed)?;
    Ok(Lead {
        limits,
        leader,
        sinks: sinks(args, windows)?,
        tick: Duration::from_millis(args.judging.tick),
        idle_timeout_ms: args.idle_timeout,
        begun: None,
        fail_on_violation: args.judging.fail_on_violation,
    })
}

/// The limits, from now on. The leader is woken when they change.
fn follow_limits(
    args: &Args,
    leader: &Arc<OnceLock<Thread>>,
    status: &Status,
) -> Result<Limits, Failure> {
    let Some(file) = &args.judging.limits else {
        status.leads(Health::default());
        return Ok(Limits::default());
    };
    let (feed, rows) = FileFeed::open(file, args.judging.limit_defaults.defaults())?;
    status.leads(feed.health());
    let leader = leader.clone();
    let wake = move || {
        if let Some(leader) = leader.get() {
            leader.unpark();
        }
    };
    Ok(Limits { rows, changes: Some(feed.follow(wake)?) })
}

/// When observation begins, if that is in the midst of a window.
fn begun(start: Start) -> Option<u64> {
    match start {
        Start::Earliest => None,
        Start::Latest => {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            Some(since.unwrap_or_default().as_millis() as u64)
        }
        Start::At(time) => Some(time),
    }
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
