use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, json};

use super::*;
use crate::runner::{ExplainQuery, FutureResponse, QueryError, QueryResponse};

/// A process whose state never changes: healthy or not.
struct FixedSubject(bool);

impl Subject for FixedSubject {
    fn as_of(&self) -> Option<u64> {
        self.0.then_some(1_700_000_000_123)
    }

    fn dead(&self) -> Option<String> {
        (!self.0).then(|| "no tick".to_owned())
    }

    fn readiness(&self) -> Readiness {
        let details = Map::from_iter([("reasons".to_owned(), json!([]))]);
        Readiness { ready: self.0, details }
    }

    fn refresh_metrics(&self) {}
}

fn start(subject: FixedSubject) -> Server {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Server::start(any, Arc::new(subject)).unwrap_or_else(|failure| panic!("{:#}", failure.error))
}

/// Sends a request that closes the connection, and returns the whole response.
fn send(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

fn get(server: &Server, path: &str) -> String {
    send(server, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
}

#[test]
fn response_has_the_time_of_its_tick() {
    let server = start(FixedSubject(true));
    for (path, status) in [
        ("/metrics", "200 OK"),
        ("/healthz", "200 OK"),
        ("/readyz", "200 OK"),
        ("/elsewhere", "404 Not Found"),
    ] {
        let response = get(&server, path);
        assert!(response.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{path}: {response}");
        assert!(response.contains("floodmark-as-of: 2023-11-14T22:13:20.123Z\r\n"), "{response}");
        if path != "/metrics" {
            assert!(response.contains(r#""as_of":"2023-11-14T22:13:20.123Z""#), "{response}");
        }
    }
    let response =
        send(&server, "POST /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(response.starts_with("HTTP/1.1 405 "), "{response}");
    let server = start(FixedSubject(false));
    for path in ["/healthz", "/readyz"] {
        let response = get(&server, path);
        assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
        assert!(response.contains(r#""as_of":null"#), "{response}");
    }
}

#[test]
fn silent_and_malformed_clients_do_not_block_the_server() {
    let server = start(FixedSubject(true));
    let silent: Vec<_> = (0..32).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    let noise = send(&server, "\u{16}\u{3}\u{1} hello?\r\n\r\n");
    assert!(noise.is_empty() || noise.starts_with("HTTP/1.1 400 "), "{noise}");
    let long = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(1 << 12));
    assert!(
        send(&server, &long.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).contains("404")
    );
    assert!(get(&server, "/healthz").contains(r#""alive":true"#));
    // These connections do not keep the server from shutting down either.
    drop(server);
    drop(silent);
}

#[test]
fn address_in_use_is_named_in_the_error() {
    let server = start(FixedSubject(true));
    let address = server.address();
    let failure = Server::start(address, Arc::new(FixedSubject(true))).unwrap_err();
    assert_eq!(failure.exit, Exit::Failed);
    let error = format!("{:#}", failure.error);
    assert!(error.contains(&format!("\"{address}\"")) && error.contains("in use"), "{error}");
    drop(server);
    // The address is free again at once.
    assert!(Server::start(address, Arc::new(FixedSubject(true))).is_ok());
}

#[test]
fn process_number_is_added_to_the_port() {
    let port = |text, above| address(text, above).map(|address| address.port());
    assert_eq!(port("127.0.0.1:9464", 0).unwrap(), 9464);
    assert_eq!(port("127.0.0.1:9464", 3).unwrap(), 9467);
    assert_eq!(port("[::1]:0", 3).unwrap(), 0);
    let error = port("127.0.0.1:65535", 1).unwrap_err().to_string();
    assert!(error.contains("port 65536"), "{error}");
    for wrong in ["9464", "127.0.0.1", "127.0.0.1:http", ""] {
        let error = port(wrong, 0).unwrap_err().to_string();
        assert!(error.contains(&format!("\"{wrong}\"")) && error.contains("--http"), "{error}");
    }
    assert!(is_loopback("::ffff:127.0.0.1".parse().unwrap()));
    assert!(!is_loopback("0.0.0.0".parse().unwrap()));
}

/// A handler whose response or error depends on the time in the query.
struct HandlerByTime;

impl QueryHandler for HandlerByTime {
    fn explain(&self, query: ExplainQuery) -> FutureResponse {
        let response = match query.at_ms {
            None => Ok(QueryResponse {
                as_of: 1_600_000_000_000,
                object: Box::new(|out| out.write_all(b"{}\n")),
            }),
            Some(0) => Err(QueryError::Elsewhere { process: 3 }),
            Some(1) => Err(QueryError::Busy),
            Some(2) => Err(QueryError::NotBegun),
            Some(3) => Err(QueryError::Ended),
            Some(_) => Err(QueryError::NoWindow),
        };
        Box::pin(std::future::ready(response))
    }
}

/// A process that is ready and has completed this tick, with this handler of queries.
struct ReadySubject<H>(u64, H);

impl<H: QueryHandler + 'static> Subject for ReadySubject<H> {
    fn as_of(&self) -> Option<u64> {
        Some(self.0)
    }

    fn dead(&self) -> Option<String> {
        None
    }

    fn readiness(&self) -> Readiness {
        Readiness { ready: true, details: Map::new() }
    }

    fn query_handler(&self) -> Option<&dyn QueryHandler> {
        Some(&self.1)
    }

    fn refresh_metrics(&self) {}
}

#[test]
fn query_gets_a_response_or_the_status_of_its_error() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let subject = ReadySubject(1_700_000_000_123, HandlerByTime);
    let server = Server::start(any, Arc::new(subject)).expect("a server");
    let pair = "/api/v1/explain?source=10.0.0.1&destination=10.0.0.2";
    let response = get(&server, pair);
    assert!(
        response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("{}\n"),
        "{response}"
    );
    // The header has the tick of the response, and not the newest one.
    assert!(response.contains("floodmark-as-of: 2020-09-13T12:26:40Z\r\n"), "{response}");
    for (at, status, retries, part) in [
        ("00:00:00Z", 421, false, "this is process 3, and only process 0"),
        ("00:00:00.001Z", 503, true, "too many queries"),
        ("00:00:00.002Z", 503, true, "has not started"),
        ("00:00:00.003Z", 503, false, "the run is shutting down"),
        ("00:00:00.004Z", 400, false, "no window contains"),
        ("25:00:00Z", 400, false, "parameter \\\"at\\\""),
    ] {
        let response = get(&server, &format!("{pair}&at=1970-01-01T{at}"));
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{at}: {response}");
        assert_eq!(response.contains("retry-after: 1\r\n"), retries, "{response}");
        assert!(response.contains(part), "{response}");
        assert!(response.contains("\"as_of\":\"2023-11-14T22:13:20.123Z\""), "{response}");
    }
    let post = format!("POST {pair} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(send(&server, &post).starts_with("HTTP/1.1 405 "));
    assert!(get(&server, "/elsewhere").contains("/api/v1/explain"));
    drop(server);
    // A server whose subject has no query handler does not have the page.
    let response = get(&start(FixedSubject(true)), pair);
    assert!(response.starts_with("HTTP/1.1 404 ") && !response.contains("explain"), "{response}");
}

/// A handler whose responses have a fixed size.
struct SizedHandler {
    /// Bytes of each response.
    bytes: usize,
    /// Responses that are being written now, and the most at once.
    writing: Arc<(AtomicUsize, AtomicUsize)>,
}

impl QueryHandler for SizedHandler {
    fn explain(&self, _: ExplainQuery) -> FutureResponse {
        let (bytes, writing) = (self.bytes, self.writing.clone());
        let object = Box::new(move |out: &mut dyn Write| {
            let now = writing.0.fetch_add(1, Ordering::SeqCst) + 1;
            writing.1.fetch_max(now, Ordering::SeqCst);
            let written = (0..bytes / 8).try_for_each(|_| out.write_all(b"12345678"));
            writing.0.fetch_sub(1, Ordering::SeqCst);
            written
        });
        Box::pin(std::future::ready(Ok(QueryResponse { as_of: 1, object })))
    }
}

const EXPLAIN: &str = "GET /api/v1/explain?source=10.0.0.1&destination=10.0.0.2 HTTP/1.1\r\n\
                       host: localhost\r\nconnection: close\r\n\r\n";

fn start_sized(bytes: usize) -> (Server, Arc<(AtomicUsize, AtomicUsize)>) {
    let writing = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let handler = SizedHandler { bytes, writing: writing.clone() };
    (Server::start(any, Arc::new(ReadySubject(1, handler))).expect("a server"), writing)
}

/// Checks that each probe gets its response within a second.
fn assert_probes_respond(server: &Server) {
    for path in ["/healthz", "/readyz", "/metrics"] {
        let sent = Instant::now();
        assert!(get(server, path).starts_with("HTTP/1.1 200 OK\r\n"), "{path}");
        assert!(sent.elapsed() < Duration::from_secs(1), "{path}: {:?}", sent.elapsed());
    }
}

#[test]
fn health_responds_while_idle_and_slow_connections_are_open() {
    let server = start(FixedSubject(true));
    let mut others = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        match number % 3 {
            // The client sends nothing.
            0 => {}
            // The client stops within the head of its request.
            1 => stream.write_all(b"GET /healthz HT").unwrap(),
            // The connection is kept alive.
            _ => {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
                assert!(stream.read(&mut [0; 1000]).unwrap() > 0);
            }
        }
        others.push(stream);
        if number % 50 == 49 {
            assert_probes_respond(&server);
        }
    }
    // The server has closed the first of them.
    others[0].set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert!(matches!(others[0].read(&mut [0; 10]), Ok(0) | Err(_)));
}

#[test]
fn health_responds_while_clients_do_not_read_large_responses() {
    let (server, writing) = start_sized(64 << 20);
    let mut slow: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(EXPLAIN.as_bytes()).unwrap();
            stream
        })
        .collect();
    // The first bytes have arrived, so the response is being written.
    slow[0].read_exact(&mut [0; 10]).unwrap();
    assert_probes_respond(&server);
    assert!(
        writing.1.load(Ordering::SeqCst) <= 2,
        "more responses are written at once than there are threads"
    );
    // The server does not wait for clients that read nothing.
    drop(server);
}

#[test]
fn response_of_any_size_arrives_whole() {
    for bytes in [8, 64 << 10, 3 << 20] {
        let (server, _) = start_sized(bytes);
        let response = send(&server, EXPLAIN);
        let (head, body) = response.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let digits = body.matches("12345678").count();
        match bytes < 64 << 10 {
            true => assert!(head.contains(&format!("content-length: {bytes}")), "{head}"),
            // Lines with the sizes of chunks may cut one in two.
            false => assert!(body.ends_with("\r\n0\r\n\r\n") && digits + 100 > bytes / 8),
        }
    }
}

#[test]
fn request_of_any_kind_gets_a_status() {
    let server = start(FixedSubject(true));
    let host = "host: localhost\r\n";
    let close = "connection: close\r\n";
    for (request, expected) in [
        ("GET /healthz HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 200 OK"),
        (format!("HEAD /metrics HTTP/1.1\r\n{host}{close}\r\n"), "HTTP/1.1 200 OK"),
        (format!("GET /healthz HTTP/1.1\r\n{close}\r\n"), "HTTP/1.1 400 Bad Request"),
        (format!("GET /healthz HTTP/1.1\r\nhost: evil.example\r\n{close}\r\n"), "HTTP/1.1 421 "),
        (format!("GET /{} HTTP/1.1\r\n{host}{close}\r\n", "x".repeat(20_000)), "HTTP/1.1 4"),
        (format!("GET / HTTP/1.1\r\n{host}x: {}\r\n\r\n", "x".repeat(20_000)), "HTTP/1.1 431 "),
        (format!("GET / HTTP/1.1\r\n{host}{}\r\n", "x: y\r\n".repeat(200)), "HTTP/1.1 431 "),
        // A body that no page reads, and that never arrives.
        (
            format!("GET /healthz HTTP/1.1\r\n{host}{close}content-length: 99999999\r\n\r\nx"),
            "HTTP/1.1 200 OK",
        ),
        (
            format!("POST /metrics HTTP/1.1\r\n{host}{close}transfer-encoding: chunked\r\n\r\n"),
            "HTTP/1.1 405 ",
        ),
    ] {
        let response = send(&server, &request);
        assert!(
            response.starts_with(expected),
            "{}: {response}",
            &request[..request.len().min(80)]
        );
    }
    // Several requests sent at once get their responses one after the other.
    let one = format!("GET /healthz HTTP/1.1\r\n{host}\r\n");
    let response = send(
        &server,
        &format!("{}{}", one.repeat(20), one.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")),
    );
    assert_eq!(response.matches("HTTP/1.1 200 OK").count(), 21, "{response}");
}
