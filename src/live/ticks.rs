//! How the workers of a live run agree on ticks.
//!
//! The leader, and it alone, begins ticks: it announces each to all workers, and a worker puts what it
//! has into a tick when it hears of it. The other way go wishes. Both travel in a dataflow of their own,
//! beside the computation, so that they reach other processes by the same connections.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Operator;
use timely::dataflow::operators::vec::input::Handle;
use timely::dataflow::operators::vec::{Broadcast, Input};
use timely::worker::Worker;

use crate::base::error::Exit;

/// A tick begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announcement {
    /// In milliseconds; later than those before.
    pub(super) tick: u64,
    /// The time of the leader's clock.
    pub(super) now: u64,
    /// The time from which on `--max-ahead` tells records of the future.
    pub(super) horizon: u64,
    /// Whether nobody knows which records are of the future, so that none is read.
    pub(super) undecided: bool,
    /// Whether the tick takes the records that a worker has; one for a change of limits does not wait
    /// for them.
    pub(super) records: bool,
    /// Whether it is the last one.
    pub(super) last: bool,
}

/// What a worker wants of the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TickRequest {
    /// A tick, now: it has no room for more records, or others wait for what it has read.
    Tick,
    /// An end: the process was asked to end.
    End,
    /// An end with this exit code, for this reason.
    Failure { exit: Exit, why: String },
}

type Heard<T> = Rc<RefCell<VecDeque<T>>>;

/// A worker's part in the agreement.
pub(super) struct Ticks {
    announcements: Handle<u64, Announcement>,
    wishes: Handle<u64, TickRequest>,
    announced: Heard<Announcement>,
    wished: Heard<TickRequest>,
}

impl Ticks {
    /// Builds the dataflow. Each worker must do so, in the same order among its dataflows.
    pub(super) fn build(worker: &mut Worker) -> Self {
        let announced = Heard::default();
        let wished = Heard::default();
        let (announcements, wishes) = worker.dataflow_named("Ticks", |scope| {
            let (announcements, announcement_stream) = scope.new_input();
            let (wishes, wish_stream) = scope.new_input();
            let to = announced.clone();
            announcement_stream.broadcast().sink(Pipeline, "Announced", move |(input, _)| {
                input.for_each(|_, data| to.borrow_mut().extend(data.drain(..)));
            });
            let to = wished.clone();
            wish_stream.sink(Exchange::new(|_| 0), "Wished", move |(input, _)| {
                input.for_each(|_, data| to.borrow_mut().extend(data.drain(..)));
            });
            (announcements, wishes)
        });
        Ticks { announcements, wishes, announced, wished }
    }

    /// Tells all workers. Only the leader does.
    pub(super) fn announce(&mut self, announcement: Announcement) {
        self.announcements.send(announcement);
        self.announcements.flush();
    }

    /// The next tick that has begun.
    pub(super) fn next(&mut self) -> Option<Announcement> {
        self.announced.borrow_mut().pop_front()
    }

    /// Tells the leader.
    pub(super) fn request(&mut self, request: TickRequest) {
        self.wishes.send(request);
        // To flush is not enough: the exchange that follows hands on when a time is over.
        let next = self.wishes.time() + 1;
        self.wishes.advance_to(next);
    }

    /// The next request of a worker, for the leader.
    pub(super) fn next_wish(&mut self) -> Option<TickRequest> {
        self.wished.borrow_mut().pop_front()
    }
}
