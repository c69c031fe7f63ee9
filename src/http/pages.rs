//! The pages that are served, and what they are made of.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response_with_state};
use axum::response::Response;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::explain::{self, Answers};
use super::hosts::{self, Hosts};
use super::pool::Pool;
use crate::base::date::format_ms;
use crate::base::shown;
use crate::metrics;

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
    metrics: PrometheusHandle,
    /// Makes the page of metrics, which may be long, so that a probe need not wait for it.
    scrapes: Pool,
    /// Makes explanations. Each takes memory for all limits, so that there are few threads.
    pub(super) explanations: Option<Pool>,
}

/// Explanations that are made at a time.
const EXPLANATIONS: usize = 2;

/// All that is served.
pub(super) fn pages(
    subject: Arc<dyn Subject>,
    metrics: PrometheusHandle,
    hosts: Hosts,
) -> io::Result<Router> {
    let explains = subject.answers().is_some();
    let explanations = explains.then(|| Pool::start("http: explain", EXPLANATIONS)).transpose()?;
    let scrapes = Pool::start("http: metrics", 1)?;
    let served = Arc::new(Served { subject, hosts, metrics, scrapes, explanations });
    let mut router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(show_health))
        .route("/readyz", get(show_readiness));
    if explains {
        router = router.route(explain::PATH, get(explain::show));
    }
    Ok(router
        .fallback(show_way)
        .layer(from_fn_with_state(served.clone(), hosts::check))
        .layer(map_response_with_state(served.clone(), add_as_of))
        .with_state(served))
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

async fn add_as_of(State(served): State<Arc<Served>>, mut response: Response) -> Response {
    // A question is answered for a tick of its own.
    if !response.headers().contains_key(AS_OF) {
        response.headers_mut().insert(AS_OF, as_of_header(served.subject.as_of()));
    }
    response
}

pub(super) fn as_of_header(tick: Option<u64>) -> HeaderValue {
    let tick = tick.map(|tick| format_ms(tick).to_string());
    let value = HeaderValue::from_str(tick.as_deref().unwrap_or("none"));
    value.expect("a time has no line breaks")
}

async fn show_metrics(State(served): State<Arc<Served>>) -> Response {
    let (made, text) = oneshot::channel();
    let of = served.clone();
    served.scrapes.run(move || {
        of.subject.refresh_metrics();
        metrics::refresh_process();
        metrics::refresh_log();
        // The client may have gone.
        let _ = made.send(of.metrics.render());
    });
    let text = text.await.unwrap_or_default();
    answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

async fn show_health(State(served): State<Arc<Served>>) -> Response {
    let as_of = as_of(&served);
    match served.subject.dead() {
        None => object(StatusCode::OK, &json!({"as_of": as_of, "alive": true})),
        Some(why) => {
            let why = shown::without_passwords(&why);
            let said = json!({"as_of": as_of, "alive": false, "why": why});
            object(StatusCode::SERVICE_UNAVAILABLE, &said)
        }
    }
}

async fn show_readiness(State(served): State<Arc<Served>>) -> Response {
    let Readiness { ready, mut details } = served.subject.readiness();
    details.insert("ready".into(), ready.into());
    details.entry("as_of").or_insert_with(|| as_of(&served));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = Value::from(details).to_string();
    let text = shown::escaped(&shown::without_passwords(&text)).into_owned();
    answer(status, "application/json", text + "\n")
}

async fn show_way(State(served): State<Arc<Served>>) -> Response {
    let error = match served.subject.answers() {
        Some(_) => {
            "there is no such page: there are /metrics, /healthz, /readyz and /api/v1/explain"
        }
        None => "there is no such page: there are /metrics, /healthz and /readyz",
    };
    object(StatusCode::NOT_FOUND, &json!({"as_of": as_of(&served), "error": error}))
}
