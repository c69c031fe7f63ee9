//! Descriptors that a process inherits from the process that has started it.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Makes the next process that is started inherit this descriptor.
pub(super) fn pass_on(descriptor: impl AsFd) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Takes ownership of an inherited descriptor by its number.
fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::other("descriptors 0 to 2 are the standard streams"));
    }
    #[expect(unsafe_code, reason = "an inherited descriptor is known by its number only")]
    // SAFETY: the number is not negative, and the borrow ends before anything could close it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // Fails if there is no such descriptor. Processes that this one starts do not inherit it.
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    #[expect(unsafe_code, reason = "an inherited descriptor is known by its number only")]
    // SAFETY: the call above has shown that it is open, and it is adopted only once, before this process opens others.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Adopts an inherited connection.
pub(super) fn stream(number: RawFd) -> io::Result<UnixStream> {
    Ok(UnixStream::from(adopt(number)?))
}

/// Adopts an inherited listener.
pub(super) fn listener(number: RawFd) -> io::Result<TcpListener> {
    Ok(TcpListener::from(adopt(number)?))
}
