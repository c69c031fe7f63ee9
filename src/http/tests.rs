use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, json};

use super::*;
use crate::runner::{Answer, Answering, Question, Refusal};

/// Always the same.
struct Still(bool);

impl Subject for Still {
    fn as_of(&self) -> Option<u64> {
        self.0.then_some(1_700_000_000_123)
    }

    fn dead(&self) -> Option<String> {
        (!self.0).then(|| "it stands".to_owned())
    }

    fn readiness(&self) -> Readiness {
        let details = Map::from_iter([("reasons".to_owned(), json!([]))]);
        Readiness { ready: self.0, details }
    }

    fn refresh_metrics(&self) {}
}

fn start(subject: Still) -> Server {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Server::start(any, Arc::new(subject)).unwrap_or_else(|failure| panic!("{:#}", failure.error))
}

/// The whole answer to a request, which closes the connection.
fn ask(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(server: &Server, path: &str) -> String {
    ask(server, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
}

#[test]
fn every_answer_says_as_of_when() {
    let server = start(Still(true));
    for (path, status) in [
        ("/metrics", "200 OK"),
        ("/healthz", "200 OK"),
        ("/readyz", "200 OK"),
        ("/elsewhere", "404 Not Found"),
    ] {
        let answer = get(&server, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{path}: {answer}");
        assert!(answer.contains("floodmark-as-of: 2023-11-14T22:13:20.123Z\r\n"), "{answer}");
        if path != "/metrics" {
            assert!(answer.contains(r#""as_of":"2023-11-14T22:13:20.123Z""#), "{answer}");
        }
    }
    let answer =
        ask(&server, "POST /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    let server = start(Still(false));
    for path in ["/healthz", "/readyz"] {
        let answer = get(&server, path);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains(r#""as_of":null"#), "{answer}");
    }
}

#[test]
fn strangers_do_no_harm() {
    let server = start(Still(true));
    let silent: Vec<_> = (0..32).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    let noise = ask(&server, "\u{16}\u{3}\u{1} hello?\r\n\r\n");
    assert!(noise.is_empty() || noise.starts_with("HTTP/1.1 400 "), "{noise}");
    let long = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(1 << 12));
    assert!(
        ask(&server, &long.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).contains("404")
    );
    assert!(get(&server, "/healthz").contains(r#""alive":true"#));
    // These connections do not keep the server from shutting down either.
    drop(server);
    drop(silent);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let server = start(Still(true));
    let taken = server.address();
    let failure = Server::start(taken, Arc::new(Still(true))).unwrap_err();
    assert_eq!(failure.exit, Exit::Failed);
    let said = format!("{:#}", failure.error);
    assert!(said.contains(&format!("\"{taken}\"")) && said.contains("in use"), "{said}");
    drop(server);
    // The address is free again at once.
    assert!(Server::start(taken, Arc::new(Still(true))).is_ok());
}

#[test]
fn each_process_has_a_port() {
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

/// Answers as the time of the question says.
struct Oracle;

impl Answers for Oracle {
    fn explain(&self, question: Question) -> Answering {
        let answer = match question.at_ms {
            None => Ok(Answer {
                as_of: 1_600_000_000_000,
                object: Box::new(|out| out.write_all(b"{}\n")),
            }),
            Some(0) => Err(Refusal::Elsewhere { process: 3 }),
            Some(1) => Err(Refusal::Busy),
            Some(2) => Err(Refusal::NotBegun),
            Some(3) => Err(Refusal::Ended),
            Some(_) => Err(Refusal::NoWindow),
        };
        Box::pin(std::future::ready(answer))
    }
}

/// A process that is ready and has done this tick, with these answers.
struct Ready<A>(u64, A);

impl<A: Answers + 'static> Subject for Ready<A> {
    fn as_of(&self) -> Option<u64> {
        Some(self.0)
    }

    fn dead(&self) -> Option<String> {
        None
    }

    fn readiness(&self) -> Readiness {
        Readiness { ready: true, details: Map::new() }
    }

    fn answers(&self) -> Option<&dyn Answers> {
        Some(&self.1)
    }

    fn refresh_metrics(&self) {}
}

#[test]
fn a_question_is_answered_or_refused() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(any, Arc::new(Ready(1_700_000_000_123, Oracle))).expect("it serves");
    let pair = "/api/v1/explain?source=10.0.0.1&destination=10.0.0.2";
    let answer = get(&server, pair);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("{}\n"), "{answer}");
    // The tick of the answer, and not the last one.
    assert!(answer.contains("floodmark-as-of: 2020-09-13T12:26:40Z\r\n"), "{answer}");
    for (at, status, retries, part) in [
        ("00:00:00Z", 421, false, "this is process 3, and only process 0"),
        ("00:00:00.001Z", 503, true, "too many questions"),
        ("00:00:00.002Z", 503, true, "has not begun"),
        ("00:00:00.003Z", 503, false, "the run ends"),
        ("00:00:00.004Z", 400, false, "no window holds"),
        ("25:00:00Z", 400, false, "parameter \\\"at\\\""),
    ] {
        let answer = get(&server, &format!("{pair}&at=1970-01-01T{at}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{at}: {answer}");
        assert_eq!(answer.contains("retry-after: 1\r\n"), retries, "{answer}");
        assert!(answer.contains(part), "{answer}");
        assert!(answer.contains("\"as_of\":\"2023-11-14T22:13:20.123Z\""), "{answer}");
    }
    let post = format!("POST {pair} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(ask(&server, &post).starts_with("HTTP/1.1 405 "));
    assert!(get(&server, "/elsewhere").contains("/api/v1/explain"));
    drop(server);
    // A server whose subject answers no questions does not have the page.
    let answer = get(&start(Still(true)), pair);
    assert!(answer.starts_with("HTTP/1.1 404 ") && !answer.contains("explain"), "{answer}");
}

/// Answers each question with a set number of bytes.
struct Talker {
    /// Bytes of each answer.
    bytes: usize,
    /// Answers that are being written now, and the most at once.
    writing: Arc<(AtomicUsize, AtomicUsize)>,
}

impl Answers for Talker {
    fn explain(&self, _: Question) -> Answering {
        let (bytes, writing) = (self.bytes, self.writing.clone());
        let object = Box::new(move |out: &mut dyn Write| {
            let now = writing.0.fetch_add(1, Ordering::SeqCst) + 1;
            writing.1.fetch_max(now, Ordering::SeqCst);
            let written = (0..bytes / 8).try_for_each(|_| out.write_all(b"12345678"));
            writing.0.fetch_sub(1, Ordering::SeqCst);
            written
        });
        Box::pin(std::future::ready(Ok(Answer { as_of: 1, object })))
    }
}

const EXPLAIN: &str = "GET /api/v1/explain?source=10.0.0.1&destination=10.0.0.2 HTTP/1.1\r\n\
                       host: localhost\r\nconnection: close\r\n\r\n";

fn talker(bytes: usize) -> (Server, Arc<(AtomicUsize, AtomicUsize)>) {
    let writing = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let talker = Talker { bytes, writing: writing.clone() };
    (Server::start(any, Arc::new(Ready(1, talker))).expect("it serves"), writing)
}

/// A probe gets its answer within a second.
fn probe(server: &Server) {
    for path in ["/healthz", "/readyz", "/metrics"] {
        let asked = Instant::now();
        assert!(get(server, path).starts_with("HTTP/1.1 200 OK\r\n"), "{path}");
        assert!(asked.elapsed() < Duration::from_secs(1), "{path}: {:?}", asked.elapsed());
    }
}

#[test]
fn health_is_answered_while_idle_and_slow_connections_are_open() {
    let server = start(Still(true));
    let mut others = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        match number % 3 {
            // The client sends nothing.
            0 => {}
            // Slowly, byte by byte.
            1 => stream.write_all(b"GET /healthz HT").unwrap(),
            // The connection is kept alive.
            _ => {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
                assert!(stream.read(&mut [0; 1000]).unwrap() > 0);
            }
        }
        others.push(stream);
        if number % 50 == 49 {
            probe(&server);
        }
    }
    // The first of them have made room.
    others[0].set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert!(matches!(others[0].read(&mut [0; 10]), Ok(0) | Err(_)));
}

#[test]
fn health_is_answered_while_nobody_takes_large_answers() {
    let (server, writing) = talker(64 << 20);
    let mut slow: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(EXPLAIN.as_bytes()).unwrap();
            stream
        })
        .collect();
    // Some of it has come, so that it is being written.
    slow[0].read_exact(&mut [0; 10]).unwrap();
    probe(&server);
    assert!(writing.1.load(Ordering::SeqCst) <= 2, "not all of them are made at once");
    // The server does not wait for clients that take nothing.
    drop(server);
}

#[test]
fn answers_of_any_size_arrive_whole() {
    for bytes in [8, 64 << 10, 3 << 20] {
        let (server, _) = talker(bytes);
        let answer = ask(&server, EXPLAIN);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let digits = body.matches("12345678").count();
        match bytes < 64 << 10 {
            true => assert!(head.contains(&format!("content-length: {bytes}")), "{head}"),
            // Lines with the sizes of parts may cut one in two.
            false => assert!(body.ends_with("\r\n0\r\n\r\n") && digits + 100 > bytes / 8),
        }
    }
}

#[test]
fn requests_of_any_kind_are_answered_or_refused() {
    let server = start(Still(true));
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
        // A body that nobody wants, and that never comes.
        (
            format!("GET /healthz HTTP/1.1\r\n{host}{close}content-length: 99999999\r\n\r\nx"),
            "HTTP/1.1 200 OK",
        ),
        (
            format!("POST /metrics HTTP/1.1\r\n{host}{close}transfer-encoding: chunked\r\n\r\n"),
            "HTTP/1.1 405 ",
        ),
    ] {
        let answer = ask(&server, &request);
        assert!(answer.starts_with(expected), "{}: {answer}", &request[..request.len().min(80)]);
    }
    // Several at once are answered one after the other.
    let one = format!("GET /healthz HTTP/1.1\r\n{host}\r\n");
    let answer = ask(
        &server,
        &format!("{}{}", one.repeat(20), one.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")),
    );
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 21, "{answer}");
}
