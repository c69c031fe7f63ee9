//! The runner of the computation: `run`, `replay`, `test` and `limits explain --capture` are configurations of it.
//!
//! ```text
//!            every worker that has a source                 the leader alone
//!  input ─▶ Source ─▶ records of the next tick        limits ─▶ edits    queries     time
//!               │                                               │           │         │
//!               │        ◀──────── commands ─────────────────── Leader ◀────┴─────────┘
//!               ▼                                               ▲
//!          the computation ──────── closed ticks ───────────────┘──▶ Hub of sinks
//! ```
//!
//! - `worker`: the loop of one worker; `leader`: the part of the first one; `commands`: from the leader to all.
//! - `time`: what makes ticks: the event time of records, or the wall clock (`wall`, by the steady `clock`).
//! - `limits`: edits of limits by the tick they enter; `retracted`: rows that no longer hold, until they can be forgotten.
//! - `queries`: queries of the computation's state, answered at a tick.
//! - `reports`: logs and counts what is unusual about closed ticks; `late`: records that are dropped.
//! - `status`: the state of a run for probes and metrics: whether it is ready (`ready`, `ready_log`), how far it
//!   is behind (`behind`).
//!
//! A source gathers no more than it has capacity for, the leader begins no tick while too many are in flight or the
//! sinks have no capacity: so a slow part slows the ones before it, and memory stays bounded.

mod behind;
mod checkpoints;
mod clock;
mod commands;
mod durability;
mod ended;
mod late;
mod leader;
mod limits;
mod queries;
mod ready;
mod ready_log;
mod recovery;
mod reports;
mod retained;
mod retracted;
mod shared;
mod status;
mod time;
mod wall;
mod worker;
mod worker_state;

use std::sync::{Mutex, PoisonError};

use floodmark_dataflows::graph::Options;
use timely::worker::Worker as TimelyWorker;

use crate::base::error::Failure;
use crate::base::terminal::Messages;
use crate::cluster::{Cluster, Settings};
use crate::computation::{self, Computation};
use crate::output::WriteError;
use crate::source::Source;

pub use checkpoints::CheckpointConfig;
pub use clock::{Clock, Clocks, MachineClocks, Moment, Reading, SteadyClock, Unsteady, wall_ms};
use commands::{Command, Commands};
pub use commands::{ResumePlan, TickStart};
pub use durability::StateConfig;
pub use ended::Ended;
pub use leader::LeaderConfig;
pub use limits::{Limits, UnreadLimits};
pub use queries::{
    ExplainQuery, FactsReceiver, FutureResponse, PendingQuery, QueryError, QueryResponse,
    WriteObject,
};
pub use ready::Reason;
pub use recovery::Recovered;
pub use shared::Shared;
pub use status::{Progress, Status};
pub use time::{Decision, EventTime, TickConditions, TimeSource};
pub use wall::WallTime;
use worker::Worker;

/// Default time after its end for which a window accepts records, in milliseconds.
pub const LATENESS_MS: u64 = 10 * 60 * 1000;

/// Default time for which a settled window is retained, in milliseconds.
pub const RETENTION_MS: u64 = 60 * 60 * 1000;

/// Opens the part of the input that a worker reads, by the number of the worker and the number of all workers, and the
/// state that the run continues from.
type OpenPart =
    dyn Fn(usize, usize, Option<&ResumePlan>) -> Result<Box<dyn Source>, Failure> + Send + Sync;

/// Opens all of the input.
type OpenAll = dyn FnOnce() -> Result<Box<dyn Source>, Failure> + Send;

/// Opens everything the leader needs, on its thread: when all processes have met, and agree on their settings.
pub type OpenLead = Box<dyn FnOnce() -> Result<LeaderConfig<'static>, Failure> + Send>;

/// The workers that read, and their sources, which are opened on the threads of these workers.
pub enum Sources {
    /// Every worker reads a part of the input.
    Each(Box<OpenPart>),
    /// The first worker reads all of the input; `None` in a process without it.
    First(Mutex<Option<Box<OpenAll>>>),
}

impl Sources {
    /// Every worker reads a part of the input.
    pub fn each<S: Source + 'static>(
        open: impl Fn(usize, usize, Option<&ResumePlan>) -> Result<S, Failure> + Send + Sync + 'static,
    ) -> Self {
        Sources::Each(Box::new(move |worker, workers, plan| {
            Ok(Box::new(open(worker, workers, plan)?))
        }))
    }

    /// The first worker reads all of the input.
    pub fn first<S: Source + 'static>(
        open: impl FnOnce() -> Result<S, Failure> + Send + 'static,
    ) -> Self {
        Sources::First(Mutex::new(Some(Box::new(move || Ok(Box::new(open()?))))))
    }

    /// The first worker, which reads all of the input, is in another process.
    pub fn elsewhere() -> Self {
        Sources::First(Mutex::new(None))
    }
}

/// The part of one process in a computation.
pub struct Job {
    /// The configuration and the status that all workers of the process share.
    pub shared: Shared,
    /// The sources.
    pub sources: Sources,
    /// Opens what the leader needs; `None` in a process without the leader.
    pub lead: Option<OpenLead>,
}

/// Runs the computation on the workers of this process until it ends. The process of the leader learns how it ended.
///
/// `settings` and `waiting` are those of [`Cluster::execute`].
pub fn execute(
    cluster: Cluster,
    settings: &Settings,
    messages: &Messages,
    waiting: &mut dyn FnMut() -> Result<(), Failure>,
    job: Job,
) -> Result<Option<Ended>, Failure> {
    let Job { shared, sources, lead } = job;
    let lead = Mutex::new(lead);
    let config = computation::worker_config();
    let ended = cluster.execute(settings, messages, waiting, config, move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let open_lead = if index == 0 { take(&lead) } else { None };
        let lead = open_lead.map(|open| open()).transpose();
        match &sources {
            Sources::Each(open) => {
                let commands = Commands::build(worker);
                work(worker, &shared, commands, |plan| open(index, peers, plan), lead)
            }
            Sources::First(open) if index == 0 => {
                let open = take(open).expect("the process of the first worker has the source");
                work(worker, &shared, Commands::default(), |_| open(), lead)
            }
            Sources::First(_) => {
                follow(worker, shared.options);
                None
            }
        }
    })?;
    Ok(ended.into_iter().flatten().next())
}

fn take<T>(once: &Mutex<Option<T>>) -> Option<T> {
    once.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Runs the computation on the first worker, which reads all of the input and leads; the others [`follow`].
pub fn lead<'a>(
    worker: &mut TimelyWorker,
    shared: &Shared,
    source: Box<dyn Source + 'a>,
    lead: LeaderConfig<'a>,
) -> Ended {
    let ended = work(worker, shared, Commands::default(), |_| Ok(source), Ok(Some(lead)));
    ended.expect("a leader learns how its run ended")
}

/// Takes part in a computation whose first worker reads all of the input.
pub fn follow(worker: &mut TimelyWorker, options: Options) {
    Computation::build(worker, options, false).close();
}

fn work<'a>(
    worker: &mut TimelyWorker,
    shared: &Shared,
    mut commands: Commands,
    open: impl FnOnce(Option<&ResumePlan>) -> Result<Box<dyn Source + 'a>, Failure>,
    lead: Result<Option<LeaderConfig<'a>>, Failure>,
) -> Option<Ended> {
    let index = worker.index();
    let computation = Computation::build(worker, shared.options, shared.has_dead_letters)
        .with_watchdog(shared.watch.clone());
    match lead {
        Ok(lead) => Worker::new(index, shared, commands, computation, lead).run(open),
        Err(failure) => {
            // The other workers wait for the leader.
            commands.send(&Command::End);
            computation.close();
            Some(Ended { failure: Some(WriteError::Failed(failure)), ..Ended::default() })
        }
    }
}
