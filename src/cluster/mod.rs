//! Workers and processes: their roles, their connections, and their supervision.
//!
//! timely's own bootstrap retries for ever, trusts any peer that connects, and notices too late that processes
//! were started with different options. So the sockets are made here:
//!
//! - `launch`: assigns a role to this process.
//! - `rendezvous`: connects the processes by an authenticated handshake (`handshake`, `pending_peer`, `secret`), and
//!   compares their `settings`.
//! - `supervisor`: starts the processes of this machine (`group`), and ends all when one fails, or
//!   restarts them (`backoff`); `member` is the side of the started process.
//! - [`watchdog`]: ends a process whose computation stands still.
//! - `panic`: ends a process that has lost a thread or a peer.

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
    /// Runs a thread for each worker of this process, and waits for them. `work` gets the number of its worker among
    /// those of all processes. Neither the threads nor the processes communicate.
    pub fn threads<T: Send>(&self, work: impl Fn(usize) -> T + Sync) -> anyhow::Result<Vec<T>> {
        let first = self.process * self.workers;
        let work = |index: usize| {
            panic::panic_if_requested(index);
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
    /// `waiting` is called repeatedly while this process waits for others; an error of it ends the wait.
    pub fn execute<T: Send + 'static>(
        mut self,
        settings: &Settings,
        messages: &Messages,
        waiting: &mut dyn FnMut() -> Result<(), Failure>,
        config: WorkerConfig,
        work: impl Fn(&mut Worker) -> T + Send + Sync + 'static,
    ) -> Result<Vec<T>, Failure> {
        // If only some workers could start, they would wait for the others for ever.
        let connections = self.hosts.len() - 1;
        threads::check_capacity(self.workers + 2 * connections)
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
            .context("starting the threads that communicate with the other processes")?;
            let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
            (builders, Box::new(guard) as Box<dyn std::any::Any + Send>)
        };
        let work = move |worker: &mut Worker| {
            panic::panic_if_requested(worker.index());
            work(worker)
        };
        let guards = timely::execute::execute_from(builders, others, config, work)
            .map_err(|error| anyhow!(error))?;
        let results = guards.join().into_iter();
        Ok(results.collect::<Result<_, _>>().map_err(|error| anyhow!("a worker ended: {error}"))?)
    }
}
