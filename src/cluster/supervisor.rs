//! Supervises the processes of a computation: all live, or none does.
//!
//! The supervisor computes nothing, so that it outlives whatever goes wrong there. The effects of a failed process
//! on the others may arrive before their cause: processes that have lost a connection report which process they
//! lost, and the supervisor names the lost process if its failure becomes clear.

use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nix::sys::signal::Signal;

use super::backoff::Backoff;
use super::group::{Event, Group};
use super::member::Report;
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::terminal::Messages;

/// Time for which the supervisor waits for the first cause, after an effect of it (a lost connection, a signal).
const CAUSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for the other processes to end after process 0 has.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for the other processes to end after process 0 was interrupted; then the supervisor kills the rest.
const INTERRUPTED_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Relation between the processes of one start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// They compute one result together, and the first process has it.
    Together,
    /// Each does its own part of the work, and then ends.
    Apart,
}

/// Starts this command again as each of the processes, and supervises them until the computation has ended.
pub(super) fn supervise(
    processes: usize,
    hang_timeout: Duration,
    restart: bool,
    work: Work,
) -> Outcome {
    let program = std::env::current_exe().context("finding this program")?;
    let (sender, events) = sync_channel(EVENTS_MAX);
    let interrupts = sender.clone();
    ctrlc::set_handler(move || drop(interrupts.send(Event::Interrupt)))
        .context("listening for the interrupt key")?;
    let command = move || {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).stdin(Stdio::inherit());
        command
    };
    let restarts = restart.then(Backoff::new);
    let mut supervisor = Supervisor::new(processes, hang_timeout, command, (sender, events));
    supervisor.restarts = restarts;
    supervisor.work = work;
    supervisor.run()
}

/// Maximum number of queued events. The supervisor may wait for the reader of its messages; these are the events of a
/// few minutes.
pub(super) const EVENTS_MAX: usize = 1024;

pub(super) struct Supervisor<C> {
    processes: usize,
    hang_timeout: Duration,
    restarts: Option<Backoff>,
    work: Work,
    /// Makes the command that starts a process.
    command: C,
    sender: SyncSender<Event>,
    events: Receiver<Event>,
    messages: Messages,
    /// Number of starts of all processes so far.
    start: u64,
    interrupted: bool,
}

/// Outcome of one start of all processes.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// No restart is needed: the supervisor ends with this exit code.
    Completed(Exit),
    /// A process has failed, so the supervisor ends all.
    Failed {
        cause: String,
        exit: Exit,
        /// Whether the failed process has reported the reason itself.
        reported: bool,
    },
}

fn failed(cause: String) -> Ending {
    Ending::Failed { cause, exit: Exit::Failed, reported: false }
}

/// Describes the end of a process in words.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => {
            let mut words = format!("was killed by signal {signal}");
            if let Ok(name) = Signal::try_from(signal) {
                let _ = write!(words, " ({})", name.as_str());
            }
            words
        }
        (None, None) => format!("ended with {status}"),
    }
}

/// Whether a restart may succeed: nothing is wrong with options and files.
fn may_succeed(exit: Exit) -> bool {
    matches!(exit, Exit::Failed | Exit::Unavailable)
}

impl<C: Fn() -> Command> Supervisor<C> {
    pub(super) fn new(
        processes: usize,
        hang_timeout: Duration,
        command: C,
        (sender, events): (SyncSender<Event>, Receiver<Event>),
    ) -> Self {
        Supervisor {
            processes,
            hang_timeout,
            restarts: None,
            work: Work::Together,
            command,
            sender,
            events,
            messages: Messages::new(),
            start: 0,
            interrupted: false,
        }
    }

    /// Starts the processes, and restarts them after a failure if `restarts` is set.
    pub(super) fn run(&mut self) -> Outcome {
        loop {
            self.start += 1;
            let began = Instant::now();
            let mut group = Group::start(self.processes, self.start, &self.command, &self.sender)?;
            let ending = self.await_ending(&mut group)?;
            // The remaining processes can't complete the computation.
            drop(group);
            let (cause, exit, reported) = match ending {
                Ending::Completed(exit) => return Ok(exit),
                Ending::Failed { cause, exit, reported } => (cause, exit, reported),
            };
            let Some(backoff) = self.restarts.as_mut().filter(|_| may_succeed(exit)) else {
                return if reported { Ok(exit) } else { Err(self.failure(&cause, exit)) };
            };
            if self.interrupted {
                return Err(self.failure(&cause, exit));
            }
            let wait = backoff.after(began.elapsed());
            let times = backoff.restarts;
            self.messages.warn(format!(
                "{cause}: starting all processes again in {wait:?} (restart {times})"
            ));
            if self.interrupted_within(wait) {
                return Ok(Exit::Interrupted);
            }
        }
    }

    fn failure(&self, cause: &str, exit: Exit) -> Failure {
        let others = if self.processes > 1 { ": all processes were ended" } else { "" };
        Failure::new(exit, anyhow!("{cause}{others}"))
    }

    /// Waits, and returns true if the interrupt key ended the wait.
    fn interrupted_within(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Interrupt) => return true,
                // An event of a process of an earlier start.
                Ok(Event::Member { .. }) => {}
                Err(_) => return false,
            }
        }
    }

    /// Watches the processes until the outcome of the start is certain.
    fn await_ending(&mut self, group: &mut Group) -> anyhow::Result<Ending> {
        let (hang_timeout, work) = (self.hang_timeout, self.work);
        let mut state = StartState { hang_timeout, work, exit: None, lost: None, signalled: None };
        let mut awake = Instant::now();
        loop {
            // The supervisor sleeps for less than that: it was stopped too, and has received no events meanwhile.
            if awake.elapsed() > self.hang_timeout / 2 {
                group.reset_silence();
            }
            awake = Instant::now();
            let event = match self.events.try_recv() {
                Ok(event) => event,
                Err(_) => {
                    let Some(deadline) = state.deadline(group) else {
                        // All have ended.
                        return Ok(state.ending());
                    };
                    if deadline <= awake {
                        return Ok(state.timed_out(group, awake));
                    }
                    let sleep = (deadline - awake).min(self.hang_timeout / 4);
                    match self.events.recv_timeout(sleep) {
                        Ok(event) => event,
                        Err(_) => continue,
                    }
                }
            };
            match event {
                // A second press ends all processes at once.
                Event::Interrupt if self.interrupted => {
                    return Ok(Ending::Completed(Exit::Interrupted));
                }
                Event::Interrupt => {
                    self.interrupted = true;
                    group.interrupt(match self.work {
                        // Process 0 ends the others in good order.
                        Work::Together => 1,
                        Work::Apart => self.processes,
                    });
                    if state.signalled.is_some() {
                        return Ok(Ending::Completed(Exit::Interrupted));
                    }
                }
                Event::Member { start, .. } if start != self.start => {}
                Event::Member { process, event, .. } => {
                    let ended = group
                        .record(process, event)
                        .with_context(|| format!("supervising process {process}"))?;
                    if let Some(status) = ended
                        && let Some(ending) =
                            state.process_ended(group, process, status, self.interrupted)
                    {
                        return Ok(ending);
                    }
                }
            }
        }
    }
}

/// State of one start, from which its outcome is derived.
struct StartState {
    hang_timeout: Duration,
    work: Work,
    /// The exit code of the first process, and the time limit for the others to end. For processes that work apart:
    /// the combined exit code of those that have ended; the others have no time limit.
    exit: Option<(Exit, Option<Instant>)>,
    /// A process, the process that it lost, and the time limit for the cause to become clear.
    lost: Option<(usize, usize, Instant)>,
    /// The end of a process by a signal that interrupts, in words, and the time limit for this process to receive
    /// the same signal: a terminal sends it to all of them, in no fixed order.
    signalled: Option<(String, Instant)>,
}

impl StartState {
    /// Returns the time at which waiting longer means a failure; `None` if no process is left and no signal is
    /// pending.
    fn deadline(&self, group: &Group) -> Option<Instant> {
        let silent = group.longest_silent().map(|(_, last_event)| last_event + self.hang_timeout);
        let lost = self.lost.map(|(_, _, until)| until);
        let exit = self.exit.and_then(|(_, until)| until);
        let signalled = self.signalled.as_ref().map(|(_, until)| *until);
        if silent.is_none() {
            return signalled;
        }
        [silent, lost, exit, signalled].into_iter().flatten().min()
    }

    fn timed_out(&self, group: &Group, now: Instant) -> Ending {
        if let Some((cause, until)) = &self.signalled
            && *until <= now
        {
            return failed(cause.clone());
        }
        if self.lost.is_some_and(|(_, _, until)| until <= now) {
            return self.ending();
        }
        match group.longest_silent() {
            Some((process, last_event)) if last_event + self.hang_timeout <= now => failed(
                format!("process {process} gave no sign of life for {:?}", self.hang_timeout),
            ),
            _ if self.exit.is_some_and(|(exit, _)| exit == Exit::Interrupted) => self.ending(),
            Some((process, _)) => {
                failed(format!("process {process} did not end within {END_TIMEOUT:?} of process 0"))
            }
            None => self.ending(),
        }
    }

    /// Returns the outcome once nothing more can become known.
    fn ending(&self) -> Ending {
        match (self.exit, self.lost) {
            (Some((exit, _)), _) => Ending::Completed(exit),
            (None, Some((process, other, _))) => {
                failed(format!("process {process} lost its connection to process {other}"))
            }
            (None, None) => failed("all processes ended without a result".into()),
        }
    }

    /// Handles the end of a process. Returns the outcome for all if it is certain.
    fn process_ended(
        &mut self,
        group: &Group,
        process: usize,
        status: ExitStatus,
        interrupted: bool,
    ) -> Option<Ending> {
        let cause = || format!("process {process} {}", describe(status));
        let signals = [Signal::SIGINT as i32, Signal::SIGTERM as i32];
        if status.signal().is_some_and(|signal| signals.contains(&signal)) {
            // The process was interrupted before it had installed its handler.
            if interrupted {
                return Some(Ending::Completed(Exit::Interrupted));
            }
            let until = Instant::now() + CAUSE_TIMEOUT;
            self.signalled.get_or_insert_with(|| (cause(), until));
            return None;
        }
        let reports = group.reports(process);
        if reports.contains(&Report::Panicked) {
            return Some(failed(format!("process {process} panicked")));
        }
        let lost = reports.iter().find_map(|report| match report {
            Report::Lost(other) => Some(*other),
            Report::Heartbeat | Report::Panicked => None,
        });
        if let Some(other) = lost {
            if self.exit.is_none() && self.lost.is_none() {
                self.lost = Some((process, other, Instant::now() + CAUSE_TIMEOUT));
            }
            return None;
        }
        let exit = status.code().and_then(Exit::of_code);
        match exit {
            Some(exit @ (Exit::Done | Exit::Violations | Exit::BadData | Exit::Interrupted))
                if self.work == Work::Apart =>
            {
                let others = self.exit.map_or(Exit::Done, |(exit, _)| exit);
                self.exit = Some((others.or(exit), None));
                None
            }
            Some(exit @ (Exit::Done | Exit::Violations | Exit::BadData | Exit::Interrupted))
                if process == 0 =>
            {
                let wait = match exit {
                    // If the interrupt came before all processes had connected, the others still wait for process 0.
                    Exit::Interrupted => INTERRUPTED_END_TIMEOUT,
                    _ => END_TIMEOUT,
                };
                self.exit = Some((exit, Some(Instant::now() + wait)));
                None
            }
            Some(Exit::Done) => None,
            Some(exit) => Some(Ending::Failed { cause: cause(), exit, reported: true }),
            None => Some(failed(cause())),
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
