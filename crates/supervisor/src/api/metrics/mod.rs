//! `GET /metrics`: what happened so far, for Prometheus.

mod exposition;

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Response, StatusCode, header},
    response::IntoResponse,
};
use tokio::{sync::Semaphore, task, time};

use crate::api::{app::App, metrics::exposition::Scrape};
use onnxd_telemetry::metrics::format::Format;

/// Texts that are put together at once: each takes a thread, and whoever asks more often waits.
static SCRAPES: Semaphore = Semaphore::const_new(1);
/// How long the dispatcher may take to say how the workers are; then they are left out.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(1);

/// `GET /metrics`, in `OpenMetrics` for who accepts it, else in the classic format.
pub(crate) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response<Body> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::wanted(accept);
    let _scrape = SCRAPES.acquire().await;
    let workers = time::timeout(WORKERS_TIMEOUT, app.engine.worker_states()).await;
    let (metrics, registry) = (Arc::clone(app.engine.metrics()), Arc::clone(app.engine.registry()));
    let scrape = Scrape { metrics, registry, workers: workers.unwrap_or_default() };
    match task::spawn_blocking(move || scrape.text(format)).await {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
