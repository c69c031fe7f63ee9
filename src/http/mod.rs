//! What a process that runs for long tells those who ask: metrics, whether it lives, whether it is ready.
//!
//! One thread of its own serves all of it, so that it answers when workers are busy or stuck. It knows
//! of the run only what a [`Subject`] says. Pages for other purposes are further routes of `pages`.
//!
//! Whoever connects is bounded: in number, in the time that a request may take to arrive, and in the
//! time that a connection lasts.

use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, anyhow};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, oneshot};

use crate::error::{Exit, Failure};
use crate::metrics;

pub mod client;
mod explain;
mod pages;

pub use explain::{Answer, Answering, Answers, Question, Refusal};
pub use pages::{Readiness, Subject};

/// Connections at a time. One who scrapes needs one.
const CONNECTIONS_MAX: usize = 64;

/// How long the head of a request may take to arrive, and how long a connection may be idle.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection lasts at most: one who does not read his answers keeps no place for ever.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// After an error of the listener, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long answers may take to get out when the server ends.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The options of a command that can be asked how it is.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "serving")]
pub struct HttpOptions {
    /// Serve /metrics, /healthz and /readyz here, such as 127.0.0.1:9464; port 0 is any free one
    ///
    /// A run also serves /api/v1/explain, which `floodmark limits explain --from` asks.
    ///
    /// Where one command starts several processes (-n), process P serves at the port P above. Nothing is
    /// served without this option.
    #[arg(long, value_name = "HOST:PORT", env = "FLOODMARK_HTTP")]
    http: Option<String>,
}

impl HttpOptions {
    /// Whether anything is to be served.
    pub fn is_given(&self) -> bool {
        self.http.is_some()
    }

    /// Serves from now on, until the server is dropped, if that is wanted. `above` is added to the port.
    ///
    /// What is counted before is not counted.
    pub fn serve(
        &self,
        above: usize,
        subject: Arc<dyn Subject>,
    ) -> Result<Option<Server>, Failure> {
        let Some(text) = &self.http else {
            return Ok(None);
        };
        let address = address(text, above).map_err(|error| Failure::new(Exit::Usage, error))?;
        let server = Server::start(address, subject)?;
        let own = server.address();
        if is_loopback(own.ip()) {
            tracing::info!(address = %own, "serves /metrics, /healthz and /readyz");
        } else {
            tracing::warn!(
                address = %own,
                "serves /metrics, /healthz and /readyz where other machines may reach it, without a \
                 password"
            );
        }
        Ok(Some(server))
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// The address that an option names, for one of several processes.
fn address(text: &str, above: usize) -> anyhow::Result<SocketAddr> {
    let mut found = text.to_socket_addrs().with_context(|| {
        format!("\"{text}\" is no address to serve at: give --http HOST:PORT, as 127.0.0.1:9464")
    })?;
    let mut address = found.next().ok_or_else(|| anyhow!("\"{text}\" has no address"))?;
    // Of port 0 there is one for each.
    if address.port() > 0 {
        let port = usize::from(address.port()) + above;
        let port = u16::try_from(port).map_err(|_| {
            anyhow!("process {above} would serve at port {port} (--http \"{text}\"): begin lower")
        })?;
        address.set_port(port);
    }
    Ok(address)
}

/// A server, until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    /// Ends when its thread does.
    ended: Receiver<()>,
}

impl Server {
    /// Begins to serve.
    ///
    /// # Errors
    /// The address is taken, or not one of this machine.
    pub fn start(address: SocketAddr, subject: Arc<dyn Subject>) -> Result<Self, Failure> {
        let metrics = metrics::install()?;
        let listener = TcpListener::bind(address).with_context(|| {
            format!("serving at \"{address}\" (choose another --http, or end who has it)")
        })?;
        let address = listener.local_addr().context("asking for the address served at")?;
        listener.set_nonblocking(true).context("setting up the listener")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .context("setting up the server")?;
        let router = pages::pages(subject, metrics);
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = channel();
        std::thread::Builder::new()
            .name("http".into())
            .spawn(move || {
                let _end = end;
                if let Err(error) = runtime.block_on(serve(listener, router, stopped)) {
                    tracing::error!(%error, "nothing is served any more");
                }
            })
            .context("starting the thread of the server")?;
        Ok(Server { address, stop: Some(stop), ended })
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        // An error says that it has ended; nobody waits for longer.
        let _ = self.ended.recv_timeout(2 * END_TIMEOUT);
    }
}

/// Accepts connections until it is stopped, and lets answers that are on their way get out.
async fn serve(
    listener: TcpListener,
    router: Router,
    mut stopped: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = &mut stopped => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _place = place;
            // Whoever has gone, or said something that is no request, gets no answer.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(END_TIMEOUT, graceful.shutdown()).await;
    Ok(())
}

#[cfg(test)]
mod tests;
