//! What a process that runs for long tells those who ask: metrics, whether it lives, whether it is ready.
//!
//! One thread of its own serves all of it, so that it answers when workers are busy or stuck. It knows
//! of the run only what a [`Subject`] says. Pages for other purposes are further routes of `pages`.
//!
//! `connections` bounds those who connect, and lets a probe in whatever they do; `hosts` refuses names
//! that are not this server's; `pool` has the threads that make large answers.

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
mod question;
mod served;

use connections::END_TIMEOUT;
use hosts::Hosts;
pub use question::{Answer, Answering, Answers, Question, Refusal, WriteObject};
pub use served::{Readiness, Subject};

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

    /// Another name under which --http is asked, such as floodmark.example.org; repeated, any of them
    ///
    /// It is always answered under IP addresses, localhost, the host of --http and the name of this
    /// machine. Other names are refused, since a web page could use its own to read what is served.
    #[arg(
        long,
        value_name = "NAME",
        env = "FLOODMARK_HTTP_HOST",
        value_delimiter = ',',
        value_parser = hosts::name
    )]
    http_host: Vec<String>,
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
        let hosts = Hosts::new(text, &self.http_host);
        let server = Server::start_as(address, hosts, subject)?;
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
        Server::start_as(address, Hosts::new(&address.to_string(), &[]), subject)
    }

    fn start_as(
        address: SocketAddr,
        hosts: Hosts,
        subject: Arc<dyn Subject>,
    ) -> Result<Self, Failure> {
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
        let router = pages::pages(subject, metrics, hosts)
            .context("starting the threads that make answers")?;
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = channel();
        std::thread::Builder::new()
            .name("http".into())
            .spawn(move || {
                let _end = end;
                if let Err(error) = runtime.block_on(connections::serve(listener, router, stopped))
                {
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

#[cfg(test)]
mod tests;
