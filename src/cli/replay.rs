//! `floodmark replay`: judges captures in event time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
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
use crate::capture::merge;
use crate::cluster::{self, Cluster, Given, Settings, watchdog};
use crate::limits::catalog::Catalog;
use crate::limits::{Address as LimitsAddress, feed};
use crate::output::WriteError;
use crate::runner::{self, Ended, EventTime, Job, LeaderConfig, OpenLead, Shared, Sources};
use crate::sink::{ChangesFile, Counts, Hub, OnlyDifference, OverflowWarnings, Sink, TotalsFile};
use crate::source::Captures;
use crate::source::captures::{End, Summary, TickRules};

/// The options of `floodmark replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Captures: pcap or pcapng, also in gzip or zstd; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    judging: Judging,

    /// Drop a packet that is more than this ahead of the next packet of its capture
    ///
    /// Dropped packets are counted and reported. A jump in time that the next packet confirms is accepted, and
    /// so is the last packet of a capture. Default: the value of --max-gap.
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
                "--retention starts when a window settles, and without --lateness no window \
                 settles before the end: give both, or neither"
            )));
        }
        if self.totals.as_deref() == Some(Path::new("-"))
            && self.changes.as_deref().is_none_or(|changes| changes == Path::new("-"))
        {
            return Err(usage(anyhow!(
                "--totals - writes the totals to standard output: give --changes FILE for the \
                 changes"
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
        // The order of files does not affect the output.
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

/// Runs `floodmark replay`.
pub fn run(args: &Args) -> Outcome {
    args.check()?;
    // No restart: it would repeat the output.
    cluster::launch(&args.cluster.plan(), |cluster| match cluster.process {
        0 => lead(args, cluster),
        _ => follow(args, cluster),
    })
}

/// Runs the process that reads and writes.
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
    let rules = TickRules {
        tick_ms: judging.tick,
        windows: options.windows,
        filter: judging.filter(),
        peers: cluster.peers(),
    };
    let shared = Shared {
        has_dead_letters: false,
        state: None,
        options,
        filter: judging.filter(),
        status: None,
        interrupt,
        watch: Some(watchdog::start(args.stall.timeout())?),
    };
    let (opened, by) = (args.clone(), messages.clone());
    let lead: OpenLead = Box::new(move || {
        Ok(LeaderConfig {
            state: None,
            time: Box::new(EventTime::new(options.windows)),
            hub: hub(&opened, options.windows, &catalog, &by)?,
            catalog,
            limits: Vec::new(),
            queries: None,
            final_query: None,
            leader: Arc::default(),
        })
    });
    let summary = Summary::default();
    let (to, by) = (summary.clone(), messages.clone());
    let sources = Sources::first(move || Captures::read(readers, rules, by, &to));
    let job = Job { shared, sources, lead: Some(lead) };
    let ended = runner::execute(cluster, &settings, &messages, &mut waiting, job)?;
    let ended = ended.expect("the first process has the leader");
    finish(args, ended, summary.get(), &refusals, &messages)
}

/// Opens everything that a replay writes to.
fn hub(
    args: &Args,
    windows: Windows,
    catalog: &Catalog,
    messages: &Messages,
) -> Result<Hub<'static>, Failure> {
    let to = args.changes.as_deref().unwrap_or(Path::new("-"));
    let changes = ChangesFile::open(to, args.judging.format, windows, catalog)?;
    let mut sinks: Vec<Box<dyn Sink + Send>> = vec![match args.judging.only_difference {
        true => Box::new(OnlyDifference::new(vec![changes])),
        false => Box::new(changes),
    }];
    if let Some(totals) = &args.totals {
        sinks.push(Box::new(TotalsFile::open(totals)?));
    }
    sinks.push(Box::new(OverflowWarnings(messages.clone())));
    Ok(Hub::new(Counts::new(catalog.sets()), sinks))
}

/// Reports the end of a replay. `end` is the summary of the captures if all were read.
fn finish(
    args: &Args,
    ended: Ended,
    end: Option<&End>,
    refusals: &[String],
    messages: &Messages,
) -> Outcome {
    match ended.failure {
        // The reader closed the pipe: it has read enough.
        Some(WriteError::Closed) => return Ok(Exit::Done),
        Some(WriteError::Failed(failure)) => return Err(failure),
        None => messages.finish(),
    }
    if ended.dropped != 0 {
        messages.info(format!(
            "{} packets came after their window had settled, and are not counted",
            ended.dropped
        ));
    }
    let Some(end) = end else {
        messages.info(complete_up_to(ended.last_tick, args.judging.tick));
        warn_about_refusals(messages, refusals);
        return Ok(Exit::Interrupted);
    };
    report_counts(messages, end);
    warn_about_refusals(messages, refusals);
    let damaged = if end.damaged { Exit::BadData } else { Exit::Done };
    let violates = args.judging.fail_on_violation && ended.active > 0;
    Ok(damaged.or(if violates { Exit::Violations } else { Exit::Done }))
}

/// Runs a process that only computes.
fn follow(args: &Args, cluster: Cluster) -> Outcome {
    if cluster.supervised {
        Interrupt::ignore()?;
    }
    let shared = Shared {
        has_dead_letters: false,
        state: None,
        options: args.options(),
        filter: args.judging.filter(),
        status: None,
        interrupt: Interrupt::default(),
        watch: None,
    };
    let job = Job { shared, sources: Sources::elsewhere(), lead: None };
    runner::execute(cluster, &args.settings()?, &Messages::new(), &mut || Ok(()), job)?;
    Ok(Exit::Done)
}

/// The most refused rows of a set of limits that are named; the others are counted.
const REFUSALS_NAMED: usize = 20;

/// Reads limits into a catalog, and reports refused rows. Returns a sentence about refused rows, if there are
/// any.
pub(super) fn read_limits(
    options: &feed::Options,
    catalog: &mut Catalog,
    messages: &Messages,
) -> Result<Option<String>, Failure> {
    let limits = feed::read(options)?;
    for (verdict, reason) in limits.refusals().take(REFUSALS_NAMED) {
        let (place, position) = (&options.address, verdict.position);
        messages.info(format!("limits \"{place}\", {position}: refused: {reason}"));
    }
    let counts = limits.refusal_counts();
    if let Some(more) = counts.refused.checked_sub(REFUSALS_NAMED).filter(|more| *more > 0) {
        let place = &options.address;
        messages.info(format!("limits \"{place}\": {more} other rows are refused"));
    }
    catalog.add(options.set, &limits.into_held());
    Ok(options.refusal(counts))
}

/// Returns a sentence about interrupted output: the event time up to which it is complete.
fn complete_up_to(last_tick: Option<u64>, tick_ms: u64) -> String {
    match last_tick {
        // A packet of a later tick has completed this one.
        Some(tick) => {
            let end = format_ms(tick.saturating_add(tick_ms));
            format!("interrupted: the output is complete up to event time {end}")
        }
        None => "interrupted before any tick of event time was complete".into(),
    }
}

/// Repeats at the end that rows are refused: people overlook the first lines of a long output.
fn warn_about_refusals(messages: &Messages, refusals: &[String]) {
    for refusal in refusals {
        messages.warn(format!("WARNING: {refusal}; --strict-limits makes this an error"));
    }
}

/// Reports the counted and uncounted frames of captures.
pub(super) fn report_counts(messages: &Messages, end: &End) {
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
    messages.info(line);
}
