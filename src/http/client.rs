//! A client for the pages of another process: one request, one response, and bounds on time and size.

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
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Greatest size of a response, in bytes.
const ANSWER_MAX: usize = 256 << 20;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The address as it was given.
    text: String,
    /// Host and port to connect to.
    address: (String, u16),
    /// The `Host` of a request.
    authority: String,
    /// The text before each path.
    base: String,
}

impl std::str::FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("\"{text}\" {why}: give http://HOST:PORT");
        let uri: Uri = text.parse().map_err(|error| wrong(&format!("is no address ({error})")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some(_) => return Err(wrong("is served without TLS or not at all")),
            None => return Err(wrong("has no http:// before it")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("has a user, and nobody is asked for one"));
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
    /// Whether the body is an answer, or the reason for none.
    pub status: StatusCode,
    /// The text.
    pub body: String,
}

impl Server {
    /// Returns the address as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Requests a path, which may have a query.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if nobody can be reached there; [`Exit::Failed`] if what comes is no
    /// answer.
    pub fn get(&self, path: &str) -> Result<HttpResponse, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .context("setting up the client")?;
        runtime.block_on(self.ask(path))
    }

    async fn ask(&self, path: &str) -> Result<HttpResponse, Failure> {
        let asking = || format!("asking \"{}\"", self.text);
        let unavailable = |error: anyhow::Error| {
            let error = error.context(asking());
            Failure::new(Exit::Unavailable, error)
        };
        let connect = TcpStream::connect((self.address.0.as_str(), self.address.1));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| {
                let secs = CONNECT_TIMEOUT.as_secs();
                unavailable(anyhow!("nobody has answered for {secs} s"))
            })?
            .map_err(|error| unavailable(error.into()))?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(stream, path)).await;
        let late = |_| {
            let secs = ANSWER_TIMEOUT.as_secs();
            unavailable(anyhow!("the answer has not come for {secs} s"))
        };
        Ok(answer.map_err(late)?.with_context(asking)?)
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
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = to_bytes(Body::new(answer.into_body()), ANSWER_MAX).await?;
        let body = String::from_utf8(body.to_vec()).context("the answer is no text")?;
        Ok(HttpResponse { status, body })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_are_checked() {
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
    fn answered(with: &'static [u8]) -> Result<HttpResponse, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}/base", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1000];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(with).unwrap();
            String::from_utf8(request[..read].to_vec()).unwrap()
        });
        let answer = server.parse::<Server>().unwrap().get("/page?a=b");
        assert!(thread.join().unwrap().starts_with("GET /base/page?a=b HTTP/1.1\r\n"));
        answer
    }

    #[test]
    fn answers_are_taken_whole_or_not_at_all() {
        let whole = answered(b"HTTP/1.1 503 Later\r\ncontent-length: 3\r\n\r\nso\n").unwrap();
        assert_eq!((whole.status.as_u16(), whole.body.as_str()), (503, "so\n"));
        for bad in [
            b"".as_slice(),
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xfe",
        ] {
            let failure = answered(bad).unwrap_err();
            assert_eq!(failure.exit, Exit::Failed);
            assert!(failure.error.to_string().starts_with("asking \"http://127.0.0.1:"));
        }
    }

    #[test]
    fn nobody_there_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let failure = server.parse::<Server>().unwrap().get("/").unwrap_err();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(format!("{:#}", failure.error).contains(&format!("asking \"{server}\"")));
    }
}
