//! `floodmark replay`: captures, judged on their own clock.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::top::TopQuery;
use floodmark_dataflows::types::{Prefix, Updates, Version};

use super::limits::contents;
use super::values::{self, LimitDefaults};
use crate::capture::Tally;
use crate::cluster::{Cluster, FOLLOWER, Followers};
use crate::driver::{self, Computation, Outcome as TickOutcome, Replayed, Sinks};
use crate::error::{Exit, Failure, Outcome};
use crate::limits::catalog::Catalog;
use crate::limits::date::format_ms;
use crate::limits::json;
use crate::limits::rows::Defaults;
use crate::merge;
use crate::output::{Sink, WriteError, change, table, totals};
use crate::replay::{self, Cut, End, Filter};
use crate::terminal::{Interrupt, Messages};

/// The options of `floodmark replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Captures: pcap or pcapng, also in gzip or zstd; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Limits: a JSON array of objects, or JSON objects one a line
    ///
    /// Without limits only totals and rankings are made.
    #[arg(long, value_name = "FILE", env = "FLOODMARK_LIMITS")]
    limits: Option<PathBuf>,

    #[command(flatten)]
    limit_defaults: LimitDefaults,

    /// The width of windows, in whole seconds
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_WINDOW",
        default_value = "5m",
        value_parser = values::secs
    )]
    window: u64,

    /// How often what has come in is judged, in event time
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_TICK",
        default_value = "1s",
        value_parser = values::positive_millis
    )]
    tick: u64,

    /// How long after its end a window still takes packets
    ///
    /// Default: always, so that a file is counted whole whatever the order of its packets.
    #[arg(long, value_name = "DURATION", env = "FLOODMARK_LATENESS", value_parser = values::millis)]
    lateness: Option<u64>,

    /// How long a window is held in memory after that; needs --lateness
    ///
    /// Default: until the end.
    #[arg(long, value_name = "DURATION", env = "FLOODMARK_RETENTION", value_parser = values::millis)]
    retention: Option<u64>,

    /// Windows without packets, between two with packets that are no further apart, are silence; with
    /// more between them nobody was watching
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_MAX_GAP",
        default_value = "24h",
        value_parser = values::secs
    )]
    max_gap: u64,

    /// Count only packets from this network; repeated, from any of them
    #[arg(long, value_name = "CIDR", value_parser = values::network)]
    source: Vec<Prefix>,

    /// Count only packets to this network; repeated, to any of them
    #[arg(long, value_name = "CIDR", value_parser = values::network)]
    destination: Vec<Prefix>,

    /// Which updates of standing violations to say before their window settles
    #[arg(long, value_enum, env = "FLOODMARK_UPDATES", default_value_t = UpdatesArg::Settled)]
    updates: UpdatesArg,

    /// Write the totals of all pairs and windows, as CSV; `-` is standard output
    #[arg(long, value_name = "FILE.csv")]
    totals: Option<PathBuf>,

    /// Write the changes to a file instead of standard output
    #[arg(long, value_name = "FILE")]
    changes: Option<PathBuf>,

    /// Rank the N greatest pairs, sources or destinations of each window, by bytes or packets
    #[arg(
        long,
        value_name = "N[,pair|source|destination][,bytes|packets]",
        value_parser = values::top
    )]
    top: Option<TopQuery>,

    /// How to write changes and rankings
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,

    /// End with code 2 if a violation stands at the end
    #[arg(long)]
    fail_on_violation: bool,

    /// Worker threads of each process
    #[arg(short, long, value_name = "N", env = "FLOODMARK_WORKERS", default_value_t = 1)]
    workers: usize,

    /// Processes; without --process all are started on this machine
    #[arg(short = 'n', long, value_name = "N", env = "FLOODMARK_PROCESSES", default_value_t = 1)]
    processes: usize,

    /// Which of the processes this one is, from 0; needs --hostfile
    #[arg(short, long, value_name = "P")]
    process: Option<usize>,

    /// The addresses of the processes, one host:port a line
    #[arg(long, value_name = "FILE")]
    hostfile: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UpdatesArg {
    /// None but the last one, when it settles
    Settled,
    /// Also when another version of the limit judges
    Limit,
    /// That, and each tick with a new amount
    Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line
    Json,
    /// Aligned columns, for people
    Table,
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, error)
}

impl Args {
    fn check(&self) -> Result<(), Failure> {
        if self.retention.is_some() && self.lateness.is_none() {
            return Err(usage(anyhow!(
                "--retention counts from the moment a window settles, and without --lateness none does \
                 before the end: give both, or neither"
            )));
        }
        if self.totals.as_deref() == Some(Path::new("-"))
            && self.changes.as_deref().is_none_or(|changes| changes == Path::new("-"))
        {
            return Err(usage(anyhow!(
                "--totals - takes standard output for the totals: give --changes FILE for the changes"
            )));
        }
        if self.workers == 0 || self.processes == 0 {
            return Err(usage(anyhow!("at least one worker and one process are needed")));
        }
        match (self.process, &self.hostfile) {
            (Some(process), _) if process >= self.processes => Err(usage(anyhow!(
                "there is no process {process} among {} (-n), which are counted from 0",
                self.processes
            ))),
            (Some(_), None) if self.processes > 1 => Err(usage(anyhow!(
                "--process says which line of a host file is this process: give --hostfile"
            ))),
            (None, Some(_)) => Err(usage(anyhow!(
                "--hostfile names the processes: give --process to say which of them this one is"
            ))),
            _ => Ok(()),
        }
    }

    fn options(&self) -> Options {
        Options {
            windows: Windows {
                width_secs: self.window,
                lateness_ms: self.lateness,
                retention_ms: self.retention,
                max_gap_secs: self.max_gap,
            },
            updates: match self.updates {
                UpdatesArg::Settled => Updates::Settled,
                UpdatesArg::Limit => Updates::Limit,
                UpdatesArg::Tick => Updates::Tick,
            },
            top: self.top,
            hand_on_rows: self.totals.is_some(),
        }
    }

    fn cluster(&self) -> Result<(Option<Followers>, Cluster), Failure> {
        match (self.process, &self.hostfile) {
            (Some(process), Some(file)) if self.processes > 1 => {
                let cluster = Cluster::of_host_file(self.workers, self.processes, process, file)?;
                Ok((None, cluster))
            }
            _ if self.processes == 1 => Ok((None, Cluster::alone(self.workers))),
            _ => {
                let (followers, cluster) = Followers::start(self.workers, self.processes)?;
                Ok((Some(followers), cluster))
            }
        }
    }
}

/// What only the first process has.
struct Lead {
    readers: Vec<crate::capture::Reader>,
    cut: Cut,
    versions: BTreeSet<Version>,
    catalog: Catalog,
    interrupt: Interrupt,
    messages: Messages,
    fail_on_violation: bool,
    format: Format,
    changes: PathBuf,
    totals: Option<PathBuf>,
}

/// Runs `floodmark replay`.
pub fn run(args: &Args) -> Outcome {
    args.check()?;
    let options = args.options();
    if args.process.is_some_and(|process| process > 0) {
        return follow(args, options);
    }
    let mut catalog = Catalog::new();
    let messages = Messages::new();
    let versions = match &args.limits {
        Some(file) => read_limits(file, args.limit_defaults.defaults(), &mut catalog, &messages)?,
        None => BTreeSet::new(),
    };
    let readers = merge::open(&args.files)?;
    let messages = Messages::with_progress(merge::size(&readers));
    let interrupt = Interrupt::listen()?;
    let (mut followers, cluster) = args.cluster()?;
    let waiting_interrupt = interrupt.clone();
    let mut waiting = || {
        if waiting_interrupt.pressed() {
            let error = anyhow!("interrupted while waiting for the other processes");
            return Err(Failure::new(Exit::Interrupted, error));
        }
        Ok(followers.as_mut().map_or(Ok(()), Followers::check)?)
    };
    let filter = Filter { sources: args.source.clone(), destinations: args.destination.clone() };
    let cut = Cut { tick_ms: args.tick, windows: options.windows, filter, peers: cluster.peers() };
    let lead = Lead {
        readers,
        cut,
        versions,
        catalog,
        interrupt,
        messages: messages.clone(),
        fail_on_violation: args.fail_on_violation,
        format: args.format,
        changes: args.changes.clone().unwrap_or_else(|| "-".into()),
        totals: args.totals.clone(),
    };
    // The first worker takes it.
    let lead = Arc::new(Mutex::new(Some(lead)));
    let outcomes = cluster.execute(
        &format!("{options:?}"),
        &messages,
        &mut waiting,
        driver::worker_config(),
        move |worker| {
            let first = worker.index() == 0;
            let computation = Computation::build(worker, options);
            let lead = first.then(|| lead.lock().unwrap_or_else(PoisonError::into_inner).take());
            lead.flatten().map(|lead| lead.run(computation, options))
        },
    )?;
    if let Some(followers) = followers {
        followers.join()?;
    }
    outcomes.into_iter().flatten().next().expect("the first process has the first worker")
}

/// A process that only computes.
fn follow(args: &Args, options: Options) -> Outcome {
    if std::env::var_os(FOLLOWER).is_some() {
        Interrupt::ignore()?;
    }
    let (_, cluster) = args.cluster()?;
    cluster.execute(
        &format!("{options:?}"),
        &Messages::new(),
        &mut || Ok(()),
        driver::worker_config(),
        move |worker| drop(Computation::build(worker, options)),
    )?;
    Ok(Exit::Done)
}

/// Reads a file of limits; rows that are refused are said.
fn read_limits(
    file: &Path,
    defaults: Defaults,
    catalog: &mut Catalog,
    messages: &Messages,
) -> Result<BTreeSet<Version>, Failure> {
    let bytes = contents(file)?;
    let limits = json::read(&bytes, defaults)
        .with_context(|| format!("reading limits from \"{}\"", file.display()))
        .map_err(|error| Failure::new(Exit::BadConfig, error))?;
    for (verdict, reason) in limits.refusals() {
        let (file, position) = (file.display(), verdict.position);
        messages.say(format!("limits \"{file}\", {position}: refused: {reason}"));
    }
    Ok(catalog.versions(limits.rows()))
}

impl Lead {
    fn run(self, computation: Computation<'_>, options: Options) -> Outcome {
        let mut sinks = Files::open(&self, options.windows)?;
        let (versions, interrupt, messages) = (self.versions, self.interrupt, self.messages);
        let tick_ms = self.cut.tick_ms;
        let me = std::thread::current();
        let source = replay::start(self.readers, self.cut, messages.clone(), move || me.unpark())
            .context("starting the thread that reads")?;
        interrupt.wake_me();
        let mut replay = driver::Replay::new(computation, options, &versions, &mut sinks);
        let replayed = match replay.run(&source, &interrupt).and_then(|replayed| {
            sinks.flush()?;
            Ok(replayed)
        }) {
            Ok(replayed) => replayed,
            // Whoever read the output has seen enough.
            Err(WriteError::Closed) => return Ok(Exit::Done),
            Err(WriteError::Failed(failure)) => return Err(failure),
        };
        messages.finish();
        let late_packets = sinks.late_packets;
        if late_packets != 0 {
            messages.say(format!(
                "{late_packets} packets came after their window had settled, and are not counted"
            ));
        }
        let Replayed { end: Some(end), .. } = replayed else {
            messages.say(complete_up_to(replayed.last_tick, tick_ms));
            return Ok(Exit::Interrupted);
        };
        say_counts(&messages, &end);
        let damaged = if end.damaged { Exit::BadData } else { Exit::Done };
        let violated = if self.fail_on_violation && sinks.standing > 0 {
            Exit::Violations
        } else {
            Exit::Done
        };
        Ok(damaged.or(violated))
    }
}

/// How far an answer goes that was interrupted.
fn complete_up_to(last_tick: Option<u64>, tick_ms: u64) -> String {
    match last_tick {
        // It was handed over when a packet of a later one came.
        Some(tick) => {
            let end = format_ms(tick.saturating_add(tick_ms));
            format!("interrupted: the answer is complete up to event time {end}")
        }
        None => "interrupted before any tick of event time was complete".into(),
    }
}

fn say_counts(messages: &Messages, end: &End) {
    let (tally, without_window): (&Tally, _) = (&end.tally, end.without_window);
    let packets = tally.packets.saturating_sub(without_window.packets.unsigned_abs());
    let bytes = tally.bytes.saturating_sub(without_window.bytes.unsigned_abs());
    let mut line = format!("counted {packets} of {} frames, {bytes} bytes", tally.frames);
    let mut not_counted: Vec<String> = tally.uncounted_texts().collect();
    if without_window.packets > 0 {
        not_counted.push(format!("{} in no window", without_window.packets));
    }
    if !not_counted.is_empty() {
        line += &format!("; not counted: {}", not_counted.join(", "));
    }
    messages.say(line);
}

/// The files that a replay writes.
struct Files {
    windows: Windows,
    format: Format,
    catalog: Catalog,
    changes: Sink,
    totals: Option<Sink>,
    standing: u64,
    late_packets: i64,
}

impl Files {
    fn open(lead: &Lead, windows: Windows) -> Result<Self, Failure> {
        let fail = |error| match error {
            WriteError::Closed => {
                Failure::new(Exit::Failed, anyhow!("the output was closed before it began"))
            }
            WriteError::Failed(failure) => failure,
        };
        let mut changes = Sink::open(&lead.changes)?;
        if lead.format == Format::Table {
            changes.write(|out| table::write_header(out)).map_err(fail)?;
        }
        let mut totals = lead.totals.as_deref().map(Sink::open).transpose()?;
        if let Some(totals) = &mut totals {
            totals.write(|out| writeln!(out, "{}", totals::HEADER)).map_err(fail)?;
        }
        let (format, catalog) = (lead.format, lead.catalog.clone());
        Ok(Files { windows, format, catalog, changes, totals, standing: 0, late_packets: 0 })
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        self.changes.flush()?;
        self.totals.as_mut().map_or(Ok(()), Sink::flush)
    }
}

impl Sinks for Files {
    fn tick(&mut self, tick: u64, outcome: TickOutcome) -> Result<(), WriteError> {
        let Files { windows, format, catalog, .. } = self;
        let says = !(outcome.changes.is_empty() && outcome.top.is_empty());
        self.changes.write(|out| {
            for said in &outcome.changes {
                match format {
                    Format::Json => change::write_json(out, tick, said, catalog, windows)?,
                    Format::Table => table::write_change(out, tick, said, catalog)?,
                }
            }
            for ranked in &outcome.top {
                match format {
                    Format::Json => change::write_ranked_json(out, ranked)?,
                    Format::Table => table::write_ranked(out, ranked)?,
                }
            }
            Ok(())
        })?;
        if says {
            self.changes.flush()?;
        }
        if let Some(totals) = &mut self.totals {
            for (window, rows) in outcome.rows {
                totals.write(|out| totals::write_window(out, window, rows))?;
            }
        }
        self.standing = driver::standing(self.standing, &outcome.changes);
        self.late_packets = self.late_packets.saturating_add(outcome.late_packets);
        Ok(())
    }

    fn wants_totals(&self) -> bool {
        self.totals.is_some()
    }
}
