//! `floodmark capture`: sends packets to a topic, a file or standard output.
//!
//! Capturing is urgent, sending is not, so two threads do this work, with a bounded queue between them.
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
//! Records of captures are folded after the queue, since their thread may be waiting for a pipe when a bucket ends.
//! Records of an interface are folded before the queue, so that an outage fills the queue slowly.

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
use pace::{Monotonic, PaceClock};
use queue::Received;
use source::{End, Source};

/// Longest wait for records before the sender checks the outlet, the clock and interrupts again.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Pause before a full outlet is polled again.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// Time limit for a source to end after an interrupt. The sender abandons it then, since nothing can wake a thread that
/// reads a silent pipe.
const STOP_MAX: Duration = Duration::from_secs(1);

/// Time after which an outage, or a wait for delivery at the end, is reported.
const OUTAGE_REPORTED_AFTER: Duration = Duration::from_secs(5);

/// Outcome of a run.
#[derive(Debug)]
pub enum Ended {
    /// All records were sent.
    Sent(Box<End>),
    /// All records were sent, but the source still waits for input and ignores the interrupt.
    SourceStuck,
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
    /// Ends the run; earlier records are still sent.
    pub interrupt: Interrupt,
    /// The messages about outages.
    pub messages: Messages,
    /// The counts for metrics and probes of a live capture.
    pub meter: Option<Arc<Meter>>,
}

impl Sender<'_> {
    /// Runs until the source ends, the outlet fails, or the user gives up.
    ///
    /// # Errors
    /// The outlet accepts no more records.
    pub fn run(mut self) -> Result<Ended, Failure> {
        match self.send_all() {
            Ok(ended) => Ok(ended),
            Err(WriteError::Closed) => Ok(Ended::Closed),
            Err(WriteError::Failed(failure)) => {
                // Accepted records are still delivered, unless the outlet itself has failed: then `finish` returns the
                // same failure again.
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
        let stuck = loop {
            self.outlet.poll()?;
            outage.report(self.outlet, &self.messages);
            if let Some(meter) = &self.meter {
                let unreachable = self.outlet.unreachable_since();
                meter.set_sent(self.outlet.sent(), unreachable, self.outlet.topic_fault());
            }
            if self.outlet.is_full() {
                std::thread::park_timeout(FULL_PAUSE);
                continue;
            }
            let wait = self.outlet.due().map(|due| due.saturating_duration_since(Instant::now()));
            match self.source.records.receive(wait.unwrap_or(CHECK_INTERVAL).min(CHECK_INTERVAL)) {
                Received::Batch(batch) => {
                    batch.into_iter().for_each(|record| self.folding.add(record, &mut out));
                }
                Received::Ended => break false,
                Received::Nothing if self.interrupt.pressed() => {
                    let since = *pressed.get_or_insert_with(Instant::now);
                    if since.elapsed() >= STOP_MAX {
                        break true;
                    }
                }
                Received::Nothing => {}
            }
            self.folding.end_due_buckets(clock.now(), &mut out);
            self.outlet.accept(&out)?;
            out.clear();
        };
        self.folding.end(&mut out);
        self.outlet.accept(&out)?;
        self.finish(&mut outage)?;
        // The source sends its end before the queue ends.
        let end = if stuck { None } else { self.source.end.try_recv().ok() };
        Ok(end.map_or(Ended::SourceStuck, |end| Ended::Sent(Box::new(end))))
    }

    /// Waits until all records are delivered, or until the user gives up. A second interrupt during this wait ends
    /// the process by itself.
    fn finish(&mut self, outage: &mut Outage) -> Result<(), WriteError> {
        let (began, mut reported) = (Instant::now(), false);
        let (messages, interrupt) = (&self.messages, &self.interrupt);
        let flushing = interrupt.pressed();
        self.outlet.finish(&mut || {
            if began.elapsed() >= OUTAGE_REPORTED_AFTER && !reported {
                reported = true;
                messages.info("waiting until all records are delivered; an interrupt gives up");
            }
            interrupt.pressed() && !flushing
        })?;
        outage.report(self.outlet, &self.messages);
        Ok(())
    }
}

/// The outages reported so far: that no broker can be reached, or that the topic has changed.
#[derive(Default)]
struct Outage {
    reported: bool,
    topic_fault: Option<String>,
}

impl Outage {
    fn report(&mut self, outlet: &dyn Outlet, messages: &Messages) {
        let since =
            outlet.unreachable_since().filter(|since| since.elapsed() >= OUTAGE_REPORTED_AFTER);
        if since.is_some() != self.reported {
            self.reported = since.is_some();
            match since {
                Some(_) => messages.info(format!("{}; records wait", outlet.unreachable())),
                None => messages.info(outlet.reachable()),
            }
        }
        let topic_fault = outlet.topic_fault().map(|topic_fault| match topic_fault.missing {
            true => {
                "the topic does not exist any more; records wait until somebody creates it again"
                    .to_owned()
            }
            false => {
                format!(
                    "another topic has this name and does not fit; records wait: {}",
                    topic_fault.why
                )
            }
        });
        if topic_fault != self.topic_fault {
            messages.info(topic_fault.as_deref().unwrap_or("messages go to the topic again"));
            self.topic_fault = topic_fault;
        }
    }
}

#[cfg(test)]
mod tests;
