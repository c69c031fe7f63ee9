//! Bounded waiting for a source that may have nothing to read yet.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The time for which reads may wait, in all.
#[derive(Default)]
pub(super) struct Wait {
    bound: Mutex<Bound>,
    in_vain: AtomicBool,
}

#[derive(Clone, Copy, Default)]
enum Bound {
    /// As long as it takes.
    #[default]
    Never,
    /// So long from the next read on. What passes until that read is no waiting.
    For(Duration),
    Until(Instant),
}

impl Wait {
    /// Bounds the reads to come, or lifts the bound.
    pub(super) fn at_most(&self, time: Option<Duration>) {
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) =
            time.map_or(Bound::Never, Bound::For);
    }

    /// Whether a read has ended because of the bound, since the last call.
    pub(super) fn was_in_vain(&self) -> bool {
        self.in_vain.swap(false, Relaxed)
    }

    /// Waits until a read returns at once, with bytes, the end or an error.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if that takes longer than the bound, and errors of the system.
    /// Decompressors go on after an error of that kind as if the read had not been tried.
    pub(super) fn until_readable(&self, source: BorrowedFd<'_>) -> io::Result<()> {
        let until = {
            let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
            let until = match *bound {
                Bound::Never => return Ok(()),
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
                    self.in_vain.store(true, Relaxed);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
