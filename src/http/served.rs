//! The process that the pages report on, and the format of responses.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Map, Value};

use super::hosts::HostNames;
use super::pool::Pool;
use super::query::QueryHandler;
use crate::base::date::format_ms;
use crate::base::shown;

/// The header with the tick of the response. Every response has it.
pub(super) const AS_OF: &str = "floodmark-as-of";

/// The process that the pages report on.
pub trait Subject: Send + Sync + 'static {
    /// Returns the newest completed tick, in milliseconds; `None` before the first one.
    fn as_of(&self) -> Option<u64>;

    /// Returns the reason why the process is not alive although it responds; `None` if it is alive.
    fn dead(&self) -> Option<String>;

    /// Returns the readiness of the process.
    fn readiness(&self) -> Readiness;

    /// Returns the handler of queries of the computation; `None` if there is none.
    fn query_handler(&self) -> Option<&dyn QueryHandler> {
        None
    }

    /// Sets the gauges that must be computed for each scrape, since no event updates them.
    fn refresh_metrics(&self);
}

/// Whether a process does its work, with details.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// Whether the process does its work.
    pub ready: bool,
    /// Further fields of the response, beside `as_of`.
    pub details: Map<String, Value>,
}

/// The state shared by all pages.
pub(super) struct ServerState {
    pub(super) subject: Arc<dyn Subject>,
    pub(super) hosts: HostNames,
    pub(super) metrics: PrometheusHandle,
    /// The thread that renders the page of metrics, which may be long, so that a probe need not wait for it.
    pub(super) scrapes: Pool,
    /// The threads that write explanations. They are few, since each explanation needs memory for all limits.
    pub(super) explanations: Option<Pool>,
}

pub(super) fn as_of(server: &ServerState) -> Value {
    server.subject.as_of().map_or(Value::Null, |tick| format_ms(tick).to_string().into())
}

pub(super) fn response(status: StatusCode, kind: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // The next response may differ.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn json_response(status: StatusCode, object: &Value) -> Response {
    // Users read the response on terminals, too.
    response(status, "application/json", format!("{}\n", shown::escaped(&object.to_string())))
}

pub(super) fn as_of_header(tick: Option<u64>) -> HeaderValue {
    let tick = tick.map(|tick| format_ms(tick).to_string());
    let value = HeaderValue::from_str(tick.as_deref().unwrap_or("none"));
    value.expect("a time has no line breaks")
}
