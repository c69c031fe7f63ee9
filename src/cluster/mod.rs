//! Workers and processes: which there are, how they find each other, and how they end.
//!
//! timely's own bootstrap retries for ever, believes whoever connects, and does not notice that
//! processes were started with different options until it is too late. So the sockets are made here:
//!
//! - `launch`: which process does what.
//! - `rendezvous`: processes connect, by what they say to each other (`handshake`, `pending_peer`, `secret`), and
//!   compare their `settings`.
//! - `supervisor`: starts the processes of this machine (`group`), and ends all when one fails, or
//!   starts them again (`backoff`); `member` is the other side of that.
//! - [`watchdog`]: ends a process whose computation stands still.
//! - `panic`: ends a process that has lost a thread or another process.

use anyhow::{Context, anyhow};
use timely::WorkerConfig;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Config, Hooks};
use timely::worker::Worker;

mod backoff;
mod group;
mod handshake;
mod inherit;
mod launch;
mod member;
mod panic;
mod pending_peer;
mod rendezvous;
mod role;
mod secret;
mod settings;
mod supervisor;
pub mod watchdog;

pub use launch::{Plan, launch, launch_apart};
pub use panic::{PANIC_WORKER, abort_on_panic};
pub use role::Cluster;
pub use settings::{Given, Settings};

use crate::base::error::{Exit, Failure};
use crate::base::terminal::{Interrupt, Messages};
use crate::base::threads;
use rendezvous::Rendezvous;

/// Returns the function to call while waiting for other processes: it fails once the user has interrupted this
/// process.
pub fn unless_interrupted(interrupt: &Interrupt) -> impl FnMut() -> Result<(), Failure> + use<> {
    let interrupt = interrupt.clone();
    move || match interrupt.pressed() {
        true => {
            let error = anyhow!("interrupted while waiting for the other processes");
            Err(Failure::new(Exit::Interrupted, error))
        }
        false => Ok(()),
    }
}

impl Cluster {
    /// Runs a thread for each worker of this process, and waits for them. They get their numbers among all
    /// workers. Nothing joins them, or the processes, to each other.
    pub fn threads<T: Send>(&self, work: impl Fn(usize) -> T + Sync) -> anyhow::Result<Vec<T>> {
        let first = self.process * self.workers;
        let work = |index: usize| {
            panic::panic_if_asked_to(index);
            work(index)
        };
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for index in first..first + self.workers {
                let thread = std::thread::Builder::new().name(format!("worker {index}"));
                let work = &work;
                let started = thread.spawn_scoped(scope, move || work(index));
                threads.push(started.context("starting the thread of a worker")?);
            }
            // A panic has ended the process.
            let ended = threads.into_iter().map(|thread| thread.join());
            ended.collect::<Result<_, _>>().map_err(|_| anyhow!("a worker panicked"))
        })
    }

    /// Starts the workers of this process, together with those of the others, and waits for them.
    ///
    /// `settings` must fit those of all other processes.
    /// `waiting` is called again and again while other processes are waited for; an error of its ends
    /// that.
    pub fn execute<T: Send + 'static>(
        mut self,
        settings: &Settings,
        messages: &Messages,
        waiting: &mut dyn FnMut() -> Result<(), Failure>,
        config: WorkerConfig,
        work: impl Fn(&mut Worker) -> T + Send + Sync + 'static,
    ) -> Result<Vec<T>, Failure> {
        // Some workers without the others would wait for them.
        let connections = self.hosts.len() - 1;
        threads::try_room(self.workers + 2 * connections)
            .map_err(|error| anyhow!(error).context("starting the workers"))?;
        let (builders, others) = if self.hosts.len() == 1 {
            Config::Process(self.workers).try_build().map_err(|error| anyhow!(error))?
        } else {
            let listener = self.listener.take();
            let rendezvous = Rendezvous::new(&self, listener, settings, messages, waiting)?;
            let sockets = rendezvous.sockets()?;
            let hooks = Hooks::default();
            let process =
                ProcessBuilder::new_typed_vector(self.workers, hooks.refill.clone(), None);
            let (builders, guard) = initialize_networking_from_sockets(
                process,
                sockets,
                self.process,
                self.workers,
                hooks,
            )
            .context("starting the threads that talk to the other processes")?;
            let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
            (builders, Box::new(guard) as Box<dyn std::any::Any + Send>)
        };
        let work = move |worker: &mut Worker| {
            panic::panic_if_asked_to(worker.index());
            work(worker)
        };
        let guards = timely::execute::execute_from(builders, others, config, work)
            .map_err(|error| anyhow!(error))?;
        let results = guards.join().into_iter();
        Ok(results.collect::<Result<_, _>>().map_err(|error| anyhow!("a worker ended: {error}"))?)
    }
}
