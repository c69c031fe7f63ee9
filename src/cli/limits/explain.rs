//! `floodmark limits explain`: which limits apply to a pair, by captures or by a run.

use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::{ArgGroup, ValueEnum};
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::types::Pair;
use serde_json::Value;

use super::view;
use crate::base::duration;
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::terminal::{Interrupt, Messages};
use crate::base::{date, network};
use crate::capture::merge;
use crate::cli::replay::{read_limits, report_counts};
use crate::cli::values::LimitRows;
use crate::cluster::{Cluster, Settings};
use crate::http::client::Server;
use crate::limits::catalog::Catalog;
use crate::limits::explain as explaining;
use crate::output::{WriteError, explanation};
use crate::runner::{
    self, EventTime, ExplainQuery, Job, LeaderConfig, OpenLead, PendingQuery, QueryError, Shared,
    Sources,
};
use crate::sink::{Counts, Hub};
use crate::source::recorded::{Inputs, Summary, TickRules};
use crate::source::{Filter, Recorded};

/// The options of `floodmark limits explain`.
#[derive(Clone, Debug, clap::Args)]
#[command(group(ArgGroup::new("input").args(["capture", "from"]).required(true)))]
pub(super) struct Explain {
    /// The source address
    #[arg(value_parser = network::address)]
    source: IpAddr,

    /// The destination address
    #[arg(value_parser = network::address)]
    destination: IpAddr,

    /// A capture to count: pcap or pcapng, also in gzip or zstd; `-` is standard input; repeatable
    ///
    /// Several captures are counted as one.
    #[arg(long, value_name = "FILE")]
    capture: Vec<PathBuf>,

    /// A run to query, at the address of its --http, such as http://127.0.0.1:9464
    ///
    /// The limits and windows are those of the run.
    #[arg(long, value_name = "URL")]
    from: Option<Server>,

    /// With --capture: limits, a file of JSON, or a database as postgres://USER@HOST/DATABASE
    ///
    /// Default: the value of the environment variable FLOODMARK_LIMITS.
    #[arg(long, value_name = "FILE|URI", conflicts_with = "from")]
    limits: Option<String>,

    #[command(flatten)]
    rows: LimitRows,

    /// A time in the window to explain, such as 2024-05-01T12:00:00Z
    ///
    /// A time without a zone is in UTC. Default: a time in the last window with a record; for a run, now.
    #[arg(long, value_name = "TIME", value_parser = moment, allow_hyphen_values = true)]
    at: Option<u64>,

    /// With --capture: the width of windows, in whole seconds
    ///
    /// Default: the value of the environment variable FLOODMARK_WINDOW, else 5m.
    #[arg(long, value_name = "DURATION", value_parser = duration::secs, conflicts_with = "from")]
    window: Option<u64>,

    /// With --capture: gaps without records up to this long count as silence; longer ones as no observation
    ///
    /// Default: the value of the environment variable FLOODMARK_MAX_GAP, else 24h.
    #[arg(long, value_name = "DURATION", value_parser = duration::secs, conflicts_with = "from")]
    max_gap: Option<u64>,

    /// With --capture: drop a packet that is more than this ahead of the next packet of its capture
    ///
    /// Default: the value of --max-gap.
    #[arg(long, value_name = "DURATION", value_parser = duration::millis, conflicts_with = "from")]
    max_ahead: Option<u64>,

    /// Also show the limits that do not apply, and why
    #[arg(long)]
    all: bool,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned columns, for people
    Table,
    /// One JSON object, as a run serves it
    Json,
}

/// The interval of ticks, in milliseconds. It does not affect the explanation.
const TICK_MS: u64 = 1000;

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, error)
}

/// Reads a moment, in milliseconds since 1970.
fn moment(text: &str) -> Result<u64, String> {
    let nanos = date::parse(text).map_err(|error| error.to_string())?;
    let ms = u64::try_from(nanos.div_euclid(1_000_000));
    ms.map_err(|_| format!("\"{text}\" is before 1970; give a later time"))
}

/// Returns the value of the option, or of the environment variable. `--from` uses neither: the variables may
/// be those of the run itself.
fn or_variable<T>(
    given: Option<T>,
    name: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Failure> {
    if given.is_some() {
        return Ok(given);
    }
    let Ok(text) = std::env::var(name) else {
        return Ok(None);
    };
    let value = read(&text).map_err(|error| usage(anyhow!("environment variable {name}: {error}")));
    value.map(Some)
}

/// Runs `floodmark limits explain`.
pub(super) fn run(args: &Explain) -> Outcome {
    let pair =
        network::pair(args.source, args.destination).map_err(|error| usage(anyhow!(error)))?;
    let (object, exit) = match &args.from {
        Some(server) => (query_run(args, server, &pair)?, Exit::Done),
        None => match explain_captures(args, pair)? {
            (Some(object), exit) => (object, exit),
            (None, exit) => return Ok(exit),
        },
    };
    let text = match args.format {
        Format::Json => object,
        Format::Table => {
            view::table(&object).context("reading the response as an explanation of limits")?
        }
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader closed the pipe: it has read enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("writing to standard output").into())
        }
        _ => Ok(exit),
    }
}

/// Queries a run.
fn query_run(args: &Explain, server: &Server, pair: &Pair) -> Result<String, Failure> {
    let at = args.at.map(|at| format!("&at={}", date::format_ms(at))).unwrap_or_default();
    let all = if args.all { "&all=true" } else { "" };
    let (source, destination) = (pair.source(), pair.destination());
    let path = format!("/api/v1/explain?source={source}&destination={destination}{at}{all}");
    let response = server.get(&path)?;
    let object: Option<Value> = serde_json::from_str(&response.body).ok();
    let field = |name: &str| object.as_ref().and_then(|object| object.get(name));
    let context = format!("querying \"{}\"", server.text());
    match response.status.as_u16() {
        200 if field("limits").is_some_and(Value::is_array) => Ok(response.body),
        200 => Err(anyhow!("the server is no run of floodmark").context(context).into()),
        status => {
            let exit = match status {
                400 => Exit::Usage,
                503 | 504 => Exit::Unavailable,
                _ => Exit::Failed,
            };
            let why = match field("error").and_then(Value::as_str) {
                Some(why) => why.replace(char::is_control, " "),
                None => "is it a run of floodmark, at the address of its --http?".into(),
            };
            Err(Failure::new(
                exit,
                anyhow!("the server responds with status {status}: {why}").context(context),
            ))
        }
    }
}

/// Returns the rules of windows that the options and the environment set.
fn windows(args: &Explain) -> Result<Windows, Failure> {
    let usual = Windows::default();
    let width_secs = or_variable(args.window, "FLOODMARK_WINDOW", duration::secs)?;
    let max_gap_secs = or_variable(args.max_gap, "FLOODMARK_MAX_GAP", duration::secs)?;
    Ok(Windows {
        width_secs: width_secs.unwrap_or(usual.width_secs),
        max_gap_secs: max_gap_secs.unwrap_or(usual.max_gap_secs),
        ..usual
    })
}

/// Counts captures to their end, and explains their limits. Returns `None` if interrupted.
fn explain_captures(args: &Explain, pair: Pair) -> Result<(Option<String>, Exit), Failure> {
    let limits = or_variable(args.limits.clone(), "FLOODMARK_LIMITS", |text| Ok(text.into()))?;
    let limits = limits.ok_or_else(|| usage(anyhow!("no limits are given: give --limits FILE")))?;
    let rules = windows(args)?;
    let mut catalog = Catalog::new();
    let limits = args.rows.of(&limits)?;
    read_limits(&limits, &mut catalog, &Messages::new())?;
    let max_ahead = args.max_ahead.unwrap_or(rules.max_gap_secs.saturating_mul(1000));
    let readers = merge::open(&args.capture, max_ahead)?;
    let inputs = Inputs::Captures(readers);
    let messages = Messages::with_progress(inputs.work());
    let query = ExplainQuery { pair, at_ms: args.at, all: args.all };
    let (query, facts) = PendingQuery::new(query);
    let options = Options { windows: rules, ..Options::default() };
    let tick_rules =
        TickRules { tick_ms: TICK_MS, windows: rules, filter: Filter::default(), peers: 1 };
    let summary = Summary::default();
    let (to, by) = (summary.clone(), messages.clone());
    let sources = Sources::first(move || Recorded::read(inputs, tick_rules, &by, &to));
    let lead: OpenLead = Box::new(move || {
        Ok(LeaderConfig {
            state: None,
            time: Box::new(EventTime::new(rules)),
            hub: Hub::new(Counts::new(catalog.sets()), Vec::new()),
            catalog,
            limits: Vec::new(),
            queries: None,
            final_query: Some(query),
            leader: Arc::default(),
        })
    });
    let shared = Shared {
        has_dead_letters: false,
        state: None,
        options,
        filter: Filter::default(),
        status: None,
        interrupt: Interrupt::listen()?,
        watch: None,
    };
    let job = Job { shared, sources, lead: Some(lead) };
    let (cluster, settings) = (Cluster::alone(1), Settings::default());
    let ended = runner::execute(cluster, &settings, &messages, &mut || Ok(()), job)?;
    if let Some(WriteError::Failed(failure)) = ended.and_then(|ended| ended.failure) {
        return Err(failure);
    }
    messages.finish();
    let Some(end) = summary.get() else {
        messages.info("interrupted before all captures were counted");
        return Ok((None, Exit::Interrupted));
    };
    report_counts(&messages, end);
    let facts = facts.blocking_recv().unwrap_or(Err(QueryError::Ended));
    let facts = facts.map_err(|error| {
        usage(match error {
            QueryError::NoWindow => {
                anyhow!("no record is in any window, so there is no last window: give --at TIME")
            }
            error => anyhow!(error),
        })
    })?;
    let object = explanation::json(&explaining::explain(&facts), args.all);
    Ok((Some(object), if end.damaged { Exit::BadData } else { Exit::Done }))
}
