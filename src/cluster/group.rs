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
    Member { start: u64, process: usize, event: MemberEvent },
    /// The interrupt key was pressed, or the supervisor received a signal to end.
    Interrupt,
}

/// The event of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberEvent {
    /// The process sent a report.
    Report(Report),
    /// The process closed its supervisor pipe, which it does by ending.
    Closed,
}

/// The processes that were started together.
pub(super) struct Group {
    members: Vec<Member>,
}

struct Member {
    child: Child,
    supervisor_pipe: UnixStream,
    /// Time of the last event of the process.
    last_event: Instant,
    /// Reports of the process, without the heartbeats.
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
        // The supervisor holds each port until its process listens there, so that nobody else can get it.
        let mut listeners = Vec::new();
        if processes > 1 {
            for _ in 0..processes {
                listeners.push(member::bind_free_port()?);
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
                .spawn(move || forward_events(supervisor_pipe, start, process, &events))
                .with_context(starting)?;
        }
        Ok(group)
    }

    /// Records an event of a process, and returns the exit status if the process has ended.
    pub(super) fn record(
        &mut self,
        process: usize,
        event: MemberEvent,
    ) -> io::Result<Option<ExitStatus>> {
        let member = &mut self.members[process];
        member.last_event = Instant::now();
        match event {
            MemberEvent::Report(Report::Heartbeat) => Ok(None),
            MemberEvent::Report(report) => {
                member.reports.push(report);
                Ok(None)
            }
            MemberEvent::Closed => {
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
        live.map(|(process, member)| (process, member.last_event))
            .min_by_key(|(_, last_event)| *last_event)
    }

    /// Resets the silence of all processes to zero.
    pub(super) fn reset_silence(&mut self) {
        let now = Instant::now();
        self.members.iter_mut().for_each(|member| member.last_event = now);
    }
}

impl Member {
    fn start(
        role: &ChildRole,
        listener: Option<TcpListener>,
        mut command: Command,
    ) -> anyhow::Result<Member> {
        let (mut supervisor_pipe, theirs) =
            UnixStream::pair().context("creating its supervisor pipe")?;
        // The role fits into the buffer of the socket, so that the write does not block.
        supervisor_pipe.write_all(&member::role_line(role)).context("sending its role")?;
        inherit::pass_on(&theirs).context("passing on its supervisor pipe")?;
        if let Some(listener) = &listener {
            inherit::pass_on(listener).context("passing on its listener")?;
        }
        // Only the first process reads and writes.
        if role.process > 0 {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
        let child = command
            .env(SUPERVISOR_PIPE, theirs.as_raw_fd().to_string())
            .spawn()
            .with_context(|| format!("running {}", command.get_program().display()))?;
        // The end of this function closes the copies of this process, before it starts the next one.
        Ok(Member {
            child,
            supervisor_pipe,
            last_event: Instant::now(),
            reports: Vec::new(),
            ended: false,
        })
    }
}

fn forward_events(
    mut supervisor_pipe: UnixStream,
    start: u64,
    process: usize,
    events: &SyncSender<Event>,
) {
    let mut bytes = [0; REPORT_BYTES];
    while supervisor_pipe.read_exact(&mut bytes).is_ok() {
        if let Some(report) = Report::from_bytes(bytes)
            && events
                .send(Event::Member { start, process, event: MemberEvent::Report(report) })
                .is_err()
        {
            return;
        }
    }
    // The supervisor may have stopped receiving.
    let _ = events.send(Event::Member { start, process, event: MemberEvent::Closed });
}

impl Drop for Group {
    fn drop(&mut self) {
        for member in &mut self.members {
            // The process may have ended by itself.
            let _ = member.child.kill();
        }
        for member in &mut self.members {
            let _ = member.child.wait();
        }
    }
}
