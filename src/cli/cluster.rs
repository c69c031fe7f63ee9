//! The options for workers and processes.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::duration;
use crate::cluster::Plan;

/// The workers and processes of a command that computes.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "cluster")]
pub struct Args {
    /// Worker threads of each process
    #[arg(short, long, value_name = "N", env = "FLOODMARK_WORKERS", default_value_t = 1)]
    workers: usize,

    /// Number of processes; without --process all of them start on this machine
    #[arg(short = 'n', long, value_name = "N", env = "FLOODMARK_PROCESSES", default_value_t = 1)]
    processes: usize,

    /// The number of this process, from 0; requires --hostfile
    #[arg(short, long, value_name = "P")]
    process: Option<usize>,

    /// The addresses of the processes, one host:port a line
    #[arg(long, value_name = "FILE")]
    hostfile: Option<PathBuf>,

    /// Listen at the address of the host file even if other machines reach it; requires --cluster-secret
    ///
    /// Traffic between processes is not encrypted: use this option in a private network only.
    #[arg(long)]
    listen_any: bool,

    /// A file with the secret that all processes share, at least 16 bytes
    #[arg(long, value_name = "FILE", env = "FLOODMARK_CLUSTER_SECRET")]
    cluster_secret: Option<PathBuf>,

    /// With -n: stop all processes when one gives no sign of life for this time
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_HANG_TIMEOUT",
        default_value = "10s",
        value_parser = duration::positive_millis
    )]
    hang_timeout: u64,
}

impl Args {
    /// Returns the number of workers in all, and of processes.
    pub fn size(&self) -> (usize, usize) {
        (self.workers.saturating_mul(self.processes), self.processes)
    }

    /// The workers and processes of a command that ends when a process fails.
    pub fn plan(&self) -> Plan {
        self.plan_with(Restart::default())
    }

    /// The workers and processes of a command that runs for weeks.
    pub fn plan_with(&self, Restart { restart }: Restart) -> Plan {
        Plan {
            workers: self.workers,
            processes: self.processes,
            process: self.process,
            hostfile: self.hostfile.clone(),
            listen_any: self.listen_any,
            secret: self.cluster_secret.clone(),
            hang_timeout: Duration::from_millis(self.hang_timeout),
            restart,
        }
    }
}

/// The option of a command whose ticks are watched.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(id = "stalling")]
pub struct Stall {
    /// Stop a process whose tick does not advance for this time while input waits
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_STALL_TIMEOUT",
        default_value = "60s",
        value_parser = duration::positive_millis
    )]
    stall_timeout: u64,
}

impl Stall {
    /// Returns the longest time that a tick may stand still while input waits.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.stall_timeout)
    }
}

/// The options of a command that runs for weeks.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[group(id = "restarting")]
pub struct Restart {
    /// Start all processes of this machine again when one of them fails
    #[arg(long, env = "FLOODMARK_RESTART")]
    pub restart: bool,
}
