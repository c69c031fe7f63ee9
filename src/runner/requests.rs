//! Requests to a computation: their route to the leader, and the responses at a tick.
//!
//! ```text
//!  RequestQueue ─▶ Requests: wait for a tick ──reads──▶ the computation ──closed tick──▶ Facts of that tick
//! ```
//!
//! The leader returns only the facts of the tick; the caller turns them into a response on a thread of its own.
//! Limits, windows and amounts are those of one tick.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use floodmark_dataflows::reads::{Amounts, Chunk, Read, RequestId};
use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::Pair;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::limits::catalog::Catalog;
use crate::limits::explain::{self, Facts};
use crate::output::difference::Shown;
use crate::output::{WriteError, explanation};
use crate::sink::{ClosedTick, Sink};
use crate::source::Filter;

/// Maximum number of questions that wait for their answers: fewer than the connections of a server, so that the
/// other pages stay available.
const QUESTIONS_MAX: usize = 32;

/// Minimum spacing of ticks that begin for questions alone: many questions share one.
const APART: Duration = Duration::from_millis(20);

/// Share of the leader's time, one part in this many, that looking up the reads of questions may take: limits
/// change meanwhile, and there may be very many of them.
const PART: u32 = 10;

/// The question which limits apply to a pair in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The pair.
    pub pair: Pair,
    /// A time in the window, in milliseconds since 1970; `None`: the current window.
    pub at_ms: Option<u64>,
    /// Whether the answer lists the limits that do not apply as well.
    pub all: bool,
}

/// Writes a JSON object, part by part.
pub type WriteObject = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// The answer to a question.
pub struct Answer {
    /// The tick for which it holds.
    pub as_of: u64,
    /// Writes the answer, on a thread that may wait.
    pub object: WriteObject,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("as_of", &self.as_of).finish_non_exhaustive()
    }
}

/// The reason why a question is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only another process has the limits.
    #[error(
        "this is process {process}, and only process 0 knows the limits: ask it (with plain -n it \
         serves at the port of this process less {process})"
    )]
    Elsewhere {
        /// The number of this process.
        process: usize,
    },
    /// The run has not started yet.
    #[error("the run has not begun yet: ask again in a moment")]
    NotBegun,
    /// Too many questions wait.
    #[error("too many questions wait for their answers: ask again in a moment")]
    Busy,
    /// No window holds the time.
    #[error("no window holds the time of \"at\": give one that records can have")]
    NoWindow,
    /// The run ends.
    #[error("the run ends, and answers nothing any more")]
    Ended,
}

/// An answer on its way.
pub type Answering = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;

/// The sending half of the queue of questions to the leader.
#[derive(Clone)]
pub(super) struct RequestQueue {
    send: Sender<Asked>,
    places: Arc<Semaphore>,
    /// The leader's thread, which may be parked.
    leader: Arc<OnceLock<Thread>>,
}

/// A question on its way to the leader.
pub struct Asked {
    question: Question,
    reply: oneshot::Sender<Result<Facts, Refusal>>,
    /// Permit of one of the [`QUESTIONS_MAX`] places, returned when this is dropped.
    _place: Option<OwnedSemaphorePermit>,
}

/// The facts that answer a question, on their way.
pub type Reply = oneshot::Receiver<Result<Facts, Refusal>>;

impl Asked {
    /// Creates a question that nobody else competes with, and returns its answer, too.
    pub fn alone(question: Question) -> (Self, Reply) {
        let (reply, facts) = oneshot::channel();
        (Asked { question, reply, _place: None }, facts)
    }
}

impl RequestQueue {
    /// Creates the queue. The leader gets the receiver.
    pub(super) fn new(leader: Arc<OnceLock<Thread>>) -> (Self, Receiver<Asked>) {
        let (send, asked) = channel();
        (RequestQueue { send, places: Arc::new(Semaphore::new(QUESTIONS_MAX)), leader }, asked)
    }

    /// Sends a question to the leader, and returns its answer as a future.
    pub(super) fn ask(&self, question: Question) -> Answering {
        let all = question.all;
        let facts = self.hand_over(question);
        Box::pin(async move {
            // A dropped channel without a reply means that the leader has ended.
            let facts = facts?.await.map_err(|_| Refusal::Ended)??;
            let as_of = facts.tick;
            // There may be many limits, and others ask, too: the server decides when to make the response.
            let object =
                move |out: &mut dyn Write| explanation::write(&explain::explain(&facts), all, out);
            Ok(Answer { as_of, object: Box::new(object) })
        })
    }

    fn hand_over(&self, question: Question) -> Result<Reply, Refusal> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let (reply, facts) = oneshot::channel();
        let asked = Asked { question, reply, _place: Some(place) };
        self.send.send(asked).map_err(|_| Refusal::Ended)?;
        if let Some(leader) = self.leader.get() {
            leader.unpark();
        }
        Ok(facts)
    }
}

/// The leader's unanswered questions.
pub(super) struct Requests {
    rules: Windows,
    filter: Filter,
    asked: Option<Receiver<Asked>>,
    /// Questions for the next tick.
    waiting: Vec<Asked>,
    /// Time at which a tick last took questions, and the duration of that.
    taken: Option<(Instant, Duration)>,
    /// Questions in ticks that are in flight.
    rounds: VecDeque<Round>,
    /// Requests whose responses nobody wants any more, with their ticks.
    cancelled: Vec<(u64, RequestId)>,
}

/// The questions that a tick answers by one request, and the limits of that tick.
struct Round {
    tick: u64,
    request: RequestId,
    asked: Vec<(Asked, Window)>,
    catalog: Arc<Catalog>,
    amounts: Amounts,
}

impl Requests {
    /// Creates the queue; windows follow these rules, and the filter says which pairs count.
    pub(super) fn new(asked: Option<Receiver<Asked>>, rules: Windows, filter: Filter) -> Self {
        Requests {
            rules,
            filter,
            asked,
            waiting: Vec::new(),
            taken: None,
            rounds: VecDeque::new(),
            cancelled: Vec::new(),
        }
    }

    /// Adds a question.
    pub(super) fn add(&mut self, asked: Asked) {
        self.waiting.push(asked);
    }

    /// Receives new questions. Drops those whose caller no longer waits, which frees their places, and cancels requests
    /// that were made for these alone.
    pub(super) fn receive(&mut self) {
        if let Some(asked) = &self.asked {
            self.waiting.extend(asked.try_iter());
        }
        self.waiting.retain(|asked| !asked.reply.is_closed());
        for round in self.rounds.iter_mut().filter(|round| !round.asked.is_empty()) {
            round.asked.retain(|(asked, _)| !asked.reply.is_closed());
            if round.asked.is_empty() {
                self.cancelled.push((round.tick, round.request));
            }
        }
    }

    /// Whether questions wait for a tick.
    pub(super) fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns the next request that is to be cancelled, and its tick.
    pub(super) fn cancelled(&mut self) -> Option<(u64, RequestId)> {
        self.cancelled.pop()
    }

    /// Accepts a chunk of a response. Returns one that belongs to a request of somebody else.
    pub(super) fn respond(&mut self, request: RequestId, chunk: Chunk) -> Result<(), Chunk> {
        let mut rounds = self.rounds.iter_mut();
        match (rounds.find(|round| round.request == request), chunk) {
            (Some(round), Chunk::Amount { window, rollup, entity, volume }) => {
                let sum = round.amounts.entry((window, rollup, entity)).or_default();
                *sum = sum.saturating_add(volume);
                Ok(())
            }
            (_, chunk) => Err(chunk),
        }
    }

    /// Returns the time until a tick may begin for questions; `None` if there are no questions.
    pub(super) fn until_tick(&self) -> Option<Duration> {
        let apart = |(taken, took): (Instant, Duration)| {
            APART.max(took * PART).saturating_sub(taken.elapsed())
        };
        (!self.waiting.is_empty()).then(|| self.taken.map_or(Duration::ZERO, apart))
    }

    /// Takes the waiting questions for a tick, and returns the reads of the request that answers them. `catalog` has the
    /// limits of the tick; `current` is the window of a question that names none.
    pub(super) fn begin_tick(
        &mut self,
        tick: u64,
        request: RequestId,
        current: Option<Window>,
        catalog: &Arc<Catalog>,
    ) -> Vec<Read> {
        let began = Instant::now();
        let (mut reads, mut round) = (BTreeSet::new(), Vec::new());
        for asked in self.waiting.drain(..) {
            let window = match asked.question.at_ms {
                Some(at) => self.rules.of(at),
                None => current,
            };
            let Some(window) = window else {
                let _ = asked.reply.send(Err(Refusal::NoWindow));
                continue;
            };
            let limits = catalog.in_force(explain::judged_at(&self.rules, window, tick));
            reads.extend(explain::reads(limits, &asked.question.pair, window));
            round.push((asked, window));
        }
        self.taken = Some((began, began.elapsed()));
        let (catalog, amounts) = (catalog.clone(), Amounts::new());
        self.rounds.push_back(Round { tick, request, asked: round, catalog, amounts });
        reads.into_iter().collect()
    }
}

impl Sink for Requests {
    fn changes(&mut self, _: &Shown<'_>, _: &Catalog) -> Result<(), WriteError> {
        Ok(())
    }

    /// Answers the questions of the tick.
    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        let ClosedTick { tick, windows, .. } = *closed;
        let Some(round) = self.rounds.pop_front_if(|round| round.tick == tick) else {
            return Ok(());
        };
        let amounts = Arc::new(round.amounts);
        for (asked, window) in round.asked {
            let pair = asked.question.pair;
            // The receiver may have disconnected; then nobody waits for the answer.
            let _ = asked.reply.send(Ok(Facts {
                tick,
                rules: self.rules,
                watermark: windows.watermark,
                pair,
                counted: self.filter.admits(&pair),
                window,
                existing: windows.existing(window),
                catalog: round.catalog.clone(),
                amounts: amounts.clone(),
            }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_beyond_the_bound_are_refused_until_others_are_gone() {
        let (questions, asked) = RequestQueue::new(Arc::default());
        let ask = || {
            let pair = Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
            questions.hand_over(Question { pair, at_ms: None, all: false })
        };
        let mut waiting: Vec<_> = (0..QUESTIONS_MAX).map(|_| ask().expect("a place")).collect();
        let mut pending = Requests::new(Some(asked), Windows::default(), Filter::default());
        pending.receive();
        assert!(matches!(ask(), Err(Refusal::Busy)));
        assert_eq!(pending.waiting.len(), QUESTIONS_MAX);
        drop(waiting.pop());
        pending.receive();
        waiting.push(ask().expect("the place of the one that has gone"));
        assert!(matches!(ask(), Err(Refusal::Busy)));
    }

    /// A request that was made for two questions is cancelled when the second caller has gone, too.
    #[test]
    fn request_is_cancelled_when_nobody_waits_for_its_response() {
        let pair = Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let question = || Asked::alone(Question { pair, at_ms: Some(0), all: false });
        let mut requests = Requests::new(None, Windows::default(), Filter::default());
        let [(first, first_reply), (second, second_reply)] = [question(), question()];
        requests.add(first);
        requests.add(second);
        requests.begin_tick(7, RequestId(3), None, &Arc::default());
        drop(first_reply);
        requests.receive();
        assert_eq!(requests.cancelled(), None);
        drop(second_reply);
        requests.receive();
        assert_eq!(requests.cancelled(), Some((7, RequestId(3))));
        requests.receive();
        assert_eq!(requests.cancelled(), None, "it is cancelled once");
        let chunk = Chunk::Held { pairs: 1, rollups: 0, addresses: 0 };
        assert_eq!(requests.respond(RequestId(4), chunk.clone()), Err(chunk));
    }
}
