//! Threads that write large responses, beside the thread that serves.
//!
//! The threads are started with the server, so that a failure to start a thread is an error of the start.
//! They are few, so that the responses under way are bounded.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads. They end when the pool is dropped and all jobs are done.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: Sender<Job>,
}

impl Pool {
    /// Starts the threads.
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

    /// Runs a job on a thread, as soon as one is free.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The threads live as long as the pool, so that the channel is open.
        let _ = self.jobs.send(Box::new(job));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use super::*;

    #[test]
    fn jobs_beyond_the_number_of_threads_wait() {
        const THREADS: usize = 2;
        const JOBS: usize = 7;
        let pool = Pool::start("test", THREADS).expect("threads");
        let (began, begins) = channel();
        let (proceed, go): (Sender<()>, Receiver<()>) = channel();
        let go = Arc::new(Mutex::new(go));
        let under_way = Arc::new(Mutex::new((0, 0)));
        for _ in 0..JOBS {
            let (began, go, under_way) = (began.clone(), go.clone(), under_way.clone());
            pool.run(move || {
                let count = |diff: isize| {
                    let mut under_way = under_way.lock().expect("no job panics");
                    under_way.0 += diff;
                    under_way.1 = under_way.1.max(under_way.0);
                };
                count(1);
                began.send(()).expect("the test waits");
                go.lock().expect("no job panics").recv().expect("the test sends");
                count(-1);
            });
        }
        for _ in 0..JOBS {
            begins.recv().expect("a job begins");
            proceed.send(()).expect("a job waits");
        }
        drop(pool);
        let (_, most) = *under_way.lock().expect("no job panics");
        assert!((1..=THREADS as isize).contains(&most), "{most} at once");
    }
}
