//! `floodmark demo`: the whole pipeline in one process, at sixty times real time.
//!
//! ```text
//!  capture ─▶ send ─▶ [records] ─▶ run, 2 workers ─▶ [alerts] ─▶ a table on the terminal
//!                                     ▲
//!                         limits.jsonl, which changes half-way
//! ```
//!
//! - `pipeline`: the broker, the sender and the run.
//! - `timeline`: the clock that they share, in the time of the capture.
//! - `alerts`: a reader of the alerts.
//! - `screen`: the output.

mod alerts;
mod pipeline;
mod screen;
mod timeline;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use floodmark_dataflows::types::Per;

use crate::base::date::format_ms;
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::terminal::Interrupt;
use crate::limits::json;
use crate::limits::rows::{Defaults, Row};
use crate::output::WriteError;
use crate::sniffer::outlet::Sent;
use crate::sniffer::pace::Speed;

use alerts::Alerts;
use pipeline::{Broker, Part, Recording, Run};
use screen::Screen;
use timeline::Timeline;

const LIMITS: &str = include_str!("../../demo/limits.jsonl");
/// The limit that changes, its old value and its new value.
const CHANGED: (&str, &str, &str) = ("pair-max", "30000", "17000");

/// The interval of drawing, and of reading new alerts.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The options of `floodmark demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Worker threads
    #[arg(short, long, value_name = "N", default_value_t = 2)]
    workers: usize,

    /// Speed of sending the capture of 28 minutes: 60x takes half a minute, max a few seconds
    #[arg(long, value_name = "SPEED", default_value = "60x")]
    speed: Speed,
}

/// Runs `floodmark demo`.
pub fn run(args: &Args) -> Outcome {
    if args.workers == 0 {
        return Err(Failure::new(Exit::Usage, anyhow!("at least one worker is needed")));
    }
    let interrupt = Interrupt::listen()?;
    interrupt.wake_current_thread();
    let mut screen = Screen::open()?;
    let ended = demonstrate(args, &interrupt, &mut screen);
    screen.clear();
    match ended {
        Ok(exit) => Ok(exit),
        Err(WriteError::Closed) => Ok(Exit::Done),
        Err(WriteError::Failed(failure)) => Err(failure),
    }
}

fn rows(text: &str) -> anyhow::Result<Vec<Row>> {
    let limits = json::read(text.as_bytes(), Defaults { per: Per::Pair })?;
    Ok(limits.rows().cloned().collect())
}

/// Replaces the file of limits, as an editor does.
fn write_limits(file: &Path, text: &str) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, file))
        .with_context(|| format!("writing limits to \"{}\"", file.display()))
}

fn demonstrate(
    args: &Args,
    interrupt: &Interrupt,
    screen: &mut Screen,
) -> Result<Exit, WriteError> {
    let failed = |error: anyhow::Error| WriteError::Failed(error.into());
    let recording = Recording::read();
    let directory =
        tempfile::tempdir().context("creating a directory for limits").map_err(failed)?;
    let limits = directory.path().join("limits.jsonl");
    write_limits(&limits, LIMITS).map_err(failed)?;
    let broker = Broker::start().map_err(failed)?;

    let minutes = (recording.span.last_ms - recording.span.first_ms) / 60_000;
    let (flows, alerts) = (broker.flows().to_string(), broker.alerts());
    screen.print(format_args!(
        "{} packets of {minutes} minutes of an office network pass at {} speed:\n\n  \
         sent to     {flows:<44}  (floodmark capture)\n  \
         judged by   {:<44}  (floodmark run)\n  \
         limits in   {}\n  \
         alerts to   {alerts}\n\n\
         The broker is in this process, too. The limits, for windows of 5 minutes:\n",
        recording.packets,
        args.speed,
        format!("{} workers", args.workers),
        limits.display(),
    ))?;
    screen.print(screen::limits(&rows(LIMITS).map_err(failed)?))?;

    let timeline = Timeline::new(recording.span, args.speed);
    let alerts = Alerts::open(&alerts)?;
    let run = pipeline::run(&broker, &limits, args.workers, &timeline, screen.is_live())?;
    let sending = match pipeline::send(&broker, &timeline) {
        Ok(sending) => sending,
        Err(failure) => {
            run.part.stop();
            let _ = run.part.join();
            return Err(failure.into());
        }
    };
    let started = Instant::now();
    let mut demo =
        Demo { screen, alerts, recording, timeline, limits, started, limit_changed: None };
    let completed = demo.show_until_judged(&run, &sending, args.speed, interrupt);
    // Stop and join both threads also after a failure.
    sending.stop();
    run.part.stop();
    let (sent, ran) = (sending.join(), run.part.join());
    if !completed? {
        return Ok(Exit::Interrupted);
    }
    let sent = sent?;
    ran?;
    demo.show_result(&sent)?;
    Ok(Exit::Done)
}

/// The demo under way.
struct Demo<'a> {
    screen: &'a mut Screen,
    alerts: Alerts,
    recording: Recording,
    timeline: std::sync::Arc<Timeline>,
    limits: PathBuf,
    started: Instant,
    /// The time of the change of the limit.
    limit_changed: Option<Instant>,
}

/// A condition to wait for.
type Condition<'a> = &'a dyn Fn(&Timeline) -> bool;

impl Demo<'_> {
    /// Shows the progress until the capture is judged. Returns false if interrupted.
    fn show_until_judged(
        &mut self,
        run: &Run,
        sending: &Part<Sent>,
        speed: Speed,
        interrupt: &Interrupt,
    ) -> Result<bool, WriteError> {
        let before_half_ms = self.recording.before_half_ms;
        // At full speed wait until the first half is judged, so that the change has an effect.
        let reached = || run.status.progress().reached;
        let read = |timeline: &Timeline| {
            let read = speed != Speed::Max || reached() >= Some(before_half_ms);
            timeline.has_reached_half() && read || sending.is_finished()
        };
        let wait = |demo: &mut Self, until: Condition<'_>| demo.show_until(run, interrupt, until);
        if !wait(self, &read)? {
            return Ok(false);
        }
        // Records that were read are in the next tick at the latest.
        let tick = || run.status.progress().tick;
        let read_at = tick();
        if speed == Speed::Max && !wait(self, &|_| tick() >= read_at + 3)? {
            return Ok(false);
        }
        self.change_limit()?;
        let settled_ms = self.recording.settled_ms();
        if !wait(self, &|_| sending.is_finished())? {
            return Ok(false);
        }
        self.timeline.end_at(settled_ms);
        let watermark = || run.status.progress().watermark;
        wait(self, &|_| watermark() >= settled_ms)
    }

    /// Shows the progress until a condition holds. Returns false if interrupted before.
    fn show_until(
        &mut self,
        run: &Run,
        interrupt: &Interrupt,
        until: Condition<'_>,
    ) -> Result<bool, WriteError> {
        loop {
            self.show()?;
            if interrupt.pressed() {
                return Ok(false);
            }
            // The run ends by itself only if it fails; joining it returns the failure.
            if until(&self.timeline) || run.part.is_finished() {
                return Ok(true);
            }
            std::thread::park_timeout(POLL_INTERVAL);
        }
    }

    /// Reads and shows new alerts. Returns whether there were any.
    fn show(&mut self) -> Result<bool, WriteError> {
        let now = format_ms(self.timeline.now_ms()).to_string();
        let clock = now.get(11..19).unwrap_or(&now);
        let alerts = self.alerts.read_new()?;
        for alert in &alerts {
            self.screen.print_change(clock, alert)?;
        }
        let active = self.alerts.active();
        let mut text = format!("{clock} in the capture: {} violations active", active.len());
        if let Some(effect) = self.effect() {
            text += &format!("\n{effect}");
        }
        self.screen.draw(&text, &active);
        Ok(!alerts.is_empty())
    }

    /// Changes the limit in the file that the run follows.
    fn change_limit(&mut self) -> Result<(), WriteError> {
        let (name, from, to) = CHANGED;
        let text = LIMITS.replace(from, to);
        self.screen.print(format_args!(
            "\nHalf-way, {name} goes from {from} to {to} in {}\n",
            self.limits.display()
        ))?;
        self.limit_changed = Some(Instant::now());
        write_limits(&self.limits, &text).map_err(Failure::from)?;
        self.timeline.start_second_half();
        Ok(())
    }

    /// Describes the effect of the change of the limit, once there is one.
    fn effect(&self) -> Option<String> {
        let effect = self.alerts.effect();
        let took = effect.last?.saturating_duration_since(self.limit_changed?);
        let (name, from, to) = CHANGED;
        let millis = took.as_micros().div_ceil(100) as f64 / 10.0;
        Some(format!("{name} from {from} to {to}: {} changes in {millis} ms", effect.changes))
    }

    /// Shows the remaining violations and a summary.
    fn show_result(&mut self, sent: &Sent) -> Result<(), WriteError> {
        let end = self.alerts.end()?;
        while !self.alerts.has_reached(&end) {
            if !self.show()? {
                std::thread::park_timeout(POLL_INTERVAL);
            }
        }
        self.screen.clear();
        let seconds = self.started.elapsed().as_secs_f64();
        let table = screen::violations(&self.alerts.active());
        self.screen.print(format_args!(
            "\nAfter {seconds:.1} s all windows have settled. These violations remain:\n\n{table}"
        ))?;
        let Sent { records, packets, messages, .. } = sent;
        self.screen.print(format_args!(
            "{packets} packets went as {records} records in {messages} messages."
        ))?;
        if let Some(effect) = self.effect() {
            let raised = self.alerts.effect().raised;
            self.screen.print(format_args!(
                "{effect}, from the file to the topic\nof alerts. It raised {raised} violations of \
                 packets that had passed before.\nNo packet was read again."
            ))?;
        }
        self.screen.print(NEXT)
    }
}

/// Commands to try next.
const NEXT: &str = "
The same with a broker and a network of your own:
  floodmark capture -i eth0 --to kafka://HOST/floodmark-flows-v1 --create-topic
  floodmark run --from kafka://HOST/floodmark-flows-v1 --limits limits.jsonl
Without a broker, for a capture:
  floodmark replay some.pcap --limits limits.jsonl --format table";
