//! Looks after the processes of a computation: all live, or none does.
//!
//! The supervisor computes nothing, so that it outlives whatever goes wrong there. What one process
//! does to the others comes a moment later than the cause: processes that have lost another one say so,
//! and it is the other one that is named.

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

/// How long the first cause may come after its effects.
const FIRST_CAUSE: Duration = Duration::from_secs(2);
/// How long the other processes may take to end after the first one has.
const LAST_ONES: Duration = Duration::from_secs(10);
/// The same after the first one was interrupted: whoever is left then may be killed.
const INTERRUPTED_ONES: Duration = Duration::from_secs(1);

/// What processes of one start have to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// They compute one answer, and the first one has it.
    Together,
    /// Each has a part of the work, and is done when that is.
    Apart,
}

/// Starts this command again as each of the processes, and looks after them until the computation has
/// ended.
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

/// Events of processes that may wait for the supervisor, which may itself wait for the reader of its messages:
/// a few minutes of them.
pub(super) const EVENTS_MAX: usize = 1024;

pub(super) struct Supervisor<C> {
    processes: usize,
    hang_timeout: Duration,
    restarts: Option<Backoff>,
    work: Work,
    /// How a process is started.
    command: C,
    sender: SyncSender<Event>,
    events: Receiver<Event>,
    messages: Messages,
    /// How often they were started.
    start: u64,
    interrupted: bool,
}

/// How a start of all processes has ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// As the first process says.
    Answer(Exit),
    /// One has failed, so all did.
    Failed {
        cause: String,
        exit: Exit,
        /// Whether it has said itself why.
        said: bool,
    },
}

fn failed(cause: String) -> Ending {
    Ending::Failed { cause, exit: Exit::Failed, said: false }
}

/// How a process has ended, in words.
fn in_words(status: ExitStatus) -> String {
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

/// Whether the same may go well another time: nothing is wrong with options and files.
fn may_go_well(exit: Exit) -> bool {
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

    /// Starts the processes, and starts them again if they fail and that is wanted.
    pub(super) fn run(&mut self) -> Outcome {
        loop {
            self.start += 1;
            let began = Instant::now();
            let mut group = Group::start(self.processes, self.start, &self.command, &self.sender)?;
            let ending = self.look_after(&mut group)?;
            // Who is left is of no use any more.
            drop(group);
            let (cause, exit, said) = match ending {
                Ending::Answer(exit) => return Ok(exit),
                Ending::Failed { cause, exit, said } => (cause, exit, said),
            };
            let Some(backoff) = self.restarts.as_mut().filter(|_| may_go_well(exit)) else {
                return if said { Ok(exit) } else { Err(self.give_up(&cause, exit)) };
            };
            if self.interrupted {
                return Err(self.give_up(&cause, exit));
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

    fn give_up(&self, cause: &str, exit: Exit) -> Failure {
        let others = if self.processes > 1 { ": all processes were ended" } else { "" };
        Failure::new(exit, anyhow!("{cause}{others}"))
    }

    /// Waits, and tells if the interrupt key has ended that.
    fn interrupted_within(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Interrupt) => return true,
                // Of processes that are gone.
                Ok(Event::Member { .. }) => {}
                Err(_) => return false,
            }
        }
    }

    /// Waits until it is known how it ends.
    fn look_after(&mut self, group: &mut Group) -> anyhow::Result<Ending> {
        let (hang_timeout, work) = (self.hang_timeout, self.work);
        let mut watch = Look { hang_timeout, work, answer: None, lost: None, signalled: None };
        let mut awake = Instant::now();
        loop {
            // This process sleeps for less. It was stopped too, and has heard of nobody.
            if awake.elapsed() > self.hang_timeout / 2 {
                group.forgive_silence();
            }
            awake = Instant::now();
            let event = match self.events.try_recv() {
                Ok(event) => event,
                Err(_) => {
                    let Some(until) = watch.until(group) else {
                        // All have ended.
                        return Ok(watch.ending());
                    };
                    if until <= awake {
                        return Ok(watch.timed_out(group, awake));
                    }
                    let nap = (until - awake).min(self.hang_timeout / 4);
                    match self.events.recv_timeout(nap) {
                        Ok(event) => event,
                        Err(_) => continue,
                    }
                }
            };
            match event {
                // Pressed a second time, it ends them at once.
                Event::Interrupt if self.interrupted => {
                    return Ok(Ending::Answer(Exit::Interrupted));
                }
                Event::Interrupt => {
                    self.interrupted = true;
                    group.interrupt(match self.work {
                        // It will end the others in good order.
                        Work::Together => 1,
                        Work::Apart => self.processes,
                    });
                    if watch.signalled.is_some() {
                        return Ok(Ending::Answer(Exit::Interrupted));
                    }
                }
                Event::Member { start, .. } if start != self.start => {}
                Event::Member { process, seen, .. } => {
                    let ended = group
                        .see(process, seen)
                        .with_context(|| format!("looking after process {process}"))?;
                    if let Some(status) = ended
                        && let Some(ending) = watch.end_of(group, process, status, self.interrupted)
                    {
                        return Ok(ending);
                    }
                }
            }
        }
    }
}

/// What is known of the end.
struct Look {
    hang_timeout: Duration,
    work: Work,
    /// The answer of the first process, and until when the others may end; of processes that work apart,
    /// what those that have ended came to, and the others take their time.
    answer: Option<(Exit, Option<Instant>)>,
    /// Which process has lost which, and until when it may become clear why.
    lost: Option<(usize, usize, Instant)>,
    /// How a process was ended by a signal that interrupts, in words, and until when this process may hear
    /// of the same: a terminal sends it to all of them, and nobody knows who gets it first.
    signalled: Option<(String, Instant)>,
}

impl Look {
    /// When silence will mean something; `None` if nobody is left to hear of.
    fn until(&self, group: &Group) -> Option<Instant> {
        let silent = group.longest_silent().map(|(_, heard)| heard + self.hang_timeout);
        let lost = self.lost.map(|(_, _, until)| until);
        let answer = self.answer.and_then(|(_, until)| until);
        let signalled = self.signalled.as_ref().map(|(_, until)| *until);
        if silent.is_none() {
            return signalled;
        }
        [silent, lost, answer, signalled].into_iter().flatten().min()
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
            Some((process, heard)) if heard + self.hang_timeout <= now => failed(format!(
                "process {process} gave no sign of life for {:?}",
                self.hang_timeout
            )),
            _ if self.answer.is_some_and(|(exit, _)| exit == Exit::Interrupted) => self.ending(),
            Some((process, _)) => {
                failed(format!("process {process} did not end within {LAST_ONES:?} of process 0"))
            }
            None => self.ending(),
        }
    }

    /// The end if all that can be known is known.
    fn ending(&self) -> Ending {
        match (self.answer, self.lost) {
            (Some((exit, _)), _) => Ending::Answer(exit),
            (None, Some((process, other, _))) => {
                failed(format!("process {process} lost its connection to process {other}"))
            }
            (None, None) => failed("all processes ended, and none with an answer".into()),
        }
    }

    /// What the end of a process means for all.
    fn end_of(
        &mut self,
        group: &Group,
        process: usize,
        status: ExitStatus,
        interrupted: bool,
    ) -> Option<Ending> {
        let cause = || format!("process {process} {}", in_words(status));
        let signals = [Signal::SIGINT as i32, Signal::SIGTERM as i32];
        if status.signal().is_some_and(|signal| signals.contains(&signal)) {
            // It was interrupted before it could listen for that.
            if interrupted {
                return Some(Ending::Answer(Exit::Interrupted));
            }
            let until = Instant::now() + FIRST_CAUSE;
            self.signalled.get_or_insert_with(|| (cause(), until));
            return None;
        }
        let reports = group.reports(process);
        if reports.contains(&Report::Panicked) {
            return Some(failed(format!("process {process} panicked")));
        }
        let lost = reports.iter().find_map(|report| match report {
            Report::Lost(other) => Some(*other),
            Report::Beat | Report::Panicked => None,
        });
        if let Some(other) = lost {
            if self.answer.is_none() && self.lost.is_none() {
                self.lost = Some((process, other, Instant::now() + FIRST_CAUSE));
            }
            return None;
        }
        let exit = status.code().and_then(Exit::of_code);
        match exit {
            Some(exit @ (Exit::Done | Exit::Violations | Exit::BadData | Exit::Interrupted))
                if self.work == Work::Apart =>
            {
                let others = self.answer.map_or(Exit::Done, |(exit, _)| exit);
                self.answer = Some((others.or(exit), None));
                None
            }
            Some(exit @ (Exit::Done | Exit::Violations | Exit::BadData | Exit::Interrupted))
                if process == 0 =>
            {
                let wait = match exit {
                    // It may have been before they had met, and they wait for it.
                    Exit::Interrupted => INTERRUPTED_ONES,
                    _ => LAST_ONES,
                };
                self.answer = Some((exit, Some(Instant::now() + wait)));
                None
            }
            Some(Exit::Done) => None,
            Some(exit) => Some(Ending::Failed { cause: cause(), exit, said: true }),
            None => Some(failed(cause())),
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
