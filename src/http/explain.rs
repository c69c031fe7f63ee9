//! The page `/api/v1/explain`: which limits apply to a pair, and why none does.
//!
//! This module parses and checks a query before the computation receives it. The query handler of the
//! [`Subject`](super::Subject) computes the response. This module bounds the wait for it, and responds with an error
//! if none comes in time.

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

use super::served::{AS_OF, ServerState, as_of, as_of_header, json_response, response};
use crate::base::quote::Quoted;
use crate::base::{date, network};
use crate::runner::{ExplainQuery, QueryError, QueryResponse, WriteObject};

/// The path of the page.
pub(super) const PATH: &str = "/api/v1/explain";

/// Time limit for the computation to respond. A response needs one tick; a query starts the tick at once.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for a client to read its response. Other requests wait for the thread of that response meanwhile.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The size of a part of a response, in bytes, and the greatest number of parts that wait for the client.
const PART: usize = 64 << 10;
const PARTS_WAITING: usize = 2;

/// The reason why a query is rejected: the parameter, its value (`None` if it is missing), and a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ParameterError {
    parameter: String,
    value: Option<String>,
    text: String,
}

/// Parses the query of a URL.
fn parse_query(query: &str) -> Result<ExplainQuery, ParameterError> {
    let mut given = BTreeMap::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        // A plus sign stands for itself, so that an offset of a time needs no escape.
        let [name, value] = [name, value].map(|text| percent_decode_str(text).decode_utf8_lossy());
        let error = |text: String| ParameterError {
            parameter: name.clone().into_owned(),
            value: Some(value.clone().into_owned()),
            text,
        };
        let Some(known) = PARAMETERS.into_iter().find(|known| *known == name) else {
            let names = PARAMETERS.join(", ");
            return Err(error(format!("unknown parameter {}: known are {names}", Quoted(&name))));
        };
        if given.contains_key(known) {
            return Err(error(format!("parameter \"{known}\" is given twice: give it once")));
        }
        given.insert(known, value);
    }
    let address = |parameter: &'static str| {
        let value = given.get(parameter).map(Cow::as_ref).ok_or_else(|| {
            let text = format!("parameter \"{parameter}\" is missing: give an address");
            ParameterError { parameter: parameter.into(), value: None, text }
        })?;
        network::address(value).map_err(|error| parameter_error(parameter, value, &error))
    };
    let (source, destination) = (address("source")?, address("destination")?);
    let pair = network::pair(source, destination)
        .map_err(|error| parameter_error("destination", &destination.to_string(), &error))?;
    let at_ms = given.get("at").map(|text| {
        let nanos = date::parse(text).map_err(|error| error.to_string());
        nanos
            .and_then(|nanos| {
                let ms = u64::try_from(nanos.div_euclid(1_000_000));
                ms.map_err(|_| format!("{} is before 1970; give a later time", Quoted(text)))
            })
            .map_err(|error| parameter_error("at", text, &error))
    });
    let all = given.get("all").map_or(Ok(false), |text| match text.as_ref() {
        "true" => Ok(true),
        "false" => Ok(false),
        other => {
            let error = format!("{} is neither true nor false", Quoted(other));
            Err(parameter_error("all", other, &error))
        }
    });
    Ok(ExplainQuery { pair, at_ms: at_ms.transpose()?, all: all? })
}

const PARAMETERS: [&str; 4] = ["source", "destination", "at", "all"];

fn parameter_error(parameter: &str, value: &str, error: &str) -> ParameterError {
    let text = format!("parameter \"{parameter}\": {error}");
    ParameterError { parameter: parameter.into(), value: Some(value.into()), text }
}

pub(super) async fn show(
    State(server): State<Arc<ServerState>>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = match parse_query(query.as_deref().unwrap_or_default()) {
        Ok(query) => query,
        Err(ParameterError { parameter, value, text }) => {
            let error = json!({
                "as_of": as_of(&server), "error": text, "parameter": parameter, "value": value,
            });
            return json_response(StatusCode::BAD_REQUEST, &error);
        }
    };
    let handler = server.subject.query_handler().expect("the page exists only with a handler");
    match tokio::time::timeout(RESPONSE_TIMEOUT, handler.explain(query)).await {
        Ok(Ok(QueryResponse { as_of, object })) => {
            let Some(mut response) = write_response(&server, object).await else {
                return error_response(&server, &QueryError::Ended);
            };
            response.headers_mut().insert(AS_OF, as_of_header(Some(as_of)));
            response
        }
        Ok(Err(error)) => error_response(&server, &error),
        Err(_) => {
            let secs = RESPONSE_TIMEOUT.as_secs();
            let error = format!("no tick has completed for {secs} s: /readyz has the reason");
            let error = json!({"as_of": as_of(&server), "error": error});
            json_response(StatusCode::GATEWAY_TIMEOUT, &error)
        }
    }
}

/// Writes a response on another thread, and sends it part by part: with many limits it is large, and its client may
/// be slow. Returns `None` if that thread has ended without a part.
async fn write_response(server: &ServerState, object: WriteObject) -> Option<Response> {
    let (parts, mut written) = channel(PARTS_WAITING);
    let mut out = PartWriter { parts, bytes: Vec::new() };
    let write = move || {
        // Writing fails if the client has disconnected; then there is nobody to respond to.
        let _ = object(&mut out).and_then(|()| out.send());
    };
    server.explanations.as_ref()?.run(write);
    let first = written.recv().await?;
    let empty = response(StatusCode::OK, "application/json", String::new());
    let body = match written.recv().await {
        None => Body::from(first),
        Some(second) => {
            let until = Instant::now() + READ_TIMEOUT;
            Body::new(StreamedBody {
                first: Some(first),
                second: Some(second),
                rest: written,
                until,
            })
        }
    };
    Some(empty.map(|_| body))
}

/// Collects a response into parts for the client. A write waits while [`PARTS_WAITING`] parts are unread.
struct PartWriter {
    parts: Sender<Bytes>,
    bytes: Vec<u8>,
}

impl PartWriter {
    fn send(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.bytes);
        let disconnected = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.parts.blocking_send(bytes.into()).map_err(disconnected)
    }
}

impl Write for PartWriter {
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

/// The body of a large response.
struct StreamedBody {
    first: Option<Bytes>,
    second: Option<Bytes>,
    rest: Receiver<Bytes>,
    until: Instant,
}

impl hyper::body::Body for StreamedBody {
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

fn error_response(server: &ServerState, error: &QueryError) -> Response {
    let status = match error {
        QueryError::Elsewhere { .. } => StatusCode::MISDIRECTED_REQUEST,
        QueryError::NoWindow => StatusCode::BAD_REQUEST,
        QueryError::NotBegun | QueryError::Busy | QueryError::Ended => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let object = json!({"as_of": as_of(server), "error": error.to_string()});
    let mut response = json_response(status, &object);
    if matches!(error, QueryError::NotBegun | QueryError::Busy) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::types::Pair;

    use super::*;

    #[test]
    fn query_parameters_are_parsed() {
        let parse = |query: &str| parse_query(query).unwrap_or_else(|error| panic!("{error:?}"));
        let pair = |source: &str, destination: &str| {
            Pair::new(source.parse().unwrap(), destination.parse().unwrap()).unwrap()
        };
        let plain = parse("source=10.0.0.1&destination=10.0.0.2");
        assert_eq!(
            plain,
            ExplainQuery { pair: pair("10.0.0.1", "10.0.0.2"), at_ms: None, all: false }
        );
        let escaped = parse("destination=2001%3adb8::2&source=2001:db8::1&at=2024-05-01&all=true&");
        assert_eq!(
            escaped,
            ExplainQuery {
                pair: pair("2001:db8::1", "2001:db8::2"),
                at_ms: Some(1_714_521_600_000),
                all: true
            }
        );
        // Times are cut to milliseconds; the plus sign of an offset is escaped or not.
        for at in ["2024-05-01T02:00:00.0019+02:00", "2024-05-01%2002:00:00.001%2B02:00"] {
            let query = parse(&format!("source=::1&destination=::2&all=false&at={at}"));
            assert_eq!(query.at_ms, Some(1_714_521_600_001), "{at}");
        }
    }

    #[test]
    fn invalid_parameter_is_named_in_the_error() {
        let pair = "source=10.0.0.1&destination=10.0.0.2";
        for (query, parameter, value, part) in [
            ("", "source", None, "missing"),
            ("source=10.0.0.1", "destination", None, "missing: give an address"),
            ("source=&destination=::1", "source", Some(""), "not an address"),
            ("source=10.0.0.0/8&destination=::1", "source", Some("10.0.0.0/8"), "like 10.1.2.3"),
            ("source=10.0.0.1&destination=::1", "destination", Some("::1"), "different families"),
            (&format!("{pair}&at=soon"), "at", Some("soon"), "\"soon\" is not a date; write"),
            (&format!("{pair}&at=1969-12-31"), "at", Some("1969-12-31"), "before 1970"),
            (&format!("{pair}&at=infinity"), "at", Some("infinity"), "no point in time"),
            (&format!("{pair}&all=1"), "all", Some("1"), "neither true nor false"),
            (&format!("{pair}&sorce=::1"), "sorce", Some("::1"), "known are source, destination"),
            (&format!("{pair}&at"), "at", Some(""), "not a date"),
            (&format!("{pair}&source=10.0.0.1"), "source", Some("10.0.0.1"), "given twice"),
            ("source=%ff%00&destination=::1", "source", Some("\u{fffd}\0"), "\\0"),
        ] {
            let error = parse_query(query).unwrap_err();
            assert_eq!((error.parameter.as_str(), error.value.as_deref()), (parameter, value));
            assert!(error.text.contains(part), "{query}: {}", error.text);
            assert!(error.text.contains(&format!("parameter \"{parameter}\"")), "{}", error.text);
        }
    }
}
