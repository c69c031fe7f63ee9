//! The side of a process that a supervisor, another process of this program, has started.
//!
//! A socket, the supervisor pipe, connects the two. Over it the process receives its role and the interrupts, and
//! sends heartbeats and reports of failures. When the pipe closes, the supervisor has ended, and the process ends
//! too.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

use super::inherit;
use super::role::Cluster;
use super::secret::Secret;
use crate::base::error::{Exit, Failure};
use crate::base::terminal;

/// Environment variable with the number of the descriptor of the supervisor pipe.
pub(super) const SUPERVISOR_PIPE: &str = "FLOODMARK_LIFELINE";

/// Interval of heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// The part of a process in a computation, which the supervisor sends to it as a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChildRole {
    /// Number of the process.
    pub(super) process: usize,
    /// Whether the supervisor has restarted all processes after a failure.
    pub(super) restarted: bool,
    /// The address at which each process listens.
    pub(super) hosts: Vec<String>,
    /// The listening socket of this process, inherited, so that nobody else can take the port.
    pub(super) listener: Option<RawFd>,
    /// Drawn anew for each start, so that no process of an earlier one can join.
    pub(super) secret: Vec<u8>,
}

/// A report of a process over its supervisor pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// A heartbeat: the process lives.
    Heartbeat,
    /// A thread of the process has panicked.
    Panicked,
    /// The connection of the process to this other one was cut.
    Lost(usize),
}

/// A report as bytes: a letter and a number.
pub(super) const REPORT_BYTES: usize = 5;

impl Report {
    fn to_bytes(self) -> [u8; REPORT_BYTES] {
        let (letter, number) = match self {
            Report::Heartbeat => (b'B', 0),
            Report::Panicked => (b'P', 0),
            Report::Lost(process) => (b'L', process as u32),
        };
        let [a, b, c, d] = number.to_be_bytes();
        [letter, a, b, c, d]
    }

    pub(super) fn from_bytes([letter, a, b, c, d]: [u8; REPORT_BYTES]) -> Option<Report> {
        match letter {
            b'B' => Some(Report::Heartbeat),
            b'P' => Some(Report::Panicked),
            b'L' => Some(Report::Lost(u32::from_be_bytes([a, b, c, d]) as usize)),
            _ => None,
        }
    }
}

/// The byte by which the supervisor forwards a press of the interrupt key to a process.
pub(super) const INTERRUPT: u8 = b'I';

static TO_SUPERVISOR: OnceLock<UnixStream> = OnceLock::new();

/// Sends a report to the supervisor. Returns false if this process has none.
pub(super) fn report(report: Report) -> bool {
    match TO_SUPERVISOR.get() {
        Some(mut supervisor_pipe) => {
            // If the pipe is closed, the thread that reads from it ends this process.
            let _ = supervisor_pipe.write_all(&report.to_bytes());
            true
        }
        None => false,
    }
}

/// Reads the role of this process, if a supervisor has started it.
pub(super) fn read_role() -> Result<Option<ChildRole>, Failure> {
    let Some(descriptor) = std::env::var_os(SUPERVISOR_PIPE) else {
        return Ok(None);
    };
    let invalid = || {
        let value = descriptor.display();
        format!("{SUPERVISOR_PIPE} is \"{value}\": only floodmark sets this variable; unset it")
    };
    let usage = |error: anyhow::Error| Failure::new(Exit::Usage, error);
    let number = descriptor.to_str().and_then(|text| text.parse().ok());
    let number = number.ok_or_else(|| usage(anyhow!(invalid())))?;
    let supervisor_pipe = inherit::stream(number).with_context(invalid).map_err(usage)?;
    let mut orders =
        BufReader::new(supervisor_pipe.try_clone().with_context(invalid).map_err(usage)?);
    let mut line = String::new();
    orders.read_line(&mut line).with_context(invalid).map_err(usage)?;
    let role = serde_json::from_str(&line).with_context(invalid).map_err(usage)?;
    // A stopped process does not notice that its supervisor pipe is closed.
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("requesting a signal at the end of the supervisor")?;
    TO_SUPERVISOR
        .set(supervisor_pipe)
        .map_err(|_| anyhow!("this process has received two roles"))?;
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("supervisor: out").spawn(send_heartbeats).context("starting the heartbeat thread")?;
    thread("supervisor: in")
        .spawn(|| read_orders(orders))
        .context("starting the thread that reads from the supervisor")?;
    Ok(Some(role))
}

fn send_heartbeats() {
    while report(Report::Heartbeat) {
        std::thread::sleep(HEARTBEAT);
    }
}

fn read_orders(orders: BufReader<UnixStream>) {
    for order in orders.bytes() {
        match order {
            Ok(INTERRUPT) => terminal::pass_on_interrupt(),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // The supervisor has ended: nobody waits for a result, and nobody else would end this process.
    std::process::exit(Exit::Failed as i32);
}

impl ChildRole {
    /// Returns the cluster as the process of this role sees it.
    pub(super) fn cluster(self, workers: usize) -> Result<Cluster, Failure> {
        let listener = match self.listener {
            Some(descriptor) => Some(
                inherit::listener(descriptor)
                    .with_context(|| format!("inheriting the listener {descriptor}"))?,
            ),
            None => None,
        };
        Ok(Cluster {
            process: self.process,
            hosts: self.hosts,
            supervised: true,
            restarted: self.restarted,
            listener,
            secret: Some(Secret::from_bytes(self.secret)),
            ..Cluster::alone(workers)
        })
    }
}

/// Encodes a role as a line for its process.
pub(super) fn role_line(role: &ChildRole) -> Vec<u8> {
    let mut line = serde_json::to_vec(role).expect("numbers and texts can be written as JSON");
    line.push(b'\n');
    line
}

/// Listens at a free port, for a process that will inherit the listener.
pub(super) fn bind_free_port() -> anyhow::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").context("finding a free port for a process")
}
