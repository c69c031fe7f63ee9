//! The options for serving over HTTP.

use std::sync::Arc;

use crate::base::error::Failure;
use crate::http::{self, Server, Subject};

/// The options of a command that serves its status.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "serving")]
pub struct Args {
    /// Serve /metrics, /healthz and /readyz at this address, such as 127.0.0.1:9464; port 0 is any free port
    ///
    /// A run also serves /api/v1/explain, which `floodmark limits explain --from` queries.
    ///
    /// With several processes (-n), process P serves at PORT + P. Without this option floodmark serves
    /// nothing.
    #[arg(long, value_name = "HOST:PORT", env = "FLOODMARK_HTTP")]
    http: Option<String>,

    /// Another host name that requests to --http may have, such as floodmark.example.org; repeatable
    ///
    /// Requests may always name an IP address, localhost, the host of --http or the name of this machine.
    /// Requests with other names are rejected, since a web page could use its own name to read the data.
    #[arg(
        long,
        value_name = "NAME",
        env = "FLOODMARK_HTTP_HOST",
        value_delimiter = ',',
        value_parser = http::name
    )]
    http_host: Vec<String>,
}

impl Args {
    /// Whether the command serves HTTP.
    pub fn is_given(&self) -> bool {
        self.http.is_some()
    }

    /// Serves until the server is dropped, if --http is given. `above` is added to the port.
    pub fn serve(
        &self,
        above: usize,
        subject: Arc<dyn Subject>,
    ) -> Result<Option<Server>, Failure> {
        let options = |address: &String| http::Options {
            address: address.clone(),
            names: self.http_host.clone(),
        };
        let options = self.http.as_ref().map(options);
        options.map(|options| http::serve(&options, above, subject)).transpose()
    }
}
