//! A process that was started by another one of this program, as it sees itself.
//!
//! The two are joined by a socket, the supervisor pipe. Over it the process learns its place, shows that it
//! lives, says what has happened to it, and hears of the interrupt key. When it is cut, the one that
//! started it is gone, and the process ends too.

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

/// The variable that says at which descriptor the supervisor pipe is.
pub(super) const SUPERVISOR_PIPE: &str = "FLOODMARK_LIFELINE";

/// Between two signs of life.
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
    Beat,
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
            Report::Beat => (b'B', 0),
            Report::Panicked => (b'P', 0),
            Report::Lost(process) => (b'L', process as u32),
        };
        let [a, b, c, d] = number.to_be_bytes();
        [letter, a, b, c, d]
    }

    pub(super) fn from_bytes([letter, a, b, c, d]: [u8; REPORT_BYTES]) -> Option<Report> {
        match letter {
            b'B' => Some(Report::Beat),
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
            // If it is cut, the thread that listens ends this process.
            let _ = supervisor_pipe.write_all(&report.to_bytes());
            true
        }
        None => false,
    }
}

/// The place that this process was started for, if one of this program has started it.
pub(super) fn take_role() -> Result<Option<ChildRole>, Failure> {
    let Some(descriptor) = std::env::var_os(SUPERVISOR_PIPE) else {
        return Ok(None);
    };
    let strange = || {
        let value = descriptor.display();
        format!("{SUPERVISOR_PIPE} is \"{value}\": it is set by this program alone, take it away")
    };
    let usage = |error: anyhow::Error| Failure::new(Exit::Usage, error);
    let number = descriptor.to_str().and_then(|text| text.parse().ok());
    let number = number.ok_or_else(|| usage(anyhow!(strange())))?;
    let supervisor_pipe = inherit::stream(number).with_context(strange).map_err(usage)?;
    let mut orders =
        BufReader::new(supervisor_pipe.try_clone().with_context(strange).map_err(usage)?);
    let mut line = String::new();
    orders.read_line(&mut line).with_context(strange).map_err(usage)?;
    let role = serde_json::from_str(&line).with_context(strange).map_err(usage)?;
    // A process that is stopped does not see that its supervisor pipe is cut.
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("asking to end with the process that has started this one")?;
    TO_SUPERVISOR.set(supervisor_pipe).map_err(|_| anyhow!("this process was given two places"))?;
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("supervisor: out")
        .spawn(beat)
        .context("starting the thread that gives signs of life")?;
    thread("supervisor: in")
        .spawn(|| listen(orders))
        .context("starting the thread that listens")?;
    Ok(Some(role))
}

fn beat() {
    while report(Report::Beat) {
        std::thread::sleep(HEARTBEAT);
    }
}

fn listen(orders: BufReader<UnixStream>) {
    for order in orders.bytes() {
        match order {
            Ok(INTERRUPT) => terminal::pass_on_interrupt(),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // Nobody waits for an answer any more, and nobody would end this process.
    std::process::exit(Exit::Failed as i32);
}

impl ChildRole {
    /// The part of the computation that this place is.
    pub(super) fn cluster(self, workers: usize) -> Result<Cluster, Failure> {
        let listener = match self.listener {
            Some(descriptor) => Some(
                inherit::listener(descriptor)
                    .with_context(|| format!("taking over the listener {descriptor}"))?,
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

/// As a line for the process whose place it is.
pub(super) fn role_line(role: &ChildRole) -> Vec<u8> {
    let mut line = serde_json::to_vec(role).expect("numbers and texts can be written as JSON");
    line.push(b'\n');
    line
}

/// The listener that a process will take over.
pub(super) fn free_listener() -> anyhow::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").context("finding a free port for a process")
}
