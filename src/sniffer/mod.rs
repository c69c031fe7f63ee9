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
//! - [`queue`]: the bounded queue between the two threads.
//! - [`fold`]: ends the buckets of [`crate::aggregate`].
//! - [`pace`]: the speed at which captures are read.
//! - [`outlet`], [`topic`]: the outlets: a file, standard output, a topic.
//! - [`meter`]: the counts so far, for metrics and probes.
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

/// Longest wait for records before the sender checks the outlet, the clock and interrupts again.
const LOOK: Duration = Duration::from_millis(100);

/// Pause before a full outlet is polled again.
const FULL: Duration = Duration::from_millis(5);

/// Time limit for a source to end after an interrupt; then the sender gives it up, since nothing can wake a thread
/// that reads a silent pipe.
const STOP_MAX: Duration = Duration::from_secs(1);

/// Time without a reachable broker, or of waiting for delivery at the end, after which that is reported.
const SILENT: Duration = Duration::from_secs(5);

/// Outcome of a run.
#[derive(Debug)]
pub enum Ended {
    /// All records were sent.
    Sent(Box<End>),
    /// All records were sent, but the source still waits for input, and has not noticed that it should stop.
    Deaf,
    /// The reader of the output has closed it.
    Closed,
}

/// Sends the records of a source until it ends, then waits until all are delivered.
pub struct Sender<'a> {
    /// The source of records.
    pub source: Source,
    /// Folds the records, unless the source has folded them already.
    pub folding: Folding,
    /// The outlet for records.
    pub outlet: &'a mut dyn Outlet,
    /// Ends the run; records that came before are still sent.
    pub interrupt: Interrupt,
    /// The messages about outages.
    pub messages: Messages,
    /// The counts for metrics and probes, unless nobody can ask for them.
    pub meter: Option<Arc<Meter>>,
}

impl Sender<'_> {
    /// Runs until the source ends, the outlet fails, or the user gives up.
    ///
    /// # Errors
    /// The outlet can't take any more.
    pub fn run(mut self) -> Result<Ended, Failure> {
        match self.send_all() {
            Ok(ended) => Ok(ended),
            Err(WriteError::Closed) => Ok(Ended::Closed),
            Err(WriteError::Failed(failure)) => {
                // Records taken before the failure are still delivered, unless the outlet itself has failed: then
                // this reports the same failure again.
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
        // The source sends its end before the queue ends.
        let end = if deaf { None } else { self.source.end.try_recv().ok() };
        Ok(end.map_or(Ended::Deaf, |end| Ended::Sent(Box::new(end))))
    }

    /// Waits until all records are delivered, or until the user gives up. A second interrupt during this wait ends
    /// the process by itself.
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

/// The outages reported so far: that no broker can be reached, or that the topic has changed.
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
