//! Connections to the server. Their number is bounded, and the server accepts every new one.
//!
//! A health probe must get a connection whatever other clients do. So the server rejects no connection when there are
//! too many, but closes the one that has been idle for the longest time. A connection ends
//!
//! - when the head of a request takes longer than [`HEAD_TIMEOUT`] to arrive, or no request begins for as long,
//! - when its client reads nothing of a response for [`WRITE_TIMEOUT`],
//! - after [`REQUESTS_MAX`] requests or [`CONNECTION_TIMEOUT`],
//! - when it is the idlest one and there are too many connections, of all or of its address.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use nix::sys::resource::{Resource, getrlimit};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Sleep;

use crate::base::logging::Sampler;

/// Greatest number of open connections.
const CONNECTIONS_MAX: usize = 512;

/// Greatest number of open connections from one address (IPv6: one network of 64 bits).
const ADDRESS_MAX: usize = 128;

/// Connections may use one in so many of the file descriptors of the process.
const DESCRIPTORS_DIVISOR: u64 = 4;

/// Time limit for the head of a request to arrive, and for a connection to be idle.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for which a client may read nothing of its response.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Greatest lifetime of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Greatest number of requests of one connection.
const REQUESTS_MAX: usize = 1000;

/// Greatest size of the head of a request, and of the buffered part of a response, in bytes.
const BUFFER_MAX: usize = 16 << 10;

/// Greatest number of connections that wait in the system until the server accepts them.
const BACKLOG: i32 = 1024;

/// The pause after an error of the listener, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Time limit for responses under way when the server shuts down.
pub(super) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the key of connections that share a bound: an IPv4 address, or the network of an IPv6 address, since one
/// machine has very many IPv6 addresses.
fn bound_key(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// The state of one connection.
#[derive(Debug, Default)]
struct Activity {
    /// The time at which bytes were last read or written, in milliseconds since the server started.
    moved_ms: AtomicU64,
    /// Requests whose responses are under way.
    under_way: AtomicUsize,
    /// All requests so far.
    requests: AtomicUsize,
}

/// An open connection.
struct OpenConnection {
    from: IpAddr,
    activity: Arc<Activity>,
    /// `None` until its task runs.
    task: Option<AbortHandle>,
}

/// All open connections, with their bounds.
struct ConnectionTable {
    started: Instant,
    max: usize,
    address_max: usize,
    open: Mutex<OpenConnections>,
}

#[derive(Default)]
struct OpenConnections {
    /// The number of the newest connection.
    last: u64,
    by_number: BTreeMap<u64, OpenConnection>,
}

impl ConnectionTable {
    fn new(max: usize, address_max: usize) -> Self {
        ConnectionTable { started: Instant::now(), max, address_max, open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Adds a new connection, and closes the idlest one if there are too many.
    fn admit(&self, from: IpAddr) -> (u64, Arc<Activity>) {
        let from = bound_key(from);
        let mut opened = self.lock();
        let of_address = opened.by_number.values().filter(|open| open.from == from).count();
        if of_address >= self.address_max {
            opened.evict(Some(from));
        } else if opened.by_number.len() >= self.max {
            let busiest = opened.busiest();
            opened.evict(busiest);
        }
        opened.last += 1;
        let (number, activity) = (opened.last, Arc::new(Activity::default()));
        activity.moved_ms.store(self.now_ms(), Ordering::Relaxed);
        let open = OpenConnection { from, activity: activity.clone(), task: None };
        opened.by_number.insert(number, open);
        (number, activity)
    }

    /// Closes the idlest connection, for when the process has no file descriptors left.
    fn evict_idlest(&self) {
        self.lock().evict(None);
    }

    fn set_task(&self, number: u64, task: AbortHandle) {
        match self.lock().by_number.get_mut(&number) {
            Some(open) => open.task = Some(task),
            // The connection has ended already, or was evicted.
            None => task.abort(),
        }
    }

    fn remove(&self, number: u64) {
        self.lock().by_number.remove(&number);
    }
}

impl OpenConnections {
    /// Returns the address with the most connections.
    fn busiest(&self) -> Option<IpAddr> {
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        for open in self.by_number.values() {
            *counts.entry(open.from).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(from, _)| from)
    }

    /// Closes the connection that has been idle for the longest time, of address `of` or of all. Closes a connection
    /// with a response under way only if there is no other one.
    fn evict(&mut self, of: Option<IpAddr>) {
        let eligible =
            self.by_number.iter().filter(|(_, open)| of.is_none_or(|of| open.from == of));
        let idlest = eligible.min_by_key(|(number, open)| {
            let activity = &open.activity;
            let is_busy = activity.under_way.load(Ordering::Relaxed) > 0;
            (is_busy, activity.moved_ms.load(Ordering::Relaxed), **number)
        });
        if let Some(number) = idlest.map(|(number, _)| *number)
            && let Some(OpenConnection { task: Some(task), .. }) = self.by_number.remove(&number)
        {
            task.abort();
        }
    }
}

/// Removes a connection from the table when its task ends, for whatever reason.
struct ConnectionGuard {
    table: Arc<ConnectionTable>,
    number: u64,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.table.remove(self.number);
    }
}

/// Returns the number of connections that the file descriptors of the process allow.
fn connection_capacity() -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    usize::try_from(descriptors / DESCRIPTORS_DIVISOR)
        .unwrap_or(usize::MAX)
        .clamp(4, CONNECTIONS_MAX)
}

/// Accepts connections until `stopped` fires, then completes the responses under way, for [`SHUTDOWN_TIMEOUT`].
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    mut stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    // A second call of `listen` only changes the length of the queue.
    socket2::SockRef::from(&listener).listen(BACKLOG)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let graceful = GracefulShutdown::new();
    let max = connection_capacity();
    let table = Arc::new(ConnectionTable::new(max, ADDRESS_MAX.min(max)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER_MAX);
    let mut sampler = Sampler::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => break,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if sampler.allows("accept") {
                    tracing::warn!(%error, "cannot accept a connection to --http");
                }
                table.evict_idlest();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (number, activity) = table.admit(from.ip());
        let guard = ConnectionGuard { table: table.clone(), number };
        let io = TimedStream::new(stream, table.clone(), activity.clone());
        let router = TowerToHyperService::new(router.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            respond(router.clone(), request, activity.clone())
        });
        let connection = graceful.watch(http.serve_connection(io, service));
        let task = tokio::spawn(async move {
            let _guard = guard;
            // A client that has disconnected, or sent no HTTP request, gets no response.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
        });
        table.set_task(number, task.abort_handle());
    }
    drop(listener);
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await;
    Ok(())
}

/// Responds to a request of a connection.
async fn respond(
    router: TowerToHyperService<Router>,
    request: Request<Incoming>,
    activity: Arc<Activity>,
) -> Result<Response<GuardedBody>, std::convert::Infallible> {
    let last = activity.requests.fetch_add(1, Ordering::Relaxed) + 1 >= REQUESTS_MAX;
    let guard = RequestGuard::new(activity);
    let Ok(response) = router.call(request).await;
    let mut response = response.map(|body| GuardedBody { body, _guard: guard });
    if last {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Counts a request as under way until its response is sent.
struct RequestGuard(Arc<Activity>);

impl RequestGuard {
    fn new(activity: Arc<Activity>) -> Self {
        activity.under_way.fetch_add(1, Ordering::Relaxed);
        RequestGuard(activity)
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response. The server drops it when it has sent all of it.
pub(super) struct GuardedBody {
    body: Body,
    _guard: RequestGuard,
}

impl hyper::body::Body for GuardedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that records the time of its last read or write, and fails if the other side reads nothing for too long.
struct TimedStream {
    stream: TokioIo<TcpStream>,
    table: Arc<ConnectionTable>,
    activity: Arc<Activity>,
    /// The end of the write timeout, while the other side reads nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    fn new(stream: TcpStream, table: Arc<ConnectionTable>, activity: Arc<Activity>) -> Self {
        TimedStream { stream: TokioIo::new(stream), table, activity, stalled: None }
    }

    fn record_activity(&self) {
        self.activity.moved_ms.store(self.table.now_ms(), Ordering::Relaxed);
    }

    /// Records the result of a write, and fails at the write timeout.
    fn apply_timeout<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            self.record_activity();
            return written;
        }
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Read for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.record_activity();
        }
        read
    }
}

impl Write for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.apply_timeout(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.apply_timeout(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn numbers(table: &ConnectionTable) -> Vec<u64> {
        table.lock().by_number.keys().copied().collect()
    }

    #[test]
    fn longest_idle_connection_is_evicted_at_a_bound() {
        let table = ConnectionTable::new(4, 3);
        let admitted: Vec<_> = (1..=2).map(|_| table.admit(address(1))).collect();
        // The first connection has been idle for longest, but its response is under way.
        admitted[0].1.moved_ms.store(0, Ordering::Relaxed);
        let _busy = RequestGuard::new(admitted[0].1.clone());
        table.admit(address(1));
        table.admit(address(1));
        assert_eq!(numbers(&table), [1, 3, 4], "the bound of one address");
        table.admit(address(2));
        assert_eq!(numbers(&table), [1, 3, 4, 5]);
        table.admit(address(3));
        // The evicted connection is one of the address with the most connections.
        assert_eq!(numbers(&table), [1, 4, 5, 6], "the bound of all");
        table.evict_idlest();
        assert_eq!(numbers(&table), [1, 5, 6]);
    }

    #[test]
    fn busy_connection_is_evicted_if_none_is_idle() {
        let table = ConnectionTable::new(2, 2);
        let _busy: Vec<_> =
            (1..=2).map(|last| RequestGuard::new(table.admit(address(last)).1)).collect();
        table.admit(address(3));
        assert_eq!(numbers(&table).len(), 2);
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bound() {
        let of = |text: &str| bound_key(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    #[test]
    fn connection_capacity_stays_within_its_bounds() {
        assert!((4..=CONNECTIONS_MAX).contains(&connection_capacity()));
    }
}
