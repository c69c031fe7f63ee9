//! The part of a process in a computation.

use std::net::TcpListener;

use super::secret::Secret;

/// The workers of a computation, as one process sees them.
#[derive(Debug)]
pub struct Cluster {
    /// Worker threads of each process.
    pub workers: usize,
    /// Number of this process.
    pub process: usize,
    /// The address of each process; one and unused if there is only this one.
    pub hosts: Vec<String>,
    /// Whether a supervisor, another process of this program, has started this one.
    pub supervised: bool,
    /// Whether the supervisor has restarted the processes after a failure.
    pub restarted: bool,
    /// The listening socket that this process inherited, if any.
    pub(super) listener: Option<TcpListener>,
    pub(super) secret: Option<Secret>,
}

impl Cluster {
    /// Creates the cluster of a single process.
    pub fn alone(workers: usize) -> Self {
        Cluster {
            workers,
            process: 0,
            hosts: vec![String::new()],
            supervised: false,
            restarted: false,
            listener: None,
            secret: None,
        }
    }

    /// The number of all workers.
    pub fn peers(&self) -> usize {
        self.workers * self.hosts.len()
    }
}
