//! Threads that make answers, beside the one that serves.
//!
//! They are made when the server starts, so that a system without room for threads is an error then, and
//! so few that what they make is bounded.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

type Job = Box<dyn FnOnce() + Send>;

/// A number of threads. They end when it is dropped and their work is done.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: Sender<Job>,
}

impl Pool {
    /// Starts so many threads.
    pub(super) fn start(name: &str, threads: usize) -> io::Result<Self> {
        let (jobs, waiting) = channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..threads {
            let waiting = waiting.clone();
            std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                loop {
                    // Only the wait for the next job is exclusive.
                    let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    job();
                }
            })?;
        }
        Ok(Pool { jobs })
    }

    /// Has a thread do this, as soon as one is free.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The threads live as long as this does.
        let _ = self.jobs.send(Box::new(job));
    }
}
