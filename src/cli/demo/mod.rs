//! `floodmark demo`: the whole pipeline in one process, at sixty times the speed of life.
//!
//! ```text
//!  capture ─▶ send ─▶ [records] ─▶ run, 2 workers ─▶ [alerts] ─▶ a table on the terminal
//!                                     ▲
//!                         limits.jsonl, which changes half-way
//! ```
//!
//! - `pipeline`: the broker, what sends, what runs.
//! - `timeline`: the time of the capture, by which all of them go.
//! - `alerts`: what a reader of the alerts knows.
//! - `screen`: what is shown of it.

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
/// The limit that changes, and to what.
const CHANGED: (&str, &str, &str) = ("pair-max", "30000", "17000");

/// The interval of drawing, and of looking for new alerts.
const LOOK: Duration = Duration::from_millis(50);

/// The options of `floodmark demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Worker threads
    #[arg(short, long, value_name = "N", default_value_t = 2)]
    workers: usize,

    /// How fast the capture is sent: 60x takes half a minute for 28 minutes, max a few seconds
    #[arg(long, value_name = "SPEED", default_value = "60x")]
    speed: Speed,
}

/// Runs `floodmark demo`.
pub fn run(args: &Args) -> Outcome {
    if args.workers == 0 {
        return Err(Failure::new(Exit::Usage, anyhow!("at least one worker is needed")));
    }
    let interrupt = Interrupt::listen()?;
    interrupt.wake_me();
    let mut screen = Screen::open()?;
    let ended = play(args, &interrupt, &mut screen);
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

fn play(args: &Args, interrupt: &Interrupt, screen: &mut Screen) -> Result<Exit, WriteError> {
    let failed = |error: anyhow::Error| WriteError::Failed(error.into());
    let recording = Recording::look();
    let directory = tempfile::tempdir().context("making a directory for limits").map_err(failed)?;
    let limits = directory.path().join("limits.jsonl");
    write_limits(&limits, LIMITS).map_err(failed)?;
    let broker = Broker::start().map_err(failed)?;

    let minutes = (recording.span.last_ms - recording.span.first_ms) / 60_000;
    let (flows, alerts) = (broker.flows().to_string(), broker.alerts());
    screen.say(format_args!(
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
    screen.say(screen::limits(&rows(LIMITS).map_err(failed)?))?;

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
    let began = Instant::now();
    let mut play = Play { screen, alerts, recording, timeline, limits, began, written: None };
    let seen = play.first_acts(&run, &sending, args.speed, interrupt);
    // However that went, no thread is left alone.
    sending.stop();
    run.part.stop();
    let (sent, ran) = (sending.join(), run.part.join());
    if !seen? {
        return Ok(Exit::Interrupted);
    }
    let sent = sent?;
    ran?;
    play.last_act(&sent)?;
    Ok(Exit::Done)
}

/// The demo under way.
struct Play<'a> {
    screen: &'a mut Screen,
    alerts: Alerts,
    recording: Recording,
    timeline: std::sync::Arc<Timeline>,
    limits: PathBuf,
    began: Instant,
    /// When the limit was changed.
    written: Option<Instant>,
}

/// Whether something has come about.
type Until<'a> = &'a dyn Fn(&Timeline) -> bool;

impl Play<'_> {
    /// Shows what is so until the capture is judged. False: it was interrupted.
    fn first_acts(
        &mut self,
        run: &Run,
        sending: &Part<Sent>,
        speed: Speed,
        interrupt: &Interrupt,
    ) -> Result<bool, WriteError> {
        let before_half_ms = self.recording.before_half_ms;
        // At full speed the first half is judged first, or there would be nothing to change.
        let reached = || run.status.progress().reached;
        let read = |timeline: &Timeline| {
            let read = speed != Speed::Max || reached() >= Some(before_half_ms);
            timeline.is_half() && read || sending.has_ended()
        };
        let wait = |play: &mut Self, until: Until<'_>| play.watch(run, interrupt, until);
        if !wait(self, &read)? {
            return Ok(false);
        }
        // The rows that were read are in the tick that begins next, at the latest.
        let tick = || run.status.progress().tick;
        let read_at = tick();
        if speed == Speed::Max && !wait(self, &|_| tick() >= read_at + 3)? {
            return Ok(false);
        }
        self.change_limit()?;
        let settled_ms = self.recording.settled_ms();
        if !wait(self, &|_| sending.has_ended())? {
            return Ok(false);
        }
        self.timeline.end(settled_ms);
        let watermark = || run.status.progress().watermark;
        wait(self, &|_| watermark() >= settled_ms)
    }

    /// Shows what is so until something has come about. False: it was interrupted before.
    fn watch(
        &mut self,
        run: &Run,
        interrupt: &Interrupt,
        until: Until<'_>,
    ) -> Result<bool, WriteError> {
        loop {
            self.show()?;
            if interrupt.pressed() {
                return Ok(false);
            }
            // It ends by itself only if it fails, and its failure is told then.
            if until(&self.timeline) || run.part.has_ended() {
                return Ok(true);
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Takes alerts, and shows them.
    fn show(&mut self) -> Result<bool, WriteError> {
        let now = format_ms(self.timeline.now_ms()).to_string();
        let clock = now.get(11..19).unwrap_or(&now);
        let alerts = self.alerts.take()?;
        for alert in &alerts {
            self.screen.change(clock, alert)?;
        }
        let standing = self.alerts.standing();
        let mut text = format!("{clock} in the capture: {} violations stand", standing.len());
        if let Some(effect) = self.effect() {
            text += &format!("\n{effect}");
        }
        self.screen.draw(&text, &standing);
        Ok(!alerts.is_empty())
    }

    /// Changes the limit, by the file that the run follows.
    fn change_limit(&mut self) -> Result<(), WriteError> {
        let (name, from, to) = CHANGED;
        let text = LIMITS.replace(from, to);
        self.screen.say(format_args!(
            "\nHalf-way, {name} goes from {from} to {to} in {}\n",
            self.limits.display()
        ))?;
        self.written = Some(Instant::now());
        write_limits(&self.limits, &text).map_err(Failure::from)?;
        self.timeline.go_on();
        Ok(())
    }

    /// The effect of the change of the limit.
    fn effect(&self) -> Option<String> {
        let effect = self.alerts.effect();
        let took = effect.last?.saturating_duration_since(self.written?);
        let (name, from, to) = CHANGED;
        let millis = took.as_micros().div_ceil(100) as f64 / 10.0;
        Some(format!("{name} from {from} to {to}: {} changes in {millis} ms", effect.changes))
    }

    /// Shows what has come of it.
    fn last_act(&mut self, sent: &Sent) -> Result<(), WriteError> {
        let end = self.alerts.end()?;
        while !self.alerts.has_reached(&end) {
            if !self.show()? {
                std::thread::park_timeout(LOOK);
            }
        }
        self.screen.clear();
        let seconds = self.began.elapsed().as_secs_f64();
        let table = screen::violations(&self.alerts.standing());
        self.screen.say(format_args!(
            "\nAfter {seconds:.1} s all windows have settled. These violations stand:\n\n{table}"
        ))?;
        let Sent { records, packets, messages, .. } = sent;
        self.screen.say(format_args!(
            "{packets} packets went as {records} records in {messages} messages."
        ))?;
        if let Some(effect) = self.effect() {
            let raised = self.alerts.effect().raised;
            self.screen.say(format_args!(
                "{effect}, from the file to the topic\nof alerts. New by it, of packets that had \
                 passed before: {raised} violations.\nNo packet was read again."
            ))?;
        }
        self.screen.say(NEXT)
    }
}

/// Commands to try next.
const NEXT: &str = "
The same with a broker and a network of your own:
  floodmark capture -i eth0 --to kafka://HOST/floodmark-flows-v1 --create-topic
  floodmark run --from kafka://HOST/floodmark-flows-v1 --limits limits.jsonl
Without a broker, for a capture:
  floodmark replay some.pcap --limits limits.jsonl --format table";
