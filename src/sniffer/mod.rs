//! From packets to a topic, a file or standard output: what `floodmark capture` does.
//!
//! Getting packets is urgent, sending them is not: two threads, and a bounded queue between them.
//!
//! ```text
//!  interface ─▶ decode ─▶ fold ─▶ ┌───────┐
//!                                 │ queue │ ─▶ fold (files) ─▶ outlet
//!  captures ─▶ merge ─▶ pace ───▶ └───────┘
//! ```
//!
//! - [`source`]: the thread that captures or reads.
//! - [`queue`]: what is between.
//! - [`fold`]: when the buckets of [`crate::aggregate`] end.
//! - [`pace`]: how fast captures are read.
//! - [`outlet`], [`topic`]: the ways out.
//! - [`meter`]: what was done so far, for those who ask.
//!
//! Captures are folded behind the queue, since their thread may be waiting for a pipe when a bucket
//! ends; an interface is folded before it, so that an outage fills the queue slowly.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::error::Failure;
use crate::base::terminal::{Interrupt, Messages};
use crate::output::WriteError;

pub mod fold;
pub mod meter;
pub mod outlet;
pub mod pace;
pub mod queue;
pub mod source;
pub mod topic;

use fold::Folding;
use meter::Meter;
use outlet::Outlet;
use pace::{Clock, Monotonic};
use queue::Taken;
use source::{End, Source};

/// How often to look around when nothing comes.
const LOOK: Duration = Duration::from_millis(100);

/// How long to wait for an outlet that is full before asking it again.
const FULL: Duration = Duration::from_millis(5);

/// How long a source that was asked to stop may take before it is given up: a pipe that says nothing
/// can't be told.
const STOP_MAX: Duration = Duration::from_secs(1);

/// How long an outlet may reach nobody before that is said.
const SILENT: Duration = Duration::from_secs(5);

/// How a run came to its end.
#[derive(Debug)]
pub enum Ended {
    /// All that came was sent.
    Sent(Box<End>),
    /// The same, except that the source still waits for input, and did not hear that it should stop.
    Deaf,
    /// Whoever reads the output has seen enough.
    Closed,
}

/// Sends what a source brings in until it ends, then waits until all has arrived.
pub struct Sender<'a> {
    /// What comes in.
    pub source: Source,
    /// Folds it, if it is not folded yet.
    pub folding: Folding,
    /// Where it goes.
    pub outlet: &'a mut dyn Outlet,
    /// Ends it: what came before is sent.
    pub interrupt: Interrupt,
    /// Where outages are said.
    pub messages: Messages,
    /// Where what was sent is counted for those who ask, if somebody may.
    pub meter: Option<Arc<Meter>>,
}

impl Sender<'_> {
    /// Runs it.
    ///
    /// # Errors
    /// The outlet can't take any more.
    pub fn run(mut self) -> Result<Ended, Failure> {
        match self.send_all() {
            Ok(ended) => Ok(ended),
            Err(WriteError::Closed) => Ok(Ended::Closed),
            Err(WriteError::Failed(failure)) => {
                // What was taken before it still arrives, if the outlet itself is not what failed: then
                // it says the same again.
                let _ = self.finish(&mut Outage::default());
                Err(failure)
            }
        }
    }

    fn send_all(&mut self) -> Result<Ended, WriteError> {
        let clock = Monotonic::new();
        let mut out = Vec::new();
        let mut outage = Outage::default();
        let mut pressed: Option<Instant> = None;
        let deaf = loop {
            self.outlet.poll()?;
            outage.say(self.outlet, &self.messages);
            if let Some(meter) = &self.meter {
                let unreachable = self.outlet.unreachable_since();
                meter.sent(self.outlet.sent(), unreachable, self.outlet.trouble());
            }
            if self.outlet.is_full() {
                std::thread::park_timeout(FULL);
                continue;
            }
            let look = self.outlet.due().map(|due| due.saturating_duration_since(Instant::now()));
            match self.source.records.take(look.unwrap_or(LOOK).min(LOOK)) {
                Taken::Batch(batch) => {
                    batch.into_iter().for_each(|record| self.folding.add(record, &mut out));
                }
                Taken::Ended => break false,
                Taken::Nothing if self.interrupt.pressed() => {
                    let since = *pressed.get_or_insert_with(Instant::now);
                    if since.elapsed() >= STOP_MAX {
                        break true;
                    }
                }
                Taken::Nothing => {}
            }
            self.folding.settle(clock.now(), &mut out);
            self.outlet.take(&out)?;
            out.clear();
        };
        self.folding.end(&mut out);
        self.outlet.take(&out)?;
        self.finish(&mut outage)?;
        // It is sent before the queue ends.
        let end = if deaf { None } else { self.source.end.try_recv().ok() };
        Ok(end.map_or(Ended::Deaf, |end| Ended::Sent(Box::new(end))))
    }

    /// Waits until all has arrived, or until the user gives up. Of an interrupt that comes now for the
    /// second time, the process ends by itself.
    fn finish(&mut self, outage: &mut Outage) -> Result<(), WriteError> {
        let (began, mut said) = (Instant::now(), false);
        let (messages, interrupt) = (&self.messages, &self.interrupt);
        let flushing = interrupt.pressed();
        self.outlet.finish(&mut || {
            if began.elapsed() >= SILENT && !said {
                said = true;
                messages.say(
                    "waiting until all that was captured has arrived; an interrupt gives it up",
                );
            }
            interrupt.pressed() && !flushing
        })?;
        outage.say(self.outlet, &self.messages);
        Ok(())
    }
}

/// Whether it was said that nobody can be reached, or that the topic is not what it was.
#[derive(Default)]
struct Outage {
    said: bool,
    trouble: Option<String>,
}

impl Outage {
    fn say(&mut self, outlet: &dyn Outlet, messages: &Messages) {
        let since = outlet.unreachable_since().filter(|since| since.elapsed() >= SILENT);
        if since.is_some() != self.said {
            self.said = since.is_some();
            match since {
                Some(_) => messages.say(format!("{}; records wait", outlet.unreachable())),
                None => messages.say(outlet.reachable()),
            }
        }
        let trouble = outlet.trouble().map(|trouble| match trouble.missing {
            true => "the topic is gone; records wait until it is there again".to_owned(),
            false => {
                format!("the topic is another one and does not fit; records wait: {}", trouble.why)
            }
        });
        if trouble != self.trouble {
            messages.say(trouble.as_deref().unwrap_or("the topic can be sent to again"));
            self.trouble = trouble;
        }
    }
}

#[cfg(test)]
mod tests;
