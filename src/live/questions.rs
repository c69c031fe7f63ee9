//! Questions to a run: how they get to the leader, and how they are answered at a tick.
//!
//! ```text
//!  Questions ─▶ Pending: wait for a tick ──put──▶ the computation ──done──▶ Facts of that tick
//! ```
//!
//! The leader hands out what is known at the tick, and no more: who has asked makes an answer of it on
//! a thread of his own. Limits, windows and amounts are those of one tick.

use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use floodmark_dataflows::graph::Inputs;
use floodmark_dataflows::orders::Amounts;
use floodmark_dataflows::time::{Window, Windows};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::computation::Course;
use crate::http::{Answer, Answering, Question, Refusal};
use crate::limits::catalog::Catalog;
use crate::limits::explain::{self, Facts};
use crate::output::explanation;
use crate::replay::Filter;

/// Questions that may wait for their answers. Fewer than the connections of a server, so that the other
/// pages are there for others.
const QUESTIONS_MAX: usize = 32;

/// The least distance of ticks that begin for questions alone: many of them share one.
const APART: Duration = Duration::from_millis(20);

/// To find out what to read for questions takes at most this part of the leader's time: limits change
/// meanwhile, and there may be very many of them.
const PART: u32 = 10;

/// Where questions are asked.
#[derive(Clone)]
pub(super) struct Questions {
    send: Sender<Asked>,
    places: Arc<Semaphore>,
    /// It sleeps.
    leader: Arc<OnceLock<Thread>>,
}

/// A question on its way to the leader.
pub struct Asked {
    question: Question,
    reply: oneshot::Sender<Result<Facts, Refusal>>,
    /// One of as many as may wait.
    _place: OwnedSemaphorePermit,
}

impl Questions {
    /// A way to ask the leader, which is to take the other end.
    pub(super) fn new(leader: Arc<OnceLock<Thread>>) -> (Self, Receiver<Asked>) {
        let (send, asked) = channel();
        (Questions { send, places: Arc::new(Semaphore::new(QUESTIONS_MAX)), leader }, asked)
    }

    /// Asks.
    pub(super) fn ask(&self, question: Question) -> Answering {
        let all = question.all;
        let facts = self.hand_over(question);
        Box::pin(async move {
            // Without a word, the leader has ended.
            let facts = facts?.await.map_err(|_| Refusal::Ended)??;
            let as_of = facts.tick;
            // There may be many limits, and others ask, too: the server says when it is made.
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

/// The questions that the leader has.
#[derive(Default)]
pub(super) struct Pending {
    asked: Option<Receiver<Asked>>,
    /// For a tick.
    waiting: Vec<Asked>,
    /// When a tick took some last, and how long that took.
    taken: Option<(Instant, Duration)>,
    /// In ticks that are on their way.
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

    /// Hears what is asked. Who does not wait any more gets no tick, and leaves his place to others.
    pub(super) fn hear(&mut self) {
        if let Some(asked) = &self.asked {
            self.waiting.extend(asked.try_iter());
        }
        self.waiting.retain(|asked| !asked.reply.is_closed());
        for round in &mut self.rounds {
            round.asked.retain(|(asked, _)| !asked.reply.is_closed());
        }
    }

    /// How long until a tick may begin for questions; `None`: there are none.
    pub(super) fn until_tick(&self) -> Option<Duration> {
        let apart = |(taken, took): (Instant, Duration)| {
            APART.max(took * PART).saturating_sub(taken.elapsed())
        };
        (!self.waiting.is_empty()).then(|| self.taken.map_or(Duration::ZERO, apart))
    }

    /// Asks in the current tick, whose limits these are.
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

    /// A tick is done, with these amounts.
    pub(super) fn done(
        &mut self,
        tick: u64,
        amounts: Amounts,
        course: &Course,
        rules: Windows,
        filter: &Filter,
    ) {
        let Some(round) = self.rounds.pop_front_if(|round| round.tick == tick) else {
            return;
        };
        let amounts = Arc::new(amounts);
        for (asked, window) in round.asked {
            let pair = asked.question.pair;
            // Who has gone does not hear it.
            let _ = asked.reply.send(Ok(Facts {
                tick,
                rules,
                watermark: course.watermark,
                pair,
                counted: filter.admits(&pair),
                window,
                existing: course.existing(window),
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
