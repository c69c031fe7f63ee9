//! Queries of a computation's state: their route to the leader, and the responses at a tick.
//!
//! ```text
//!  QuerySender ─▶ Queries: wait for a tick ──reads──▶ the computation ──closed tick──▶ Facts of that tick
//! ```
//!
//! All queries that a tick answers share one numbered request of reads. The leader returns only the facts of the tick;
//! the caller turns them into a response on a thread of its own. Limits, windows and amounts are those of one tick.

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
use crate::output::difference::PublishedChanges;
use crate::output::{WriteError, explanation};
use crate::sink::{ClosedTick, Sink};
use crate::source::Filter;

/// Maximum number of queries that wait for their responses: fewer than the connections of a server, so that the
/// other pages stay available.
const QUERIES_MAX: usize = 32;

/// Minimum spacing of ticks that begin for queries alone: many queries share one.
const TICK_SPACING: Duration = Duration::from_millis(20);

/// Looking up the reads of queries takes at most one part in this many of the leader's time: limits change meanwhile,
/// and there may be very many of them.
const LOOKUP_SHARE: u32 = 10;

/// A query for the limits that apply to a pair in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainQuery {
    /// The pair.
    pub pair: Pair,
    /// A time in the window, in milliseconds since 1970; `None`: the current window.
    pub at_ms: Option<u64>,
    /// Whether the response lists the limits that do not apply as well.
    pub all: bool,
}

/// Writes a JSON object, part by part.
pub type WriteObject = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// The response to a query.
pub struct QueryResponse {
    /// The tick for which it holds.
    pub as_of: u64,
    /// Writes the response, on a thread that may wait.
    pub object: WriteObject,
}

impl fmt::Debug for QueryResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryResponse").field("as_of", &self.as_of).finish_non_exhaustive()
    }
}

/// The reason why a query has no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
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
    #[error("the run has not started yet: try again in a moment")]
    NotBegun,
    /// Too many queries wait.
    #[error("too many queries wait for their responses: try again in a moment")]
    Busy,
    /// No window holds the time.
    #[error("no window contains the time of \"at\": give a time that records can have")]
    NoWindow,
    /// The run ends.
    #[error("the run is shutting down and responds to no more queries")]
    Ended,
}

/// A response to come.
pub type FutureResponse = Pin<Box<dyn Future<Output = Result<QueryResponse, QueryError>> + Send>>;

/// The sending half of the queue of queries to the leader.
#[derive(Clone)]
pub(super) struct QuerySender {
    queue: Sender<PendingQuery>,
    permits: Arc<Semaphore>,
    /// The leader's thread, which may be parked.
    leader: Arc<OnceLock<Thread>>,
}

/// A query that waits for the facts of a tick.
pub struct PendingQuery {
    query: ExplainQuery,
    reply: oneshot::Sender<Result<Facts, QueryError>>,
    /// One of [`QUERIES_MAX`] permits, returned when this is dropped.
    _permit: Option<OwnedSemaphorePermit>,
}

/// The receiver of the facts that a query asks for.
pub type FactsReceiver = oneshot::Receiver<Result<Facts, QueryError>>;

impl PendingQuery {
    /// Creates a query that needs no permit, and the receiver of its facts.
    pub fn new(query: ExplainQuery) -> (Self, FactsReceiver) {
        let (reply, facts) = oneshot::channel();
        (PendingQuery { query, reply, _permit: None }, facts)
    }
}

impl QuerySender {
    /// Creates the queue. The leader gets the receiver.
    pub(super) fn new(leader: Arc<OnceLock<Thread>>) -> (Self, Receiver<PendingQuery>) {
        let (queue, queries) = channel();
        (QuerySender { queue, permits: Arc::new(Semaphore::new(QUERIES_MAX)), leader }, queries)
    }

    /// Sends a query to the leader, and returns the response to come.
    pub(super) fn query(&self, query: ExplainQuery) -> FutureResponse {
        let all = query.all;
        let facts = self.send(query);
        Box::pin(async move {
            // A dropped channel without a reply means that the leader has ended.
            let facts = facts?.await.map_err(|_| QueryError::Ended)??;
            let as_of = facts.tick;
            // There may be many limits and many queries: the server decides when to make the response.
            let object =
                move |out: &mut dyn Write| explanation::write(&explain::explain(&facts), all, out);
            Ok(QueryResponse { as_of, object: Box::new(object) })
        })
    }

    fn send(&self, query: ExplainQuery) -> Result<FactsReceiver, QueryError> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| QueryError::Busy)?;
        let (reply, facts) = oneshot::channel();
        let pending = PendingQuery { query, reply, _permit: Some(permit) };
        self.queue.send(pending).map_err(|_| QueryError::Ended)?;
        if let Some(leader) = self.leader.get() {
            leader.unpark();
        }
        Ok(facts)
    }
}

/// The leader's queries without a response.
pub(super) struct Queries {
    rules: Windows,
    filter: Filter,
    queue: Option<Receiver<PendingQuery>>,
    /// Queries for the next tick.
    waiting: Vec<PendingQuery>,
    /// The newest lookup of the reads of queries: when it began, and how long it took.
    last_lookup: Option<(Instant, Duration)>,
    /// Queries of ticks that are in flight.
    in_flight: VecDeque<QueryBatch>,
    /// Requests whose responses nobody wants any more, with their ticks.
    cancelled: Vec<(u64, RequestId)>,
}

/// The queries that a tick answers by one request of reads, and the limits of that tick.
struct QueryBatch {
    tick: u64,
    request: RequestId,
    queries: Vec<(PendingQuery, Window)>,
    catalog: Arc<Catalog>,
    amounts: Amounts,
}

impl Queries {
    /// Creates the leader's half. The rules and the filter are those by which the computation counts.
    pub(super) fn new(
        queue: Option<Receiver<PendingQuery>>,
        rules: Windows,
        filter: Filter,
    ) -> Self {
        Queries {
            rules,
            filter,
            queue,
            waiting: Vec::new(),
            last_lookup: None,
            in_flight: VecDeque::new(),
            cancelled: Vec::new(),
        }
    }

    /// Adds a query.
    pub(super) fn add(&mut self, query: PendingQuery) {
        self.waiting.push(query);
    }

    /// Receives new queries. Drops those whose caller no longer waits, which frees their permits, and cancels requests
    /// that were made for these alone.
    pub(super) fn receive(&mut self) {
        if let Some(queue) = &self.queue {
            self.waiting.extend(queue.try_iter());
        }
        self.waiting.retain(|pending| !pending.reply.is_closed());
        for batch in self.in_flight.iter_mut().filter(|batch| !batch.queries.is_empty()) {
            batch.queries.retain(|(pending, _)| !pending.reply.is_closed());
            if batch.queries.is_empty() {
                self.cancelled.push((batch.tick, batch.request));
            }
        }
    }

    /// Whether queries wait for a tick.
    pub(super) fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns the next request that is to be cancelled, and its tick.
    pub(super) fn cancelled(&mut self) -> Option<(u64, RequestId)> {
        self.cancelled.pop()
    }

    /// Accepts a chunk of a response. Returns one that belongs to a request of somebody else.
    pub(super) fn respond(&mut self, request: RequestId, chunk: Chunk) -> Result<(), Chunk> {
        let mut batches = self.in_flight.iter_mut();
        match (batches.find(|batch| batch.request == request), chunk) {
            (Some(batch), Chunk::Amount { window, rollup, entity, volume }) => {
                let sum = batch.amounts.entry((window, rollup, entity)).or_default();
                *sum = sum.saturating_add(volume);
                Ok(())
            }
            (_, chunk) => Err(chunk),
        }
    }

    /// Returns the time until a tick may begin for queries; `None` if none wait.
    pub(super) fn until_tick(&self) -> Option<Duration> {
        let remaining = |(began, took): (Instant, Duration)| {
            TICK_SPACING.max(took * LOOKUP_SHARE).saturating_sub(began.elapsed())
        };
        (!self.waiting.is_empty()).then(|| self.last_lookup.map_or(Duration::ZERO, remaining))
    }

    /// Assigns the waiting queries to a tick, and returns the reads of the request that answers them. `catalog` has the
    /// limits of the tick; `current` is the window of a query that names none.
    pub(super) fn begin_tick(
        &mut self,
        tick: u64,
        request: RequestId,
        current: Option<Window>,
        catalog: &Arc<Catalog>,
    ) -> Vec<Read> {
        let began = Instant::now();
        let (mut reads, mut queries) = (BTreeSet::new(), Vec::new());
        for pending in self.waiting.drain(..) {
            let window = match pending.query.at_ms {
                Some(at) => self.rules.of(at),
                None => current,
            };
            let Some(window) = window else {
                let _ = pending.reply.send(Err(QueryError::NoWindow));
                continue;
            };
            let limits = catalog.in_force(explain::judged_at(&self.rules, window, tick));
            reads.extend(explain::reads(limits, &pending.query.pair, window));
            queries.push((pending, window));
        }
        self.last_lookup = Some((began, began.elapsed()));
        let (catalog, amounts) = (catalog.clone(), Amounts::new());
        self.in_flight.push_back(QueryBatch { tick, request, queries, catalog, amounts });
        reads.into_iter().collect()
    }
}

impl Sink for Queries {
    fn changes(&mut self, _: &PublishedChanges<'_>, _: &Catalog) -> Result<(), WriteError> {
        Ok(())
    }

    /// Responds to the queries of the tick.
    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        let ClosedTick { tick, windows, .. } = *closed;
        let Some(batch) = self.in_flight.pop_front_if(|batch| batch.tick == tick) else {
            return Ok(());
        };
        let amounts = Arc::new(batch.amounts);
        for (pending, window) in batch.queries {
            let pair = pending.query.pair;
            // The receiver may have disconnected; then nobody waits for the facts.
            let _ = pending.reply.send(Ok(Facts {
                tick,
                rules: self.rules,
                bounds: windows.bounds,
                pair,
                counted: self.filter.admits(&pair),
                window,
                existing: windows.existing(window),
                catalog: batch.catalog.clone(),
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
    fn query_beyond_the_bound_is_rejected_until_another_caller_has_gone() {
        let (sender, queue) = QuerySender::new(Arc::default());
        let send = || {
            let pair = Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
            sender.send(ExplainQuery { pair, at_ms: None, all: false })
        };
        let mut callers: Vec<_> = (0..QUERIES_MAX).map(|_| send().expect("a permit")).collect();
        let mut queries = Queries::new(Some(queue), Windows::default(), Filter::default());
        queries.receive();
        assert!(matches!(send(), Err(QueryError::Busy)));
        assert_eq!(queries.waiting.len(), QUERIES_MAX);
        drop(callers.pop());
        queries.receive();
        callers.push(send().expect("the permit of the caller that has gone"));
        assert!(matches!(send(), Err(QueryError::Busy)));
    }

    /// A request that was made for two queries is cancelled when the second caller has gone, too.
    #[test]
    fn request_is_cancelled_when_nobody_waits_for_its_response() {
        let pair = Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let query = || PendingQuery::new(ExplainQuery { pair, at_ms: Some(0), all: false });
        let mut queries = Queries::new(None, Windows::default(), Filter::default());
        let [(first, first_facts), (second, second_facts)] = [query(), query()];
        queries.add(first);
        queries.add(second);
        queries.begin_tick(7, RequestId(3), None, &Arc::default());
        drop(first_facts);
        queries.receive();
        assert_eq!(queries.cancelled(), None);
        drop(second_facts);
        queries.receive();
        assert_eq!(queries.cancelled(), Some((7, RequestId(3))));
        queries.receive();
        assert_eq!(queries.cancelled(), None, "it is cancelled once");
        let chunk = Chunk::Held { pairs: 1, rollups: 0, addresses: 0 };
        assert_eq!(queries.respond(RequestId(4), chunk.clone()), Err(chunk));
    }
}
