use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Map, json};

use super::*;

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
    ask(server, &format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"))
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
    let answer = ask(&server, "POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
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
    let silent: Vec<_> =
        (0..CONNECTIONS_MAX / 2).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    let noise = ask(&server, "\u{16}\u{3}\u{1} hello?\r\n\r\n");
    assert!(noise.is_empty() || noise.starts_with("HTTP/1.1 400 "), "{noise}");
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 12));
    assert!(
        ask(&server, &long.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).contains("404")
    );
    assert!(get(&server, "/healthz").contains(r#""alive":true"#));
    // They do not keep it from ending either.
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
    // It is free again at once.
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
            None => Ok(Answer { as_of: 1_600_000_000_000, object: "{}\n".into() }),
            Some(0) => Err(Refusal::Elsewhere { process: 3 }),
            Some(1) => Err(Refusal::Busy),
            Some(2) => Err(Refusal::NotBegun),
            Some(3) => Err(Refusal::Ended),
            Some(_) => Err(Refusal::NoWindow),
        };
        Box::pin(std::future::ready(answer))
    }
}

impl Subject for Oracle {
    fn as_of(&self) -> Option<u64> {
        Some(1_700_000_000_123)
    }

    fn dead(&self) -> Option<String> {
        None
    }

    fn readiness(&self) -> Readiness {
        Readiness { ready: true, details: Map::new() }
    }

    fn answers(&self) -> Option<&dyn Answers> {
        Some(self)
    }

    fn refresh_metrics(&self) {}
}

#[test]
fn a_question_is_answered_or_refused() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(any, Arc::new(Oracle)).expect("it serves");
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
    let post = format!("POST {pair} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(ask(&server, &post).starts_with("HTTP/1.1 405 "));
    assert!(get(&server, "/elsewhere").contains("/api/v1/explain"));
    drop(server);
    // Where nobody answers there is no such page.
    let answer = get(&start(Still(true)), pair);
    assert!(answer.starts_with("HTTP/1.1 404 ") && !answer.contains("explain"), "{answer}");
}
