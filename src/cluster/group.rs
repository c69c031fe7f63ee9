//! The processes of one start. Dropping the group ends them.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use anyhow::Context;

use super::inherit;
use super::member::{self, ChildRole, INTERRUPT, REPORT_BYTES, Report, SUPERVISOR_PIPE};
use super::secret::Secret;

/// An event for the supervisor.
#[derive(Debug)]
pub(super) enum Event {
    /// An event of a process; `start` counts the starts of all processes.
    Member { start: u64, process: usize, seen: Seen },
    /// The interrupt key was pressed, or the supervisor received a signal to end.
    Interrupt,
}

/// The event of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The process sent a report.
    Said(Report),
    /// The process closed its supervisor pipe, which it does by ending.
    Cut,
}

/// The processes that were started together.
pub(super) struct Group {
    members: Vec<Member>,
}

struct Member {
    child: Child,
    supervisor_pipe: UnixStream,
    /// Time of the last event of the process.
    heard: Instant,
    /// Its reports, without the heartbeats.
    reports: Vec<Report>,
    ended: bool,
}

impl Group {
    /// Starts the processes. Threads send their events to `events`.
    pub(super) fn start(
        processes: usize,
        start: u64,
        command: &dyn Fn() -> Command,
        events: &SyncSender<Event>,
    ) -> anyhow::Result<Self> {
        // A port is held from now on until its process listens there: nobody else can get it.
        let mut listeners = Vec::new();
        if processes > 1 {
            for _ in 0..processes {
                listeners.push(member::free_listener()?);
            }
        }
        let address = |listener: &TcpListener| Ok(listener.local_addr()?.to_string());
        let hosts: io::Result<Vec<String>> = listeners.iter().map(address).collect();
        let mut hosts = hosts.context("finding the addresses of the processes")?;
        if processes == 1 {
            hosts.push(String::new());
        }
        let secret = Secret::drawn()?;
        let mut group = Group { members: Vec::new() };
        let mut listeners = listeners.into_iter();
        for process in 0..processes {
            let listener = listeners.next();
            let role = ChildRole {
                process,
                restarted: start > 1,
                hosts: hosts.clone(),
                listener: listener.as_ref().map(AsRawFd::as_raw_fd),
                secret: secret.bytes().to_vec(),
            };
            let starting = || format!("starting process {process}");
            let member = Member::start(&role, listener, command()).with_context(starting)?;
            let supervisor_pipe = member.supervisor_pipe.try_clone().with_context(starting)?;
            group.members.push(member);
            let events = events.clone();
            std::thread::Builder::new()
                .name(format!("pipe: {process}"))
                .spawn(move || hear(supervisor_pipe, start, process, &events))
                .with_context(starting)?;
        }
        Ok(group)
    }

    /// Notes the event of a process, and returns the exit status if the process has ended.
    pub(super) fn see(&mut self, process: usize, seen: Seen) -> io::Result<Option<ExitStatus>> {
        let member = &mut self.members[process];
        member.heard = Instant::now();
        match seen {
            Seen::Said(Report::Beat) => Ok(None),
            Seen::Said(report) => {
                member.reports.push(report);
                Ok(None)
            }
            Seen::Cut => {
                let status = member.child.wait()?;
                member.ended = true;
                Ok(Some(status))
            }
        }
    }

    /// Returns the reports of a process, without the heartbeats.
    pub(super) fn reports(&self, process: usize) -> &[Report] {
        &self.members[process].reports
    }

    /// Forwards the interrupt to the first `first` processes.
    pub(super) fn interrupt(&mut self, first: usize) {
        for member in self.members.iter_mut().take(first) {
            // The process may have ended.
            let _ = member.supervisor_pipe.write_all(&[INTERRUPT]);
        }
    }

    /// Returns the process with the longest silence, of those that have not ended, and the time of its last event.
    pub(super) fn longest_silent(&self) -> Option<(usize, Instant)> {
        let live = self.members.iter().enumerate().filter(|(_, member)| !member.ended);
        live.map(|(process, member)| (process, member.heard)).min_by_key(|(_, heard)| *heard)
    }

    /// Resets the silence of all processes to zero.
    pub(super) fn forgive_silence(&mut self) {
        let now = Instant::now();
        self.members.iter_mut().for_each(|member| member.heard = now);
    }
}

impl Member {
    fn start(
        role: &ChildRole,
        listener: Option<TcpListener>,
        mut command: Command,
    ) -> anyhow::Result<Member> {
        let (mut supervisor_pipe, theirs) = UnixStream::pair().context("making its pipe")?;
        // It fits into the buffer of the socket, so that nobody need read it yet.
        supervisor_pipe.write_all(&member::role_line(role)).context("telling it its role")?;
        inherit::pass_on(&theirs).context("passing its pipe on")?;
        if let Some(listener) = &listener {
            inherit::pass_on(listener).context("handing on its listener")?;
        }
        // Only the first process reads and writes.
        if role.process > 0 {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
        let child = command
            .env(SUPERVISOR_PIPE, theirs.as_raw_fd().to_string())
            .spawn()
            .with_context(|| format!("running {}", command.get_program().display()))?;
        // Its own ends are closed here by the end of this function, before the next one is started.
        Ok(Member {
            child,
            supervisor_pipe,
            heard: Instant::now(),
            reports: Vec::new(),
            ended: false,
        })
    }
}

fn hear(mut supervisor_pipe: UnixStream, start: u64, process: usize, events: &SyncSender<Event>) {
    let mut bytes = [0; REPORT_BYTES];
    while supervisor_pipe.read_exact(&mut bytes).is_ok() {
        if let Some(report) = Report::from_bytes(bytes)
            && events.send(Event::Member { start, process, seen: Seen::Said(report) }).is_err()
        {
            return;
        }
    }
    // Without a supervisor nobody wants to know.
    let _ = events.send(Event::Member { start, process, seen: Seen::Cut });
}

impl Drop for Group {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended by itself.
            let _ = member.child.kill();
        }
        for member in &mut self.members {
            let _ = member.child.wait();
        }
    }
}
