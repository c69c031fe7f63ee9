//! A client for the pages of another process. It sends one request and reads one response, within bounds on time and
//! size.

use std::time::Duration;

use anyhow::{Context, anyhow};
use axum::body::{Body, to_bytes};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::base::error::{Exit, Failure};

/// Time limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for a whole response; longer than the server waits for a tick.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Greatest size of a response, in bytes.
const RESPONSE_MAX: usize = 256 << 20;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The address as the user gave it.
    text: String,
    /// Host and port to connect to.
    address: (String, u16),
    /// The `Host` of a request.
    authority: String,
    /// The prefix of each path.
    base: String,
}

impl std::str::FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("\"{text}\" {why}: give http://HOST:PORT");
        let uri: Uri = text.parse().map_err(|error| wrong(&format!("is not a URL ({error})")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some(_) => return Err(wrong("has a scheme other than http")),
            None => return Err(wrong("does not begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("has a user name, and the server requires none"));
        }
        if uri.query().is_some() {
            return Err(wrong("has a query"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Server {
            text: text.to_owned(),
            address: (host, authority.port_u16().unwrap_or(80)),
            authority: authority.to_string(),
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

/// The response of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status. It shows whether the body is the requested page or an error.
    pub status: StatusCode,
    /// The body.
    pub body: String,
}

impl Server {
    /// Returns the address as the user gave it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Requests a path, which may have a query.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if the server can't be reached or does not respond in time; [`Exit::Failed`] if the
    /// response is not valid.
    pub fn get(&self, path: &str) -> Result<HttpResponse, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .context("setting up the client")?;
        runtime.block_on(self.request(path))
    }

    async fn request(&self, path: &str) -> Result<HttpResponse, Failure> {
        let requesting = || format!("querying \"{}\"", self.text);
        let unavailable = |error: anyhow::Error| {
            let error = error.context(requesting());
            Failure::new(Exit::Unavailable, error)
        };
        let connect = TcpStream::connect((self.address.0.as_str(), self.address.1));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| {
                let secs = CONNECT_TIMEOUT.as_secs();
                unavailable(anyhow!("no connection within {secs} s"))
            })?
            .map_err(|error| unavailable(error.into()))?;
        let response = tokio::time::timeout(RESPONSE_TIMEOUT, self.exchange(stream, path)).await;
        let late = |_| {
            let secs = RESPONSE_TIMEOUT.as_secs();
            unavailable(anyhow!("no complete response within {secs} s"))
        };
        Ok(response.map_err(late)?.with_context(requesting)?)
    }

    async fn exchange(&self, stream: TcpStream, path: &str) -> anyhow::Result<HttpResponse> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The connection ends with the response, or with an error that the response has too.
        tokio::spawn(connection);
        let request = Request::get(format!("{}{path}", self.base))
            .header(HOST, &self.authority)
            .header(CONNECTION, "close")
            .body(Body::empty())
            .context("making the request")?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), RESPONSE_MAX).await?;
        let body = String::from_utf8(body.to_vec()).context("the response is not UTF-8")?;
        Ok(HttpResponse { status, body })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn server_address_that_is_no_plain_http_url_is_rejected() {
        let server = |text: &str| text.parse::<Server>();
        let base = |text| server(text).map(|server| (server.address, server.base));
        let local = |base: &str| Ok((("127.0.0.1".to_owned(), 9464), base.to_owned()));
        assert_eq!(base("http://127.0.0.1:9464"), local(""));
        assert_eq!(base("http://127.0.0.1:9464/"), local(""));
        assert_eq!(base("http://127.0.0.1:9464/behind/it/"), local("/behind/it"));
        assert_eq!(base("http://[::1]"), Ok((("::1".to_owned(), 80), String::new())));
        for bad in [
            "",
            "127.0.0.1:9464",
            "localhost",
            "https://here",
            "kafka://here/topic",
            "http://",
            "http://me:secret@here",
            "http://here/?at=now",
        ] {
            let why = server(bad).unwrap_err();
            assert!(why.contains("give http://HOST:PORT"), "{bad}: {why}");
        }
    }

    /// Returns the client's result for a server that responds with these bytes.
    fn response_to(with: &'static [u8]) -> Result<HttpResponse, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}/base", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1000];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(with).unwrap();
            String::from_utf8(request[..read].to_vec()).unwrap()
        });
        let response = server.parse::<Server>().unwrap().get("/page?a=b");
        assert!(thread.join().unwrap().starts_with("GET /base/page?a=b HTTP/1.1\r\n"));
        response
    }

    #[test]
    fn response_that_is_cut_or_malformed_is_an_error() {
        let whole = response_to(b"HTTP/1.1 503 Later\r\ncontent-length: 3\r\n\r\nso\n").unwrap();
        assert_eq!((whole.status.as_u16(), whole.body.as_str()), (503, "so\n"));
        for bad in [
            b"".as_slice(),
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xfe",
        ] {
            let failure = response_to(bad).unwrap_err();
            assert_eq!(failure.exit, Exit::Failed);
            assert!(failure.error.to_string().starts_with("querying \"http://127.0.0.1:"));
        }
    }

    #[test]
    fn unreachable_server_is_named_in_the_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let failure = server.parse::<Server>().unwrap().get("/").unwrap_err();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(format!("{:#}", failure.error).contains(&format!("querying \"{server}\"")));
    }
}
