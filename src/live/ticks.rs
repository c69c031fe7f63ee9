//! Tick agreement among the workers of a live run.
//!
//! Only the leader begins ticks. It announces each tick to all workers; a worker puts what it has gathered into the
//! tick when the announcement arrives. In the other direction, workers send requests to the leader. Both travel in
//! a dataflow of their own, beside the computation, so that they reach other processes by the same connections.

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

/// The leader's announcement that a tick begins.
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

/// A request of a worker to the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TickRequest {
    /// A tick, now: the worker has no capacity for more records, or others wait for the records it has read.
    Tick,
    /// The end of the run: this process received an interrupt.
    End,
    /// The end of the run with this exit code, for this reason.
    Failure { exit: Exit, why: String },
}

type Heard<T> = Rc<RefCell<VecDeque<T>>>;

/// A worker's handles of the dataflow of ticks.
pub(super) struct Ticks {
    announcements: Handle<u64, Announcement>,
    requests: Handle<u64, TickRequest>,
    announced: Heard<Announcement>,
    requested: Heard<TickRequest>,
}

impl Ticks {
    /// Builds the dataflow. Each worker must do so, in the same order among its dataflows.
    pub(super) fn build(worker: &mut Worker) -> Self {
        let announced = Heard::default();
        let requested = Heard::default();
        let (announcements, requests) = worker.dataflow_named("Ticks", |scope| {
            let (announcements, announcement_stream) = scope.new_input();
            let (requests, request_stream) = scope.new_input();
            let to = announced.clone();
            announcement_stream.broadcast().sink(Pipeline, "Announced", move |(input, _)| {
                input.for_each(|_, data| to.borrow_mut().extend(data.drain(..)));
            });
            let to = requested.clone();
            request_stream.sink(Exchange::new(|_| 0), "Requested", move |(input, _)| {
                input.for_each(|_, data| to.borrow_mut().extend(data.drain(..)));
            });
            (announcements, requests)
        });
        Ticks { announcements, requests, announced, requested }
    }

    /// Sends an announcement to all workers. Only the leader does.
    pub(super) fn announce(&mut self, announcement: Announcement) {
        self.announcements.send(announcement);
        self.announcements.flush();
    }

    /// Returns the next announced tick.
    pub(super) fn next(&mut self) -> Option<Announcement> {
        self.announced.borrow_mut().pop_front()
    }

    /// Sends a request to the leader.
    pub(super) fn request(&mut self, request: TickRequest) {
        self.requests.send(request);
        // To flush is not enough: the exchange that follows forwards only when a time is over.
        let next = self.requests.time() + 1;
        self.requests.advance_to(next);
    }

    /// Returns the next request of a worker, for the leader.
    pub(super) fn next_request(&mut self) -> Option<TickRequest> {
        self.requested.borrow_mut().pop_front()
    }
}
