//! The options about what is served over HTTP.

use std::sync::Arc;

use crate::base::error::Failure;
use crate::http::{self, Server, Subject};

/// The options of a command that can be asked how it is.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "serving")]
pub struct Args {
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
        value_parser = http::name
    )]
    http_host: Vec<String>,
}

impl Args {
    /// Whether anything is to be served.
    pub fn is_given(&self) -> bool {
        self.http.is_some()
    }

    /// Serves from now on, until the server is dropped, if that is wanted. `above` is added to the port.
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
