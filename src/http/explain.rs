//! The page `/api/v1/explain`: which limits apply to a pair, and why none does.
//!
//! This module parses and checks a question before the computation sees it. The
//! [`Subject`](super::Subject) answers it; this module bounds the wait for the answer, and responds with
//! an error if there is none.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper::body::{Bytes, Frame};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::served::{AS_OF, Served, answer, as_of, as_of_header, object};
use crate::base::quote::Quoted;
use crate::base::{date, network};
use crate::runner::{Answer, Question, Refusal, WriteObject};

/// The path of the page.
pub(super) const PATH: &str = "/api/v1/explain";

/// Time limit for an answer. An answer comes with a tick, of which there are many a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for a client to take its answer. Others wait for the slot of that answer meanwhile.
const TAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// The size of a part of an answer, and how many of them wait for the client.
const PART: usize = 64 << 10;
const PARTS_WAITING: usize = 2;

/// The fault of a question: the parameter, its value (`None` if it is missing), and a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    parameter: String,
    value: Option<String>,
    text: String,
}

/// Parses a query.
fn question(query: &str) -> Result<Question, Fault> {
    let mut given = BTreeMap::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        // A plus sign is itself, so that an offset of a time needs no escape.
        let [name, value] = [name, value].map(|text| percent_decode_str(text).decode_utf8_lossy());
        let fault = |text: String| Fault {
            parameter: name.clone().into_owned(),
            value: Some(value.clone().into_owned()),
            text,
        };
        let Some(known) = PARAMETERS.into_iter().find(|known| *known == name) else {
            let names = PARAMETERS.join(", ");
            return Err(fault(format!("unknown parameter {}: there are {names}", Quoted(&name))));
        };
        if given.contains_key(known) {
            return Err(fault(format!("parameter \"{known}\" is given twice: give it once")));
        }
        given.insert(known, value);
    }
    let address = |parameter: &'static str| {
        let value = given.get(parameter).map(Cow::as_ref).ok_or_else(|| {
            let text = format!("parameter \"{parameter}\" is missing: give an address");
            Fault { parameter: parameter.into(), value: None, text }
        })?;
        network::address(value).map_err(|error| fault(parameter, value, &error))
    };
    let (source, destination) = (address("source")?, address("destination")?);
    let pair = network::pair(source, destination)
        .map_err(|error| fault("destination", &destination.to_string(), &error))?;
    let at_ms = given.get("at").map(|text| {
        let nanos = date::parse(text).map_err(|error| error.to_string());
        nanos
            .and_then(|nanos| {
                let ms = u64::try_from(nanos.div_euclid(1_000_000));
                ms.map_err(|_| format!("{} is before 1970; give a later time", Quoted(text)))
            })
            .map_err(|error| fault("at", text, &error))
    });
    let all = given.get("all").map_or(Ok(false), |text| match text.as_ref() {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(fault("all", other, &format!("{} is neither true nor false", Quoted(other)))),
    });
    Ok(Question { pair, at_ms: at_ms.transpose()?, all: all? })
}

const PARAMETERS: [&str; 4] = ["source", "destination", "at", "all"];

fn fault(parameter: &str, value: &str, error: &str) -> Fault {
    let text = format!("parameter \"{parameter}\": {error}");
    Fault { parameter: parameter.into(), value: Some(value.into()), text }
}

pub(super) async fn show(State(served): State<Arc<Served>>, RawQuery(query): RawQuery) -> Response {
    let question = match question(query.as_deref().unwrap_or_default()) {
        Ok(question) => question,
        Err(Fault { parameter, value, text }) => {
            let error = json!({
                "as_of": as_of(&served), "error": text, "parameter": parameter, "value": value,
            });
            return object(StatusCode::BAD_REQUEST, &error);
        }
    };
    let answers = served.subject.answers().expect("it is served only if somebody answers");
    match tokio::time::timeout(ANSWER_TIMEOUT, answers.explain(question)).await {
        Ok(Ok(Answer { as_of, object })) => {
            let Some(mut response) = written(&served, object).await else {
                return refuse(&served, &Refusal::Ended);
            };
            response.headers_mut().insert(AS_OF, as_of_header(Some(as_of)));
            response
        }
        Ok(Err(refusal)) => refuse(&served, &refusal),
        Err(_) => {
            let secs = ANSWER_TIMEOUT.as_secs();
            let error = format!("no tick was done for {secs} s: /readyz says why");
            let error = json!({"as_of": as_of(&served), "error": error});
            object(StatusCode::GATEWAY_TIMEOUT, &error)
        }
    }
}

/// Has an answer written, and sent part by part: of many limits it is large, and its client may be slow.
async fn written(served: &Served, object: WriteObject) -> Option<Response> {
    let (parts, mut written) = channel(PARTS_WAITING);
    let mut out = Parts { parts, bytes: Vec::new() };
    let write = move || {
        // Without its client an answer ends.
        let _ = object(&mut out).and_then(|()| out.send());
    };
    served.explanations.as_ref()?.run(write);
    let first = written.recv().await?;
    let whole = answer(StatusCode::OK, "application/json", String::new());
    let body = match written.recv().await {
        None => Body::from(first),
        Some(second) => {
            let until = Instant::now() + TAKE_TIMEOUT;
            Body::new(Streamed { first: Some(first), second: Some(second), rest: written, until })
        }
    };
    Some(whole.map(|_| body))
}

/// Parts of an answer for its client. To write waits until the client has taken some.
struct Parts {
    parts: Sender<Bytes>,
    bytes: Vec<u8>,
}

impl Parts {
    fn send(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.bytes);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.parts.blocking_send(bytes.into()).map_err(gone)
    }
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= PART {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The body of a large answer.
struct Streamed {
    first: Option<Bytes>,
    second: Option<Bytes>,
    rest: Receiver<Bytes>,
    until: Instant,
}

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if Instant::now() > self.until {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        if let Some(part) = self.first.take().or_else(|| self.second.take()) {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        self.rest.poll_recv(context).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

fn refuse(served: &Served, refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::Elsewhere { .. } => StatusCode::MISDIRECTED_REQUEST,
        Refusal::NoWindow => StatusCode::BAD_REQUEST,
        Refusal::NotBegun | Refusal::Busy | Refusal::Ended => StatusCode::SERVICE_UNAVAILABLE,
    };
    let error = json!({"as_of": as_of(served), "error": refusal.to_string()});
    let mut response = object(status, &error);
    if matches!(refusal, Refusal::NotBegun | Refusal::Busy) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::types::Pair;

    use super::*;

    #[test]
    fn questions_are_read() {
        let ask = |query: &str| question(query).unwrap_or_else(|fault| panic!("{fault:?}"));
        let pair = |source: &str, destination: &str| {
            Pair::new(source.parse().unwrap(), destination.parse().unwrap()).unwrap()
        };
        let plain = ask("source=10.0.0.1&destination=10.0.0.2");
        assert_eq!(plain, Question { pair: pair("10.0.0.1", "10.0.0.2"), at_ms: None, all: false });
        let escaped = ask("destination=2001%3adb8::2&source=2001:db8::1&at=2024-05-01&all=true&");
        assert_eq!(
            escaped,
            Question {
                pair: pair("2001:db8::1", "2001:db8::2"),
                at_ms: Some(1_714_521_600_000),
                all: true
            }
        );
        // Whole milliseconds; an offset, escaped or not.
        for at in ["2024-05-01T02:00:00.0019+02:00", "2024-05-01%2002:00:00.001%2B02:00"] {
            let asked = ask(&format!("source=::1&destination=::2&all=false&at={at}"));
            assert_eq!(asked.at_ms, Some(1_714_521_600_001), "{at}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let pair = "source=10.0.0.1&destination=10.0.0.2";
        for (query, parameter, value, part) in [
            ("", "source", None, "missing"),
            ("source=10.0.0.1", "destination", None, "missing: give an address"),
            ("source=&destination=::1", "source", Some(""), "not an address"),
            ("source=10.0.0.0/8&destination=::1", "source", Some("10.0.0.0/8"), "like 10.1.2.3"),
            ("source=10.0.0.1&destination=::1", "destination", Some("::1"), "different families"),
            (&format!("{pair}&at=soon"), "at", Some("soon"), "\"soon\" is not a date; write"),
            (&format!("{pair}&at=1969-12-31"), "at", Some("1969-12-31"), "before 1970"),
            (&format!("{pair}&at=infinity"), "at", Some("infinity"), "no moment"),
            (&format!("{pair}&all=1"), "all", Some("1"), "neither true nor false"),
            (&format!("{pair}&sorce=::1"), "sorce", Some("::1"), "there are source, destination"),
            (&format!("{pair}&at"), "at", Some(""), "not a date"),
            (&format!("{pair}&source=10.0.0.1"), "source", Some("10.0.0.1"), "given twice"),
            ("source=%ff%00&destination=::1", "source", Some("\u{fffd}\0"), "\\0"),
        ] {
            let fault = question(query).unwrap_err();
            assert_eq!((fault.parameter.as_str(), fault.value.as_deref()), (parameter, value));
            assert!(fault.text.contains(part), "{query}: {}", fault.text);
            assert!(fault.text.contains(&format!("parameter \"{parameter}\"")), "{}", fault.text);
        }
    }
}
