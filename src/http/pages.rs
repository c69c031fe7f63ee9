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
use super::hosts::{HostError, HostNames};
use super::pool::Pool;
use super::served::{
    AS_OF, Readiness, ServerState, Subject, as_of, as_of_header, json_response, response,
};
use crate::base::shown;
use crate::metrics;

/// Greatest number of explanations that are written at a time.
const EXPLANATIONS: usize = 2;

/// Returns the routes of all pages.
pub(super) fn pages(
    subject: Arc<dyn Subject>,
    metrics: PrometheusHandle,
    hosts: HostNames,
) -> io::Result<Router> {
    let explains = subject.query_handler().is_some();
    let explanations = explains.then(|| Pool::start("http: explain", EXPLANATIONS)).transpose()?;
    let scrapes = Pool::start("http: metrics", 1)?;
    let server = Arc::new(ServerState { subject, hosts, metrics, scrapes, explanations });
    let mut router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(show_health))
        .route("/readyz", get(show_readiness));
    if explains {
        router = router.route(explain::PATH, get(explain::show));
    }
    Ok(router
        .fallback(show_not_found)
        .layer(from_fn_with_state(server.clone(), check_host))
        .layer(map_response_with_state(server.clone(), add_as_of))
        .with_state(server))
}

async fn add_as_of(State(server): State<Arc<ServerState>>, mut response: Response) -> Response {
    // The response to a query has its own tick.
    if !response.headers().contains_key(AS_OF) {
        response.headers_mut().insert(AS_OF, as_of_header(server.subject.as_of()));
    }
    response
}

async fn show_metrics(State(server): State<Arc<ServerState>>) -> Response {
    let (rendered, text) = oneshot::channel();
    let state = server.clone();
    server.scrapes.run(move || {
        state.subject.refresh_metrics();
        metrics::refresh_process();
        metrics::refresh_log();
        // The client may have disconnected.
        let _ = rendered.send(state.metrics.render());
    });
    let text = text.await.unwrap_or_default();
    response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

async fn show_health(State(server): State<Arc<ServerState>>) -> Response {
    let as_of = as_of(&server);
    match server.subject.dead() {
        None => json_response(StatusCode::OK, &json!({"as_of": as_of, "alive": true})),
        Some(why) => {
            let why = shown::without_passwords(&why);
            let object = json!({"as_of": as_of, "alive": false, "why": why});
            json_response(StatusCode::SERVICE_UNAVAILABLE, &object)
        }
    }
}

async fn show_readiness(State(server): State<Arc<ServerState>>) -> Response {
    let Readiness { ready, mut details } = server.subject.readiness();
    details.insert("ready".into(), ready.into());
    details.entry("as_of").or_insert_with(|| as_of(&server));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = Value::from(details).to_string();
    let text = shown::escaped(&shown::without_passwords(&text)).into_owned();
    response(status, "application/json", text + "\n")
}

async fn show_not_found(State(server): State<Arc<ServerState>>) -> Response {
    let error = match server.subject.query_handler() {
        Some(_) => "there is no such page: request /metrics, /healthz, /readyz or /api/v1/explain",
        None => "there is no such page: request /metrics, /healthz or /readyz",
    };
    json_response(StatusCode::NOT_FOUND, &json!({"as_of": as_of(&server), "error": error}))
}

/// Rejects requests to names that are not this server's.
async fn check_host(
    State(server): State<Arc<ServerState>>,
    request: Request,
    next: Next,
) -> Response {
    match server.hosts.check(&request) {
        Ok(()) => next.run(request).await,
        Err(HostError { status, text }) => {
            json_response(status, &json!({"as_of": as_of(&server), "error": text}))
        }
    }
}
