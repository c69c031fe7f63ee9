//! Bounded waiting for a source that may have nothing to read yet.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A bound on the total waiting time of reads.
#[derive(Default)]
pub(super) struct ReadTimeout {
    bound: Mutex<Bound>,
    expired: AtomicBool,
}

#[derive(Clone, Copy, Default)]
enum Bound {
    #[default]
    None,
    /// A duration that starts with the next read: time before that read is no waiting.
    For(Duration),
    Until(Instant),
}

impl ReadTimeout {
    /// Sets the bound of all further reads; `None` for no bound.
    pub(super) fn set(&self, time: Option<Duration>) {
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) =
            time.map_or(Bound::None, Bound::For);
    }

    /// Returns whether a read ended by the bound since the last call.
    pub(super) fn take_expired(&self) -> bool {
        self.expired.swap(false, Relaxed)
    }

    /// Waits until a read would not block.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if that takes longer than the bound, and errors of the system.
    /// A decompressor continues after an error of that kind as if it had not tried to read.
    pub(super) fn wait_until_readable(&self, source: BorrowedFd<'_>) -> io::Result<()> {
        let until = {
            let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
            let until = match *bound {
                Bound::None => return Ok(()),
                Bound::For(time) => Instant::now() + time,
                Bound::Until(until) => until,
            };
            *bound = Bound::Until(until);
            until
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(source, PollFlags::POLLIN)], timeout) {
                Ok(0) if !until.saturating_duration_since(Instant::now()).is_zero() => {}
                Ok(0) => {
                    self.expired.store(true, Relaxed);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
