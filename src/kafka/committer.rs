//! The thread that commits the messages of ticks.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _, PurgeConfig};

use super::fenced::{FencedClients, REQUEST_TIMEOUT, SINGLE, START_TIMEOUT, is_retriable};
use super::guard::{Guard, TopicState};
use super::message::{Outgoing, OwnedMessage};
use super::producer::base_record;
use super::reports::{Refusal, ReturnReason, sending};
use super::tick_log::{LogMessage, TickLog};
use super::tick_queue::{Item, QUEUE_BYTES, Shared};
use super::topics::denied;
use super::transaction_reports::TransactionReports;
use super::{OnRefusal, Refused};
use crate::base::error::{Exit, Failure};

/// Time for which ticks without messages wait for others.
const QUIET_INTERVAL: Duration = Duration::from_secs(1);

/// Pause before a transaction that was aborted is sent again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Time for which a report is expected soon, and the interval at which it is looked for until then.
const QUICK_FOR: Duration = Duration::from_secs(1);
const QUICK_INTERVAL: Duration = Duration::from_millis(1);

/// Longest wait for an event of the client.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Whether this user lacks a right.
fn is_denied(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
    )
}

/// The reason why a transaction is not committed.
enum Stop {
    /// These messages are refused for good, alone or with others of their batch.
    Refused(Vec<(usize, Option<Refusal>)>),
    /// The run ends amid a tick.
    Amid,
    /// The same may succeed later.
    Failed(String),
    /// Nothing succeeds any more.
    Fatal(Failure),
}

/// The content of one transaction.
struct Batch {
    messages: Vec<(usize, OwnedMessage)>,
    bytes: usize,
    /// Whether all messages are kept, so that they can be sent again.
    is_kept: bool,
    /// Messages that were taken out of the queue.
    count: u64,
    /// Whether all messages of the last tick are there.
    is_at_end: bool,
    /// Whether no more ticks are added.
    is_complete: bool,
    ticks: Vec<(u64, Vec<u8>)>,
    /// The messages for the topic of records.
    log: Vec<LogMessage>,
}

impl Default for Batch {
    fn default() -> Self {
        Batch {
            messages: Vec::new(),
            bytes: 0,
            is_kept: true,
            count: 0,
            is_at_end: true,
            is_complete: false,
            ticks: Vec::new(),
            log: Vec::new(),
        }
    }
}

/// The thread.
///
/// Transactions are those of two clients in turn: for some milliseconds after a commit the broker still ends the
/// transaction, and makes a client that begins another one wait for 20 ms.
pub(super) struct Committer {
    id: String,
    topics: Vec<(String, OnRefusal)>,
    log: TickLog,
    clients: FencedClients,
    /// The client of the two whose turn it is.
    turn: usize,
    guards: Vec<Arc<Guard>>,
    shared: Arc<Shared>,
    /// Messages that the client has accepted.
    sent: u64,
    /// Whether each message is sent in a batch of its own, so that the one that is refused is known.
    single_batches: bool,
}

impl Committer {
    pub(super) fn new(
        id: String,
        topics: Vec<(String, OnRefusal)>,
        log: TickLog,
        clients: FencedClients,
        guards: Vec<Arc<Guard>>,
        shared: Arc<Shared>,
    ) -> Self {
        let (turn, sent, single_batches) = (0, 0, false);
        Committer { id, topics, log, clients, turn, guards, shared, sent, single_batches }
    }

    /// The client of the transaction under way, or of the next one.
    fn producer(&self) -> &BaseProducer<TransactionReports> {
        let FencedClients(clients) = &self.clients;
        if self.single_batches { &clients[SINGLE] } else { &clients[self.turn] }
    }

    /// Waits for events of the client. Those of the others would pile up.
    fn poll(&self, at_most: Duration) {
        for client in &self.clients.0 {
            client.poll(Duration::ZERO);
        }
        self.producer().poll(at_most);
    }

    /// Writes to the log that this run publishes from now on, in a transaction of its own.
    pub(super) fn claim(&mut self) -> Result<(), Failure> {
        let claim = [self.log.claim()];
        let until = Instant::now() + START_TIMEOUT;
        let is_late = || Instant::now() >= until;
        let sent = self.begin().and_then(|()| self.send_log(&claim));
        let committed =
            sent.and_then(|()| self.deliver(is_late)).and_then(|()| self.commit(is_late));
        match committed {
            Ok(()) => {
                self.turn = 1 - self.turn;
                Ok(())
            }
            Err(Stop::Fatal(failure)) => Err(failure),
            Err(Stop::Refused(_)) => Err(self.log_is_refused()),
            Err(Stop::Failed(why)) => {
                let topic = &self.log.address().topic;
                let error = anyhow!("claiming topic \"{topic}\" for this run: {why}");
                Err(Failure::new(Exit::Unavailable, error))
            }
            Err(Stop::Amid) => unreachable!("a claim is no part of a tick"),
        }
    }

    /// Commits until nothing more comes, or nothing succeeds any more.
    pub(super) fn run_to_end(&mut self) {
        if let Err(failure) = self.run() {
            let why = (failure.exit, format!("{:#}", failure.error));
            self.shared.queue().failure.get_or_insert(why);
        }
    }

    fn run(&mut self) -> Result<(), Failure> {
        while self.wait() {
            let mut batch = Batch::default();
            let began = Instant::now();
            loop {
                let mut delivered = began;
                let sent = self.send_all(&mut batch).and_then(|()| self.deliver(|| false));
                let committed = sent.and_then(|()| {
                    delivered = Instant::now();
                    self.commit(|| false)
                });
                match committed {
                    Ok(()) => {
                        tracing::debug!(
                            messages = batch.count,
                            ticks = batch.ticks.len(),
                            delivering = ?delivered - began,
                            committing = ?delivered.elapsed(),
                            "a transaction is committed"
                        );
                        break;
                    }
                    Err(Stop::Fatal(failure)) => return Err(failure),
                    Err(Stop::Amid) => {
                        self.give_up(&batch);
                        return Ok(());
                    }
                    Err(Stop::Refused(refused)) => self.take_out(refused, &mut batch)?,
                    Err(Stop::Failed(why)) => self.prepare_again(&why, &batch)?,
                }
            }
            self.note_committed(batch);
        }
        Ok(())
    }

    /// Waits until there is something to send; ticks without messages wait for more. `false`: nothing more comes.
    fn wait(&self) -> bool {
        let mut queue = self.shared.queue();
        let mut since = None::<Instant>;
        loop {
            // A transaction that waits for the rest of its tick may become too old.
            let is_ready = queue.ends > 0 || queue.bytes >= QUEUE_BYTES;
            if queue.messages > 0 && is_ready || queue.is_closed {
                return !queue.items.is_empty();
            }
            let waits = queue.messages == 0 && !queue.items.is_empty();
            if waits && since.get_or_insert_with(Instant::now).elapsed() >= QUIET_INTERVAL {
                return true;
            }
            let waiting = self.shared.changed.wait_timeout(queue, POLL_INTERVAL);
            queue = waiting.unwrap_or_else(PoisonError::into_inner).0;
            self.poll(Duration::ZERO);
            queue.unreachable_since = self.producer().context().context.unreachable_since();
        }
    }

    /// Waits until all topics accept messages, but for those of dead letters: others do not wait for these.
    fn wait_for_topics(&self) {
        let is_fit = |guard: &Arc<Guard>| matches!(guard.topic_state(), TopicState::Fit { .. });
        let topics = self.topics.iter().zip(&self.guards);
        let needed = topics.filter(|((_, on_refusal), _)| *on_refusal != OnRefusal::Cut);
        while !needed.clone().all(|(_, guard)| is_fit(guard)) {
            self.poll(POLL_INTERVAL);
        }
    }

    /// Waits until there is a report about each message that was sent, or until `ends`.
    fn wait_for_reports(&self, ends: impl Fn(&TransactionReports) -> bool) {
        let began = Instant::now();
        let reports = &**self.producer().context();
        while reports.reported() < self.sent && !ends(reports) {
            // The client waits for all of the time, also when there is an event.
            let is_long = began.elapsed() >= QUICK_FOR;
            self.poll(if is_long { POLL_INTERVAL } else { QUICK_INTERVAL });
            self.note_reachable();
        }
    }

    fn note_reachable(&self) {
        self.shared.queue().unreachable_since =
            self.producer().context().context.unreachable_since();
    }

    fn begin(&mut self) -> Result<(), Stop> {
        self.sent = self.producer().context().reported();
        self.producer().context().take_failed();
        self.producer().begin_transaction().map_err(|error| self.stop(&error))
    }

    /// Sends the messages of a transaction that was aborted, and then those of all ticks that have ended, at least of
    /// one tick.
    fn send_all(&mut self, batch: &mut Batch) -> Result<(), Stop> {
        self.wait_for_topics();
        self.begin()?;
        for (number, (topic, message)) in batch.messages.iter().enumerate() {
            self.send(*topic, message, number)?;
        }
        if !batch.is_complete {
            self.send_queued(batch)?;
            batch.is_complete = true;
            batch.log.extend(self.log.add(&batch.ticks));
        }
        self.send_log(&batch.log)
    }

    fn send_queued(&mut self, batch: &mut Batch) -> Result<(), Stop> {
        while let Some(item) = self.next_item(batch)? {
            match item {
                Item::Message(topic, message) => {
                    (batch.is_at_end, batch.count) = (false, batch.count + 1);
                    batch.bytes += message.size();
                    let sent = self.send(topic, &message, batch.messages.len());
                    batch.messages.push((topic, message));
                    if batch.bytes > QUEUE_BYTES {
                        batch.is_kept = false;
                        batch.messages.clear();
                    }
                    sent?;
                }
                Item::TickEnd { tick, record } => {
                    batch.is_at_end = true;
                    batch.bytes += record.len();
                    batch.ticks.push((tick, record));
                }
                Item::Forget { before } => batch.log.extend(self.log.forget(before)),
            }
        }
        Ok(())
    }

    /// Returns the next item for a transaction; `None`: the transaction is complete.
    fn next_item(&self, batch: &Batch) -> Result<Option<Item>, Stop> {
        let mut queue = self.shared.queue();
        loop {
            let is_started = !batch.ticks.is_empty() || !batch.log.is_empty();
            let is_full = queue.ends == 0 || batch.bytes >= QUEUE_BYTES;
            if batch.is_at_end && is_started && is_full {
                return Ok(None);
            }
            if let Some(item) = queue.items.pop_front() {
                match &item {
                    Item::Message(_, message) => {
                        queue.bytes = queue.bytes.saturating_sub(message.size());
                    }
                    Item::TickEnd { record, .. } => {
                        queue.ends -= 1;
                        queue.bytes = queue.bytes.saturating_sub(record.len());
                    }
                    Item::Forget { .. } => {}
                }
                return Ok(Some(item));
            }
            if queue.is_closed && batch.is_at_end {
                return Ok(None);
            }
            if queue.is_closed {
                return Err(Stop::Amid);
            }
            let waiting = self.shared.changed.wait_timeout(queue, POLL_INTERVAL);
            queue = waiting.unwrap_or_else(PoisonError::into_inner).0;
            self.poll(Duration::ZERO);
        }
    }

    fn send(&mut self, topic: usize, message: &OwnedMessage, number: usize) -> Result<(), Stop> {
        let (topic, _) = self.topics[topic].clone();
        self.offer(&topic, &message.outgoing(), number)
    }

    fn send_log(&mut self, messages: &[LogMessage]) -> Result<(), Stop> {
        let topic = self.log.address().topic.clone();
        for (key, payload) in messages {
            let message = Outgoing {
                key: Some(key.as_bytes()),
                payload: payload.as_deref(),
                partition: Some(0),
                ..Outgoing::default()
            };
            self.offer(&topic, &message, usize::MAX)?;
        }
        Ok(())
    }

    fn offer(&mut self, topic: &str, message: &Outgoing<'_>, number: usize) -> Result<(), Stop> {
        loop {
            let record = base_record(topic, message, Box::new(number));
            let Err((error, _)) = self.producer().send(record) else {
                self.sent += 1;
                return Ok(());
            };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => {
                    self.poll(QUICK_INTERVAL);
                }
                // The client refuses the message by its own bounds.
                Some(code) if Refusal::of(code).is_some() => {
                    return Err(Stop::Refused(vec![(number, Refusal::of(code))]));
                }
                _ => return Err(self.stop(&error)),
            }
        }
    }

    /// Waits until all messages are delivered, or until one is not: the client keeps the others then until the
    /// transaction is aborted.
    fn deliver(&self, gives_up: impl Fn() -> bool) -> Result<(), Stop> {
        self.wait_for_reports(|reports| reports.has_failed() || gives_up());
        let failed = self.producer().context().take_failed();
        match self.stop_by(failed) {
            Some(stop) => Err(stop),
            None if self.producer().context().reported() < self.sent => {
                Err(Stop::Failed("the broker does not confirm it".to_owned()))
            }
            None => Ok(()),
        }
    }

    fn commit(&self, gives_up: impl Fn() -> bool) -> Result<(), Stop> {
        loop {
            match self.producer().commit_transaction(REQUEST_TIMEOUT) {
                Ok(()) => return Ok(()),
                Err(error) if is_retriable(&error) && !gives_up() => {
                    tracing::debug!(%error, "a transaction is not committed yet");
                }
                Err(error) => return Err(self.stop(&error)),
            }
        }
    }

    /// Returns the reason to abort that reports about messages give.
    fn stop_by(&self, failed: Vec<(usize, Option<RDKafkaErrorCode>)>) -> Option<Stop> {
        let (_, first) = *failed.first()?;
        if let Some((_, reason)) = self.producer().client().fatal_error() {
            return Some(Stop::Fatal(self.fatal(&reason)));
        }
        if let Some(code) =
            failed.iter().filter_map(|(_, code)| *code).find(|code| is_denied(*code))
        {
            return Some(Stop::Fatal(denied(sending(&self.id), code).into()));
        }
        let reasons = failed.iter().map(|(_, code)| code.and_then(ReturnReason::of));
        let refused =
            |reason| matches!(reason, Some(ReturnReason::Refused(_) | ReturnReason::Batch));
        if reasons.clone().any(refused) {
            let numbers = failed.iter().map(|(number, _)| *number);
            let refused = numbers.zip(reasons).filter_map(|(number, reason)| match reason? {
                ReturnReason::Refused(refusal) => Some((number, Some(refusal))),
                ReturnReason::Batch => Some((number, None)),
                ReturnReason::NoTopic | ReturnReason::Purged => None,
            });
            return Some(Stop::Refused(refused.collect()));
        }
        self.guards.iter().for_each(|guard| guard.check_now());
        let first = first.map_or("no reason".to_owned(), |code| code.to_string());
        Some(Stop::Failed(format!("{} messages are not delivered: {first}", failed.len())))
    }

    /// Returns the reason to abort after an error of the client: a report about a message is more precise.
    fn stop(&self, error: &KafkaError) -> Stop {
        self.poll(Duration::ZERO);
        if let Some(stop) = self.stop_by(self.producer().context().take_failed()) {
            return stop;
        }
        if let Some((_, reason)) = self.producer().client().fatal_error() {
            return Stop::Fatal(self.fatal(&reason));
        }
        match error.rdkafka_error_code().filter(|code| is_denied(*code)) {
            Some(code) => Stop::Fatal(denied(sending(&self.id), code).into()),
            None => Stop::Failed(error.to_string()),
        }
    }

    fn fatal(&self, reason: &str) -> Failure {
        let error = anyhow!(
            "another run publishes as \"{}\" now, or the broker has ended the transaction of this one: {reason}; \
             this run publishes nothing more. Started again, it continues from its state",
            self.id
        );
        Failure::new(Exit::Unavailable, error)
    }

    fn log_is_refused(&self) -> Failure {
        let error = anyhow!(
            "topic \"{}\" refuses the records of ticks (see max.message.bytes of the topic)",
            self.log.address().topic
        );
        Failure::new(Exit::Unavailable, error)
    }

    /// Aborts the transaction, so that its messages can be sent again.
    fn abort(&mut self, batch: &Batch) -> Result<(), Failure> {
        self.producer().purge(PurgeConfig::default().queue().inflight());
        self.wait_for_reports(|_| false);
        loop {
            match self.producer().abort_transaction(REQUEST_TIMEOUT) {
                Ok(()) => break,
                Err(error) => {
                    if let Some((_, reason)) = self.producer().client().fatal_error() {
                        return Err(self.fatal(&reason));
                    }
                    // There may be no transaction to abort.
                    if !is_retriable(&error) {
                        break;
                    }
                }
            }
        }
        if !batch.is_kept {
            let error = anyhow!(
                "a transaction of more than {} MiB was aborted, and its messages are not kept: started again, the \
                 run continues from its state",
                QUEUE_BYTES >> 20
            );
            return Err(Failure::new(Exit::Unavailable, error));
        }
        Ok(())
    }

    /// Aborts the transaction of a tick that does not end: the next run publishes it.
    fn give_up(&mut self, batch: &Batch) {
        if let Err(failure) = self.abort(batch) {
            tracing::debug!("at the end: {:#}", failure.error);
        }
        let mut queue = self.shared.queue();
        queue.items.clear();
        (queue.messages, queue.bytes) = (0, 0);
    }

    fn prepare_again(&mut self, why: &str, batch: &Batch) -> Result<(), Failure> {
        tracing::warn!(id = self.id, why, "a transaction is aborted, and sent again");
        self.abort(batch)?;
        std::thread::sleep(RETRY_INTERVAL);
        Ok(())
    }

    /// Takes the messages that the broker refuses out of a transaction, once it is known which these are.
    fn take_out(
        &mut self,
        refused: Vec<(usize, Option<Refusal>)>,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        self.abort(batch)?;
        if refused.iter().any(|(number, _)| *number == usize::MAX) {
            return Err(self.log_is_refused());
        }
        if !self.single_batches && batch.messages.len() > 1 {
            self.single_batches = true;
            return Ok(());
        }
        let by_number: BTreeMap<_, _> = refused.into_iter().collect();
        let refusals: Vec<_> = (0..batch.messages.len())
            .map(|number| by_number.get(&number).copied().flatten())
            .collect();
        let topics = &self.topics;
        let cuts = |topic: usize| topics[topic].1 == OnRefusal::Cut;
        // Those that are no smaller would be refused as well, one after the other.
        let mut least = vec![usize::MAX; topics.len()];
        for ((topic, message), refusal) in batch.messages.iter().zip(&refusals) {
            if cuts(*topic) && *refusal == Some(Refusal::TooLarge) {
                least[*topic] = least[*topic].min(message.size());
            }
        }
        let (mut refusals, mut taken) = (refusals.into_iter(), Vec::new());
        batch.messages.retain_mut(|(topic, message)| {
            let refusal = refusals.next().flatten();
            if message.size() >= least[*topic]
                && let Some(less) = message.clone().halved()
            {
                *message = less;
                return true;
            }
            let Some(refusal) = refusal else { return true };
            taken.push((*topic, Refused { message: message.clone(), refusal }));
            false
        });
        self.shared.queue().refused.extend(taken);
        Ok(())
    }

    fn note_committed(&mut self, batch: Batch) {
        self.shared.queue().messages -= batch.count;
        self.shared.delivered.fetch_add(batch.count, Ordering::Relaxed);
        if let Some((tick, _)) = batch.ticks.last() {
            self.shared.durable.store(*tick, Ordering::Release);
        }
        self.single_batches = false;
        self.turn = 1 - self.turn;
    }
}
