//! The HTTP server of a process that runs for long: metrics, liveness, readiness, and explanations of limits.
//!
//! One thread serves all pages, so that the server responds when workers are busy or stuck. The server knows
//! of the run only its [`Subject`]. Pages for other purposes are further routes of `pages`.
//!
//! `connections` bounds the connections, and admits a probe whatever other clients do; `hosts` rejects names
//! that are not this server's; `pool` has the threads that make large responses.

use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, anyhow};
use tokio::sync::oneshot;

use crate::base::error::{Exit, Failure};
use crate::metrics;

pub mod client;
mod connections;
mod explain;
mod hosts;
mod pages;
mod pool;
mod query;
mod run;
mod served;

use connections::SHUTDOWN_TIMEOUT;
use hosts::HostNames;
pub use hosts::name;
pub use query::QueryHandler;
pub use served::{Readiness, Subject};

/// The address of the server, and its names.
#[derive(Clone, Debug)]
pub struct Options {
    /// HOST:PORT; port 0 is any free one.
    pub address: String,
    /// Further names of this server, beside those that it has by itself.
    pub names: Vec<String>,
}

/// Starts a server, which runs until it is dropped. `process`, the number of this process, is added to the port.
///
/// Metrics that were counted before this call are lost.
///
/// # Errors
/// The address is invalid, in use, or not one of this machine.
pub fn serve(
    options: &Options,
    process: usize,
    subject: Arc<dyn Subject>,
) -> Result<Server, Failure> {
    let Options { address: text, names } = options;
    let address = address(text, process).map_err(|error| Failure::new(Exit::Usage, error))?;
    let server = Server::start_as(address, HostNames::new(text, names), subject)?;
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
    Ok(server)
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Returns the address in the text of an option, with `process` added to the port.
fn address(text: &str, process: usize) -> anyhow::Result<SocketAddr> {
    let mut found = text.to_socket_addrs().with_context(|| {
        format!("\"{text}\" is not an address: give --http HOST:PORT, such as 127.0.0.1:9464")
    })?;
    let mut address =
        found.next().ok_or_else(|| anyhow!("the host of \"{text}\" has no address"))?;
    // With port 0, the system chooses a port for each process.
    if address.port() > 0 {
        let port = usize::from(address.port()) + process;
        let port = u16::try_from(port).map_err(|_| {
            anyhow!(
                "process {process} would serve at port {port} (--http \"{text}\"): give a lower port"
            )
        })?;
        address.set_port(port);
    }
    Ok(address)
}

/// A running server. Dropping it stops the server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    /// Closed when the server's thread ends.
    ended: Receiver<()>,
}

impl Server {
    /// Starts a server.
    ///
    /// # Errors
    /// The address is in use, or not one of this machine.
    pub fn start(address: SocketAddr, subject: Arc<dyn Subject>) -> Result<Self, Failure> {
        Server::start_as(address, HostNames::new(&address.to_string(), &[]), subject)
    }

    fn start_as(
        address: SocketAddr,
        hosts: HostNames,
        subject: Arc<dyn Subject>,
    ) -> Result<Self, Failure> {
        let metrics = metrics::install()?;
        let listener = TcpListener::bind(address).with_context(|| {
            format!(
                "serving at \"{address}\" (choose another --http, or stop the process that uses it)"
            )
        })?;
        let address = listener.local_addr().context("reading the address of the listener")?;
        listener.set_nonblocking(true).context("setting up the listener")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .context("setting up the server")?;
        let router = pages::pages(subject, metrics, hosts)
            .context("starting the threads that write responses")?;
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = channel();
        std::thread::Builder::new()
            .name("http".into())
            .spawn(move || {
                let _end = end;
                if let Err(error) = runtime.block_on(connections::serve(listener, router, stopped))
                {
                    tracing::error!(%error, "the HTTP server has stopped");
                }
            })
            .context("starting the thread of the server")?;
        Ok(Server { address, stop: Some(stop), ended })
    }

    /// Returns the address at which the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The channel closes when the thread ends. The wait for that is bounded.
        let _ = self.ended.recv_timeout(2 * SHUTDOWN_TIMEOUT);
    }
}

#[cfg(test)]
mod tests;
