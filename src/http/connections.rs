//! Connections to the server: as many as there is room for, and always one more.
//!
//! A probe must get in whatever others do. So no connection is refused for want of room: the one that has
//! been idle for the longest time makes room. A connection ends
//!
//! - when the head of a request takes longer than [`HEAD_TIMEOUT`] to arrive, or none comes for as long,
//! - when its client takes nothing of an answer for [`WRITE_TIMEOUT`],
//! - after [`REQUESTS_MAX`] requests or [`CONNECTION_TIMEOUT`],
//! - when it is the idlest one and there are too many, of all or of its address.

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

/// Connections at a time.
const CONNECTIONS_MAX: usize = 512;

/// Connections at a time from one address (IPv6: one network of 64 bits).
const ADDRESS_MAX: usize = 128;

/// The part of the file descriptors of the process that connections may take: one in so many.
const DESCRIPTORS_PART: u64 = 4;

/// Time limit for the head of a request to arrive, and for a connection to be idle.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for a client that takes nothing of its answer.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Greatest lifetime of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Requests of one connection.
const REQUESTS_MAX: usize = 1000;

/// Greatest size of the head of a request, and of the buffered part of an answer, in bytes.
const BUFFER_MAX: usize = 16 << 10;

/// Connections that the system keeps for the server until they are accepted.
const BACKLOG: i32 = 1024;

/// The pause after an error of the listener, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Time limit for answers under way when the server shuts down.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The key of connections that share a bound: an address, or the network of an IPv6 address, of which
/// one machine has very many.
fn neighborhood(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// The state of one connection.
#[derive(Debug, Default)]
struct Activity {
    /// The time at which bytes moved last, in milliseconds since the server started.
    moved_ms: AtomicU64,
    /// Requests that are being answered.
    answering: AtomicUsize,
    requests: AtomicUsize,
}

/// An open connection.
struct Open {
    from: IpAddr,
    activity: Arc<Activity>,
    /// `None` until its task runs.
    task: Option<AbortHandle>,
}

/// All open connections.
struct Table {
    started: Instant,
    max: usize,
    address_max: usize,
    open: Mutex<Opened>,
}

#[derive(Default)]
struct Opened {
    last: u64,
    by_number: BTreeMap<u64, Open>,
}

impl Table {
    fn new(max: usize, address_max: usize) -> Self {
        Table { started: Instant::now(), max, address_max, open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Admits a new connection, and ends the idlest one if there are too many.
    fn admit(&self, from: IpAddr) -> (u64, Arc<Activity>) {
        let from = neighborhood(from);
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
        let open = Open { from, activity: activity.clone(), task: None };
        opened.by_number.insert(number, open);
        (number, activity)
    }

    /// Makes room when the process has no file descriptors left.
    fn evict_idlest(&self) {
        self.lock().evict(None);
    }

    fn started(&self, number: u64, task: AbortHandle) {
        match self.lock().by_number.get_mut(&number) {
            Some(open) => open.task = Some(task),
            // The connection has ended already, or was ended.
            None => task.abort(),
        }
    }

    fn remove(&self, number: u64) {
        self.lock().by_number.remove(&number);
    }
}

impl Opened {
    /// The address with the most connections.
    fn busiest(&self) -> Option<IpAddr> {
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        for open in self.by_number.values() {
            *counts.entry(open.from).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(from, _)| from)
    }

    /// Ends the connection that has been idle for the longest time, of this address or of all. One that
    /// is being answered is ended only if there is no other one.
    fn evict(&mut self, of: Option<IpAddr>) {
        let eligible =
            self.by_number.iter().filter(|(_, open)| of.is_none_or(|of| open.from == of));
        let idlest = eligible.min_by_key(|(number, open)| {
            let activity = &open.activity;
            let is_busy = activity.answering.load(Ordering::Relaxed) > 0;
            (is_busy, activity.moved_ms.load(Ordering::Relaxed), **number)
        });
        if let Some(number) = idlest.map(|(number, _)| *number)
            && let Some(Open { task: Some(task), .. }) = self.by_number.remove(&number)
        {
            task.abort();
        }
    }
}

/// Removes a connection when its task ends, however it does.
struct Place {
    table: Arc<Table>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.remove(self.number);
    }
}

/// The number of connections that the file descriptors of the process allow.
fn room() -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    usize::try_from(descriptors / DESCRIPTORS_PART).unwrap_or(usize::MAX).clamp(4, CONNECTIONS_MAX)
}

/// Accepts connections until it is stopped, and lets answers that are on their way get out.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    mut stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    // Another call of listen only changes the length of the queue.
    socket2::SockRef::from(&listener).listen(BACKLOG)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let graceful = GracefulShutdown::new();
    let max = room();
    let table = Arc::new(Table::new(max, ADDRESS_MAX.min(max)));
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
                if sampler.takes("accept") {
                    tracing::warn!(%error, "a connection to --http was not accepted");
                }
                table.evict_idlest();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (number, activity) = table.admit(from.ip());
        let place = Place { table: table.clone(), number };
        let io = Watched::new(stream, table.clone(), activity.clone());
        let router = TowerToHyperService::new(router.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            answer(router.clone(), request, activity.clone())
        });
        let connection = graceful.watch(http.serve_connection(io, service));
        let task = tokio::spawn(async move {
            let _place = place;
            // A client that has disconnected, or sent no HTTP request, gets no answer.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
        });
        table.started(number, task.abort_handle());
    }
    drop(listener);
    let _ = tokio::time::timeout(END_TIMEOUT, graceful.shutdown()).await;
    Ok(())
}

/// Answers a request of a connection.
async fn answer(
    router: TowerToHyperService<Router>,
    request: Request<Incoming>,
    activity: Arc<Activity>,
) -> Result<Response<Answered>, std::convert::Infallible> {
    let last = activity.requests.fetch_add(1, Ordering::Relaxed) + 1 >= REQUESTS_MAX;
    let answering = Answering::new(activity);
    let Ok(response) = router.call(request).await;
    let mut response = response.map(|body| Answered { body, _answering: answering });
    if last {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Counts a request that is being answered.
struct Answering(Arc<Activity>);

impl Answering {
    fn new(activity: Arc<Activity>) -> Self {
        activity.answering.fetch_add(1, Ordering::Relaxed);
        Answering(activity)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer. It is dropped when all of it is on its way.
pub(super) struct Answered {
    body: Body,
    _answering: Answering,
}

impl hyper::body::Body for Answered {
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

/// A stream that knows when bytes moved last, and fails if the other side takes none for too long.
struct Watched {
    stream: TokioIo<TcpStream>,
    table: Arc<Table>,
    activity: Arc<Activity>,
    /// While the other side takes nothing, the end of patience.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    fn new(stream: TcpStream, table: Arc<Table>, activity: Arc<Activity>) -> Self {
        Watched { stream: TokioIo::new(stream), table, activity, stalled: None }
    }

    fn moved(&self) {
        self.activity.moved_ms.store(self.table.now_ms(), Ordering::Relaxed);
    }

    /// Records the result of a write, for the write timeout.
    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            self.moved();
            return written;
        }
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.moved();
        }
        read
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.written(context, written)
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

    fn numbers(table: &Table) -> Vec<u64> {
        table.lock().by_number.keys().copied().collect()
    }

    #[test]
    fn connection_that_is_idle_for_longest_makes_room() {
        let table = Table::new(4, 3);
        let admitted: Vec<_> = (1..=2).map(|_| table.admit(address(1))).collect();
        // This connection was idle before the first one, which is being answered.
        admitted[0].1.moved_ms.store(0, Ordering::Relaxed);
        let _busy = Answering::new(admitted[0].1.clone());
        table.admit(address(1));
        table.admit(address(1));
        assert_eq!(numbers(&table), [1, 3, 4], "the bound of one address");
        table.admit(address(2));
        assert_eq!(numbers(&table), [1, 3, 4, 5]);
        table.admit(address(3));
        // Not the only one of another address.
        assert_eq!(numbers(&table), [1, 4, 5, 6], "the bound of all");
        table.evict_idlest();
        assert_eq!(numbers(&table), [1, 5, 6]);
    }

    #[test]
    fn connections_that_are_all_answered_make_room_too() {
        let table = Table::new(2, 2);
        let _busy: Vec<_> =
            (1..=2).map(|last| Answering::new(table.admit(address(last)).1)).collect();
        table.admit(address(3));
        assert_eq!(numbers(&table).len(), 2);
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bound() {
        let of = |text: &str| neighborhood(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    #[test]
    fn room_is_within_the_file_descriptors() {
        assert!((4..=CONNECTIONS_MAX).contains(&room()));
    }
}
