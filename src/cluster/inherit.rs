//! Descriptors that go from a process to one that it starts.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Lets the next process that is started have this descriptor too.
pub(super) fn pass_on(descriptor: impl AsFd) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Takes over a descriptor by its number, which this process was told when it was started.
fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::other("the standard streams are taken"));
    }
    #[expect(unsafe_code, reason = "what is inherited is known by its number only")]
    // SAFETY: the number is not negative, and the borrow ends before anything could close it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // Fails if there is no such descriptor. Those that this one starts do not get it.
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    #[expect(unsafe_code, reason = "what is inherited is known by its number only")]
    // SAFETY: it is open, as was just seen, and is taken once, when nothing else was opened yet.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes over a connection.
pub(super) fn stream(number: RawFd) -> io::Result<UnixStream> {
    Ok(UnixStream::from(take(number)?))
}

/// Takes over a listener.
pub(super) fn listener(number: RawFd) -> io::Result<TcpListener> {
    Ok(TcpListener::from(take(number)?))
}
