//! The number of files that the process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the number to the greatest that the system lets this process have.
pub fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, soft, hard, "the number of open files stays as it is");
    }
}
