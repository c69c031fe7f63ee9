//! Questions to a run: their route to the leader, and the answers at a tick.
//!
//! ```text
//!  Questions ─▶ Pending: wait for a tick ──put──▶ the computation ──done──▶ Facts of that tick
//! ```
//!
//! The leader returns only the facts of the tick; the caller turns them into a response on a thread of its own.
//! Limits, windows and amounts are those of one tick.

use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use floodmark_dataflows::graph::Inputs;
use floodmark_dataflows::reads::Amounts;
use floodmark_dataflows::time::{Window, Windows};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::computation::WindowStates;
use crate::http::{Answer, Answering, Question, Refusal};
use crate::limits::catalog::Catalog;
use crate::limits::explain::{self, Facts};
use crate::output::explanation;
use crate::replay::Filter;

/// Maximum number of questions that wait for their answers: fewer than the connections of a server, so that the
/// other pages stay available.
const QUESTIONS_MAX: usize = 32;

/// Minimum spacing of ticks that begin for questions alone: many questions share one.
const APART: Duration = Duration::from_millis(20);

/// Share of the leader's time, one part in this many, that looking up the reads of questions may take: limits
/// change meanwhile, and there may be very many of them.
const PART: u32 = 10;

/// The sending half of the queue of questions to the leader.
#[derive(Clone)]
pub(super) struct Questions {
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
    _place: OwnedSemaphorePermit,
}

impl Questions {
    /// Creates the queue. The leader gets the receiver.
    pub(super) fn new(leader: Arc<OnceLock<Thread>>) -> (Self, Receiver<Asked>) {
        let (send, asked) = channel();
        (Questions { send, places: Arc::new(Semaphore::new(QUESTIONS_MAX)), leader }, asked)
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

    fn hand_over(
        &self,
        question: Question,
    ) -> Result<oneshot::Receiver<Result<Facts, Refusal>>, Refusal> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let (reply, facts) = oneshot::channel();
        let asked = Asked { question, reply, _place: place };
        self.send.send(asked).map_err(|_| Refusal::Ended)?;
        if let Some(leader) = self.leader.get() {
            leader.unpark();
        }
        Ok(facts)
    }
}

/// The leader's unanswered questions.
#[derive(Default)]
pub(super) struct Pending {
    asked: Option<Receiver<Asked>>,
    /// Questions for the next tick.
    waiting: Vec<Asked>,
    /// Time at which a tick last took questions, and the duration of that.
    taken: Option<(Instant, Duration)>,
    /// Questions in ticks that are in flight.
    rounds: VecDeque<Round>,
}

/// The questions that a tick answers, and the limits of that tick.
struct Round {
    tick: u64,
    asked: Vec<(Asked, Window)>,
    catalog: Arc<Catalog>,
}

impl Pending {
    pub(super) fn new(asked: Option<Receiver<Asked>>) -> Self {
        Pending { asked, ..Pending::default() }
    }

    /// Receives new questions. Drops those whose caller no longer waits, which frees their places.
    pub(super) fn hear(&mut self) {
        if let Some(asked) = &self.asked {
            self.waiting.extend(asked.try_iter());
        }
        self.waiting.retain(|asked| !asked.reply.is_closed());
        for round in &mut self.rounds {
            round.asked.retain(|(asked, _)| !asked.reply.is_closed());
        }
    }

    /// Returns the time until a tick may begin for questions; `None` if there are no questions.
    pub(super) fn until_tick(&self) -> Option<Duration> {
        let apart = |(taken, took): (Instant, Duration)| {
            APART.max(took * PART).saturating_sub(taken.elapsed())
        };
        (!self.waiting.is_empty()).then(|| self.taken.map_or(Duration::ZERO, apart))
    }

    /// Puts the waiting questions into the current tick; `catalog` has its limits.
    pub(super) fn put(&mut self, inputs: &mut Inputs, rules: &Windows, catalog: &Arc<Catalog>) {
        self.hear();
        if self.waiting.is_empty() {
            return;
        }
        let began = Instant::now();
        let tick = inputs.tick();
        let (mut reads, mut round) = (BTreeSet::new(), Vec::new());
        for asked in self.waiting.drain(..) {
            let Some(window) = rules.of(asked.question.at_ms.unwrap_or(tick)) else {
                let _ = asked.reply.send(Err(Refusal::NoWindow));
                continue;
            };
            let limits = catalog.in_force(explain::judged_at(rules, window, tick));
            reads.extend(explain::reads(limits, &asked.question.pair, window));
            round.push((asked, window));
        }
        self.taken = Some((began, began.elapsed()));
        reads.into_iter().for_each(|read| inputs.read(read));
        self.rounds.push_back(Round { tick, asked: round, catalog: catalog.clone() });
    }

    /// Answers the questions of a completed tick with these amounts.
    pub(super) fn done(
        &mut self,
        tick: u64,
        amounts: Amounts,
        windows: &WindowStates,
        rules: Windows,
        filter: &Filter,
    ) {
        let Some(round) = self.rounds.pop_front_if(|round| round.tick == tick) else {
            return;
        };
        let amounts = Arc::new(amounts);
        for (asked, window) in round.asked {
            let pair = asked.question.pair;
            // The receiver may have disconnected; then nobody waits for the answer.
            let _ = asked.reply.send(Ok(Facts {
                tick,
                rules,
                watermark: windows.watermark,
                pair,
                counted: filter.admits(&pair),
                window,
                existing: windows.existing(window),
                catalog: round.catalog.clone(),
                amounts: amounts.clone(),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::types::Pair;

    use super::*;

    #[test]
    fn questions_beyond_the_bound_are_refused_until_others_are_gone() {
        let (questions, asked) = Questions::new(Arc::default());
        let ask = || {
            let pair = Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
            questions.hand_over(Question { pair, at_ms: None, all: false })
        };
        let mut waiting: Vec<_> = (0..QUESTIONS_MAX).map(|_| ask().expect("a place")).collect();
        let mut pending = Pending::new(Some(asked));
        pending.hear();
        assert!(matches!(ask(), Err(Refusal::Busy)));
        assert_eq!(pending.waiting.len(), QUESTIONS_MAX);
        drop(waiting.pop());
        pending.hear();
        waiting.push(ask().expect("the place of the one that has gone"));
        assert!(matches!(ask(), Err(Refusal::Busy)));
    }
}
