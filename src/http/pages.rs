//! The pages of the server.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state, map_response_with_state};
use axum::response::Response;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::explain;
use super::hosts::{Hosts, Refused};
use super::pool::Pool;
use super::served::{AS_OF, Readiness, Served, Subject, answer, as_of, as_of_header, object};
use crate::base::shown;
use crate::metrics;

/// Explanations that are made at a time.
const EXPLANATIONS: usize = 2;

/// Returns the routes of all pages.
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
        .layer(from_fn_with_state(served.clone(), check_host))
        .layer(map_response_with_state(served.clone(), add_as_of))
        .with_state(served))
}

async fn add_as_of(State(served): State<Arc<Served>>, mut response: Response) -> Response {
    // A question is answered for a tick of its own.
    if !response.headers().contains_key(AS_OF) {
        response.headers_mut().insert(AS_OF, as_of_header(served.subject.as_of()));
    }
    response
}

async fn show_metrics(State(served): State<Arc<Served>>) -> Response {
    let (made, text) = oneshot::channel();
    let of = served.clone();
    served.scrapes.run(move || {
        of.subject.refresh_metrics();
        metrics::refresh_process();
        metrics::refresh_log();
        // The client may have disconnected.
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

/// Answers requests to names of this server alone.
async fn check_host(State(served): State<Arc<Served>>, request: Request, next: Next) -> Response {
    match served.hosts.check(&request) {
        Ok(()) => next.run(request).await,
        Err(Refused { status, text }) => {
            object(status, &json!({"as_of": as_of(&served), "error": text}))
        }
    }
}
