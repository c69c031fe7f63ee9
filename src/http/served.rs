//! The subject of the pages, and the format of responses.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Map, Value};

use super::hosts::Hosts;
use super::pool::Pool;
use super::question::Answers;
use crate::base::date::format_ms;
use crate::base::shown;

/// The header of every answer that says for which tick it holds.
pub(super) const AS_OF: &str = "floodmark-as-of";

/// The process that the pages report on.
pub trait Subject: Send + Sync + 'static {
    /// Returns the tick, in milliseconds, up to which all is done; `None` before the first tick.
    fn as_of(&self) -> Option<u64>;

    /// Returns the reason why the process is not alive although it responds; `None` if it is alive.
    fn dead(&self) -> Option<String>;

    /// Returns whether the process does its work.
    fn readiness(&self) -> Readiness;

    /// Returns the part that answers questions about the computation; `None` if there is none.
    fn answers(&self) -> Option<&dyn Answers> {
        None
    }

    /// Sets the gauges that would be stale if they were set only when something happens.
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

pub(super) struct Served {
    pub(super) subject: Arc<dyn Subject>,
    pub(super) hosts: Hosts,
    pub(super) metrics: PrometheusHandle,
    /// Makes the page of metrics, which may be long, so that a probe need not wait for it.
    pub(super) scrapes: Pool,
    /// Makes explanations. Each takes memory for all limits, so that there are few threads.
    pub(super) explanations: Option<Pool>,
}

pub(super) fn as_of(served: &Served) -> Value {
    served.subject.as_of().map_or(Value::Null, |tick| format_ms(tick).to_string().into())
}

pub(super) fn answer(status: StatusCode, kind: &'static str, body: String) -> Response {
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // The response is true only now.
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

pub(super) fn object(status: StatusCode, object: &Value) -> Response {
    // Users read the response on terminals, too.
    answer(status, "application/json", format!("{}\n", shown::escaped(&object.to_string())))
}

pub(super) fn as_of_header(tick: Option<u64>) -> HeaderValue {
    let tick = tick.map(|tick| format_ms(tick).to_string());
    let value = HeaderValue::from_str(tick.as_deref().unwrap_or("none"));
    value.expect("a time has no line breaks")
}
