//! What is served about, and the form of answers.

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

/// What those who ask are told about.
pub trait Subject: Send + Sync + 'static {
    /// The tick, in milliseconds, up to which all is done; `None` before the first one.
    fn as_of(&self) -> Option<u64>;

    /// Why the process is not alive although it answers, if so.
    fn dead(&self) -> Option<String>;

    /// Whether it does what it is for.
    fn readiness(&self) -> Readiness;

    /// Who answers questions about what it holds, if somebody does.
    fn answers(&self) -> Option<&dyn Answers> {
        None
    }

    /// Sets the gauges that would be stale if they were set only when something happens.
    fn refresh_metrics(&self);
}

/// Whether a process does what it is for, with all that is to be said of it.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// If it does.
    pub ready: bool,
    /// More of it, beside `as_of`.
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
    // It is true now.
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

pub(super) fn object(status: StatusCode, object: &Value) -> Response {
    // It is shown on terminals, too.
    answer(status, "application/json", format!("{}\n", shown::escaped(&object.to_string())))
}

pub(super) fn as_of_header(tick: Option<u64>) -> HeaderValue {
    let tick = tick.map(|tick| format_ms(tick).to_string());
    let value = HeaderValue::from_str(tick.as_deref().unwrap_or("none"));
    value.expect("a time has no line breaks")
}
