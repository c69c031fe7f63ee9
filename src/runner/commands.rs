//! The commands of the leader to all workers, and the signals of workers to the leader.
//!
//! Only the leader gives commands, so that they have one order. Each worker applies them in that order; the leader's
//! own worker applies a command as soon as it is given. Limits and reads stay on that worker: the computation
//! broadcasts them itself, at the tick that they enter
//! ([decision 11](../../docs/decisions/0011-the-leader-gives-commands.md)).
//!
//! Both directions travel in a dataflow of their own, beside the computation, so that they reach other processes by
//! the same connections.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::reads::{Read, RequestId};
use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::Version;
use serde::{Deserialize, Serialize};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Operator;
use timely::dataflow::operators::vec::input::Handle;
use timely::dataflow::operators::vec::{Broadcast, Input};
use timely::worker::Worker;

use crate::base::error::Exit;
use crate::source::{LeaderTime, ReadingRules};
use crate::state::{PartsRequest, Position, SavedPart, WrittenParts};

/// A tick that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickStart {
    /// In milliseconds; later than those before.
    pub tick: u64,
    /// The leader's time.
    pub time: LeaderTime,
    /// Whether the tick takes the records that a worker has; a tick for edits of limits does not wait for them.
    pub takes_records: bool,
}

impl TickStart {
    /// Returns the start of a tick of event time, which takes records however far they are in the future.
    pub fn of_records(tick: u64) -> Self {
        let time = LeaderTime { now: tick, horizon: u64::MAX, undecided: false };
        TickStart { tick, time, takes_records: true }
    }
}

/// The state from which all workers continue an earlier run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResumePlan {
    /// The position in each partition.
    pub positions: BTreeMap<u32, Position>,
    /// Whether no tick has begun since reading began there.
    pub is_first: bool,
    /// The rules by which the earlier run read its records.
    pub rules: Option<ReadingRules>,
    /// The time of the last tick that took records.
    pub time: Option<LeaderTime>,
    /// The files of totals, and the windows that these are of.
    pub parts: Vec<(Window, SavedPart)>,
    /// Whether ticks of the earlier run are repeated.
    pub repeats: bool,
    /// The ticks up to which records are in the totals of each window.
    pub counted: BTreeMap<Window, u64>,
}

/// A tick of an earlier run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RepeatedTick {
    pub(super) start: TickStart,
    /// The rules by which it reads its records, if they have changed.
    pub(super) rules: Option<ReadingRules>,
    /// The names of the outputs, if they have changed.
    pub(super) outputs: Option<Vec<String>>,
    pub(super) marks: Vec<SourceProgress>,
    /// Whether no other tick is repeated after it.
    pub(super) is_last: bool,
}

/// A command of the leader.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// Enters edits of limits in a tick, which begins if it has not begun yet.
    Limits { tick: u64, edits: Vec<(Version, isize)> },
    /// Enters a request for the state at the end of a tick, which begins if it has not begun yet.
    Read { tick: u64, request: RequestId, reads: Vec<Read> },
    /// Cancels a request of a tick, whose response nobody wants any more.
    Cancel { tick: u64, request: RequestId },
    /// Continues an earlier run from its state. The first command of a run with a state.
    Resume(Box<ResumePlan>),
    /// Completes a tick before the one of the state: each worker puts in some of the totals that it reads.
    Load { tick: u64 },
    /// Completes a tick of the earlier run: each worker puts in what that tick took.
    Repeat(Box<RepeatedTick>),
    /// Has the totals of windows written, which the tick that begins reads by this request.
    Save { request: RequestId, parts: PartsRequest },
    /// Completes a tick: each worker puts in what its source has.
    Tick(TickStart),
    /// Has the ticks since the last round computed. All workers have the same rounds
    /// ([decision 9](../../docs/decisions/0009-rounds-of-ticks.md)).
    EndRound,
    /// Ends the run when all ticks are closed.
    End,
}

/// A command that concerns all workers.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Broadcasted {
    Resume(Box<ResumePlan>),
    Load { tick: u64 },
    Repeat(Box<RepeatedTick>),
    Save { request: RequestId, parts: PartsRequest },
    Tick(TickStart),
    Cancel { tick: u64, request: RequestId },
    EndRound,
    End,
}

/// A signal of a worker to the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum WorkerSignal {
    /// The next tick should begin now: the worker has no capacity for more records, or others wait for the records
    /// it has read.
    NeedsTick,
    /// Ticks have taken everything that the worker's input held when it was opened, but for these messages
    /// ([`Source::left_out_at_end`](crate::source::Source::left_out_at_end)).
    ReachedEnd { left_out: u64 },
    /// The worker has put in all totals that it reads.
    Loaded,
    /// The worker has written the totals of a request.
    Written(WrittenParts),
    /// The process of the worker received an interrupt: the run should shut down.
    Interrupted,
    /// The worker can't go on: the run should shut down with this exit code, for this reason.
    Failed { exit: Exit, why: String },
}

type Received<T> = Rc<RefCell<VecDeque<T>>>;

/// A worker's handles of the dataflow of commands.
struct Channel {
    /// The number of all workers.
    workers: usize,
    commands: Handle<u64, Broadcasted>,
    signals: Handle<u64, WorkerSignal>,
}

/// The commands, at one worker.
#[derive(Default)]
pub(super) struct Commands {
    /// `None` if no other worker has a part in the input.
    channel: Option<Channel>,
    received_commands: Received<Broadcasted>,
    received_signals: Received<WorkerSignal>,
}

impl Commands {
    /// Builds the dataflow. Each worker must do so, in the same order among its dataflows.
    pub(super) fn build(worker: &mut Worker) -> Self {
        let (received_commands, received_signals) = (Received::default(), Received::default());
        let (leads, workers) = (worker.index() == 0, worker.peers());
        let channel = worker.dataflow_named("Commands", |scope| {
            let (commands, command_stream) = scope.new_input();
            let (signals, signal_stream) = scope.new_input();
            let to = received_commands.clone();
            command_stream.broadcast().sink(Pipeline, "ReceiveCommands", move |(input, _)| {
                input.for_each(|_, data| {
                    // The leader has applied its commands when it gave them.
                    if !leads {
                        to.borrow_mut().extend(data.drain(..));
                    }
                });
            });
            let to = received_signals.clone();
            signal_stream.sink(Exchange::new(|_| 0), "ReceiveSignals", move |(input, _)| {
                input.for_each(|_, data| to.borrow_mut().extend(data.drain(..)));
            });
            Channel { workers, commands, signals }
        });
        Commands { channel: Some(channel), received_commands, received_signals }
    }

    /// Returns the number of workers that have a part in the input.
    pub(super) fn workers(&self) -> usize {
        self.channel.as_ref().map_or(1, |channel| channel.workers)
    }

    /// Sends a command to the workers that it concerns. Only the leader does.
    pub(super) fn send(&mut self, command: &Command) {
        let Some(Channel { commands, .. }) = &mut self.channel else { return };
        commands.send(match command {
            Command::Limits { .. } | Command::Read { .. } => return,
            Command::Resume(plan) => Broadcasted::Resume(plan.clone()),
            Command::Load { tick } => Broadcasted::Load { tick: *tick },
            Command::Repeat(tick) => Broadcasted::Repeat(tick.clone()),
            Command::Save { request, parts } => {
                Broadcasted::Save { request: *request, parts: parts.clone() }
            }
            Command::Tick(start) => Broadcasted::Tick(*start),
            Command::Cancel { tick, request } => {
                Broadcasted::Cancel { tick: *tick, request: *request }
            }
            Command::EndRound => Broadcasted::EndRound,
            Command::End => Broadcasted::End,
        });
        commands.flush();
    }

    /// Returns the leader's next command; on its own worker there is none.
    pub(super) fn next(&mut self) -> Option<Command> {
        Some(match self.received_commands.borrow_mut().pop_front()? {
            Broadcasted::Resume(plan) => Command::Resume(plan),
            Broadcasted::Load { tick } => Command::Load { tick },
            Broadcasted::Repeat(tick) => Command::Repeat(tick),
            Broadcasted::Save { request, parts } => Command::Save { request, parts },
            Broadcasted::Tick(start) => Command::Tick(start),
            Broadcasted::Cancel { tick, request } => Command::Cancel { tick, request },
            Broadcasted::EndRound => Command::EndRound,
            Broadcasted::End => Command::End,
        })
    }

    /// Whether the leader's command to end waits.
    pub(super) fn has_end(&self) -> bool {
        self.received_commands.borrow().iter().any(|command| matches!(command, Broadcasted::End))
    }

    /// Sends a signal to the leader.
    pub(super) fn signal(&mut self, signal: WorkerSignal) {
        let Some(Channel { signals, .. }) = &mut self.channel else {
            self.received_signals.borrow_mut().push_back(signal);
            return;
        };
        signals.send(signal);
        // To flush is not enough: the exchange that follows forwards only when a time is over.
        let next = signals.time() + 1;
        signals.advance_to(next);
    }

    /// Returns the next signal of a worker, for the leader.
    pub(super) fn next_signal(&mut self) -> Option<WorkerSignal> {
        self.received_signals.borrow_mut().pop_front()
    }
}
