//! `floodmark replay`: captures, judged on their own clock.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::reads::EmitTotals;
use floodmark_dataflows::time::Windows;

use super::cluster::Stall;
use super::judging::Judging;
use crate::base::date::format_ms;
use crate::base::duration;
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::terminal::{Interrupt, Messages};
use crate::capture::Tally;
use crate::cluster::watchdog::{self, Watch};
use crate::cluster::{self, Cluster, Given, Settings};
use crate::computation::{self, Computation};
use crate::driver::{self, Replayed};
use crate::limits::catalog::{Catalog, LimitSet};
use crate::limits::{Address as LimitsAddress, feed};
use crate::merge;
use crate::output::{Format, WriteError};
use crate::replay::{self, Cut, End};
use crate::sink::{ChangesFile, Counts, Hub, OnlyDifference, OverflowWarnings, Sink, TotalsFile};

/// The options of `floodmark replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Captures: pcap or pcapng, also in gzip or zstd; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    judging: Judging,

    /// Drop a packet with a time more than this after that of the next packet of its capture
    ///
    /// Such a stray is counted and named. A jump in time that the next packet confirms is believed, and so is
    /// the last packet of a capture. Default: what --max-gap says.
    #[arg(long, value_name = "DURATION", value_parser = duration::millis)]
    max_ahead: Option<u64>,

    /// Write the totals of all pairs and windows, as CSV; `-` is standard output
    #[arg(long, value_name = "FILE.csv")]
    totals: Option<PathBuf>,

    /// Write the changes to a file instead of standard output
    #[arg(long, value_name = "FILE")]
    changes: Option<PathBuf>,

    #[command(flatten)]
    cluster: super::cluster::Args,

    #[command(flatten)]
    stall: Stall,
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, error)
}

impl Args {
    fn check(&self) -> Result<(), Failure> {
        if self.judging.retention.is_some() && self.judging.lateness.is_none() {
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
        let stdin = |limits: &&feed::Options| limits.address == LimitsAddress::file("-");
        if self.judging.limits()?.iter().filter(stdin).count() > 1 {
            return Err(usage(anyhow!(
                "--limits and --what-if are both standard input: give one of them as a file"
            )));
        }
        Ok(())
    }

    /// The settings that all processes must have in common.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        let Args { files, judging, max_ahead, totals, changes: _, cluster: _, stall: _ } = self;
        // Their order makes no difference.
        let files: BTreeSet<_> = files.iter().map(|file| file.to_string_lossy()).collect();
        let files: Vec<_> = files.into_iter().collect();
        let settings = Settings::of("replay")
            .with("FILE", files.join(" "))
            .with_optional("--max-ahead", max_ahead.map(duration::text))
            .with_optional("--totals", Given::when(totals.is_some()));
        judging.add_settings(settings)
    }

    fn max_ahead_ms(&self) -> u64 {
        self.max_ahead.unwrap_or(self.judging.max_gap_ms())
    }

    fn options(&self) -> Options {
        self.judging.options(self.totals.as_ref().map(|_| EmitTotals::OnRetire))
    }
}

/// The state of the first process.
struct Leader {
    readers: Vec<crate::capture::Reader>,
    cut: Cut,
    catalog: Arc<Catalog>,
    /// A sentence about each set of limits of which rows are refused.
    refusals: Vec<String>,
    interrupt: Interrupt,
    messages: Messages,
    only_difference: bool,
    fail_on_violation: bool,
    format: Format,
    changes: PathBuf,
    totals: Option<PathBuf>,
    watch: Watch,
}

/// Runs `floodmark replay`.
pub fn run(args: &Args) -> Outcome {
    args.check()?;
    // Started again, it would say what it has said.
    cluster::launch(&args.cluster.plan(), |cluster| match cluster.process {
        0 => lead(args, cluster),
        _ => follow(args, cluster),
    })
}

/// The process that reads and writes.
fn lead(args: &Args, cluster: Cluster) -> Outcome {
    let options = args.options();
    let settings = args.settings()?;
    let messages = Messages::new();
    let judging = &args.judging;
    let mut catalog = judging.catalog();
    let mut refusals = Vec::new();
    for limits in judging.limits()? {
        refusals.extend(read_limits(&limits, &mut catalog, &messages)?);
    }
    judging.accept(&refusals)?;
    let readers = merge::open(&args.files, args.max_ahead_ms())?;
    let messages = Messages::with_progress(merge::size(&readers));
    let interrupt = Interrupt::listen()?;
    let mut waiting = cluster::unless_interrupted(&interrupt);
    let cut = Cut {
        tick_ms: judging.tick,
        windows: options.windows,
        filter: judging.filter(),
        peers: cluster.peers(),
    };
    let lead = Leader {
        readers,
        cut,
        catalog: Arc::new(catalog),
        refusals,
        interrupt,
        messages: messages.clone(),
        only_difference: judging.only_difference,
        fail_on_violation: judging.fail_on_violation,
        format: judging.format,
        changes: args.changes.clone().unwrap_or_else(|| "-".into()),
        totals: args.totals.clone(),
        watch: watchdog::start(args.stall.timeout())?,
    };
    // The first worker takes it.
    let lead = Arc::new(Mutex::new(Some(lead)));
    let outcomes = cluster.execute(
        &settings,
        &messages,
        &mut waiting,
        computation::worker_config(),
        move |worker| {
            let first = worker.index() == 0;
            let computation = Computation::build(worker, options);
            let lead = first.then(|| lead.lock().unwrap_or_else(PoisonError::into_inner).take());
            lead.flatten().map(|lead| lead.run(computation, options))
        },
    )?;
    outcomes.into_iter().flatten().next().expect("the first process has the first worker")
}

/// A process that only computes.
fn follow(args: &Args, cluster: Cluster) -> Outcome {
    let options = args.options();
    if cluster.supervised {
        Interrupt::ignore()?;
    }
    cluster.execute(
        &args.settings()?,
        &Messages::new(),
        &mut || Ok(()),
        computation::worker_config(),
        move |worker| drop(Computation::build(worker, options)),
    )?;
    Ok(Exit::Done)
}

/// So many refused rows of a set of limits are named; the others are counted.
const REFUSALS_NAMED: usize = 20;

/// Reads limits into a catalog, and names rows that are refused. Returns a sentence about them, if there are
/// any.
pub(super) fn read_limits(
    options: &feed::Options,
    catalog: &mut Catalog,
    messages: &Messages,
) -> Result<Option<String>, Failure> {
    let limits = feed::read(options)?;
    for (verdict, reason) in limits.refusals().take(REFUSALS_NAMED) {
        let (place, position) = (&options.address, verdict.position);
        messages.say(format!("limits \"{place}\", {position}: refused: {reason}"));
    }
    let counts = limits.refusal_counts();
    if let Some(more) = counts.refused.checked_sub(REFUSALS_NAMED).filter(|more| *more > 0) {
        let place = &options.address;
        messages.say(format!("limits \"{place}\": {more} other rows are refused"));
    }
    catalog.add(options.set, &limits.into_held());
    Ok(options.refusal(counts))
}

impl Leader {
    /// Opens everything that the replay writes to.
    fn hub(&self, windows: Windows) -> Result<Hub<'static>, Failure> {
        let catalog = &self.catalog;
        let changes = ChangesFile::open(&self.changes, self.format, windows, catalog)?;
        let mut sinks: Vec<Box<dyn Sink + Send>> = vec![match self.only_difference {
            true => Box::new(OnlyDifference::new(vec![changes])),
            false => Box::new(changes),
        }];
        if let Some(totals) = &self.totals {
            sinks.push(Box::new(TotalsFile::open(totals)?));
        }
        sinks.push(Box::new(OverflowWarnings(self.messages.clone())));
        Ok(Hub::new(Counts::new(catalog.sets()), sinks))
    }

    fn run(self, computation: Computation<'_>, options: Options) -> Outcome {
        let hub = self.hub(options.windows)?;
        let (interrupt, messages) = (self.interrupt, self.messages);
        let computation = computation.watched(self.watch);
        let tick_ms = self.cut.tick_ms;
        let me = std::thread::current();
        let source = replay::start(self.readers, self.cut, messages.clone(), move || me.unpark())
            .context("starting the thread that reads")?;
        interrupt.wake_me();
        let versions = self.catalog.all();
        let mut replay =
            driver::Replay::new(computation, options, versions, self.catalog.clone(), hub);
        let replayed = match replay.run(&source, &interrupt) {
            Ok(replayed) => replayed,
            // The reader of the output has seen enough.
            Err(WriteError::Closed) => return Ok(Exit::Done),
            Err(WriteError::Failed(failure)) => return Err(failure),
        };
        messages.finish();
        let dropped = replay.counts().dropped();
        if dropped != 0 {
            messages.say(format!(
                "{dropped} packets came after their window had settled, and are not counted"
            ));
        }
        let Replayed { end: Some(end), .. } = replayed else {
            messages.say(complete_up_to(replayed.last_tick, tick_ms));
            warn_of_refusals(&messages, &self.refusals);
            return Ok(Exit::Interrupted);
        };
        say_counts(&messages, &end);
        warn_of_refusals(&messages, &self.refusals);
        let damaged = if end.damaged { Exit::BadData } else { Exit::Done };
        let violates = replay.counts().active(LimitSet::Live) > 0;
        let violated =
            if self.fail_on_violation && violates { Exit::Violations } else { Exit::Done };
        Ok(damaged.or(violated))
    }
}

/// Returns a sentence about an interrupted answer: up to which tick it holds.
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

/// Repeats at the end that rows of limits are refused: the first lines of a long output are forgotten.
fn warn_of_refusals(messages: &Messages, refusals: &[String]) {
    for refusal in refusals {
        messages.warn(format!("WARNING: {refusal}; --strict-limits makes this an error"));
    }
}

/// Says what was counted of captures, and what was not.
pub(super) fn say_counts(messages: &Messages, end: &End) {
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
