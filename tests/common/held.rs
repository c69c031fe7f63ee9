//! Servers that a script holds: it stops the server and removes its files when the other end of a pipe is
//! closed, so that however the tests end, none is left behind.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

/// A script of this project.
pub(super) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// A server that these tests have started.
pub(super) struct Held {
    pub(super) port: u16,
    pub(super) directory: TempDir,
    /// It stops the server when its standard input ends.
    holder: Child,
}

impl Held {
    /// Has a script hold a server at a port, with these variables.
    pub(super) fn start(name: &str, port: u16, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory for a server");
        let mut holder = Command::new(script(name))
            .arg("hold")
            .arg(directory.path())
            .arg(port.to_string())
            // A key pressed at the terminal ends the tests; the holder ends after them.
            .process_group(0)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("running scripts/{name}: {error}"));
        let stdout = holder.stdout.take().expect("standard output is piped");
        let mut line = String::new();
        // It ends by itself if the server does not come up in time.
        BufReader::new(stdout).read_line(&mut line).expect("reading what the script says");
        assert!(
            line.starts_with("running"),
            "scripts/{name} hold: no server (its messages: above)"
        );
        Held { port, directory, holder }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// The first of `count` ports that are free, of 4000 such groups from `first` on. They are to be outside of
/// the range from which the system gives ports to connections: a server that is stopped must find its own
/// free again.
pub(super) fn free_ports(first: u16, count: u16) -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..4000)
        .map(|_| {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            // Test processes that run side by side begin at different ports.
            first + count * ((std::process::id() as usize * 37 + step) % 4000) as u16
        })
        .find(|port| (*port..port + count).all(free))
        .expect("free ports")
}
