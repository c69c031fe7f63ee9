//! Servers owned by a script. The script stops the server and removes its files when its standard input closes,
//! so that no server outlives the tests, however they end.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

/// Returns the path of a script of this project.
pub(super) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// A server started by the tests.
pub(super) struct TestServer {
    pub(super) port: u16,
    pub(super) directory: TempDir,
    /// The script, which stops the server when its standard input closes.
    script: Child,
}

impl TestServer {
    /// Starts a server at a port through a script, with these environment variables.
    pub(super) fn start(name: &str, port: u16, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory for a server");
        let mut owner = Command::new(script(name))
            .arg("hold")
            .arg(directory.path())
            .arg(port.to_string())
            // An interrupt at the terminal ends the tests; the script must end after them.
            .process_group(0)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("running scripts/{name}: {error}"));
        let stdout = owner.stdout.take().expect("standard output is piped");
        let mut line = String::new();
        // The script ends by itself if the server does not start in time.
        BufReader::new(stdout).read_line(&mut line).expect("reading the output of the script");
        assert!(
            line.starts_with("running"),
            "scripts/{name} hold: no server (its messages: above)"
        );
        TestServer { port, directory, script: owner }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

/// Returns the first of `count` consecutive free ports, from 4000 such groups starting at `first`. The groups must
/// lie outside of the system's range of ephemeral ports: a restarted server must find its port free again.
pub(super) fn free_ports(first: u16, count: u16) -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..4000)
        .map(|_| {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            // Concurrent test processes start at different ports.
            first + count * ((std::process::id() as usize * 37 + step) % 4000) as u16
        })
        .find(|port| (*port..port + count).all(free))
        .expect("free ports")
}
