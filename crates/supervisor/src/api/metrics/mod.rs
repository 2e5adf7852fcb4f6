//! `GET /metrics` for Prometheus.

mod capacity;
mod exposition;
mod indexes;
mod serving;
mod sources;

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

/// One scrape is rendered at a time: each takes a thread. Further requests wait.
static SCRAPES: Semaphore = Semaphore::const_new(1);
/// Maximum wait for worker states from the dispatcher; without them the scrape leaves workers out.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(1);

/// Handles `GET /metrics`, in `OpenMetrics` if the client accepts it, else in the classic format.
pub(crate) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response<Body> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::from_accept(accept);
    let _scrape = SCRAPES.acquire().await;
    let workers = time::timeout(WORKERS_TIMEOUT, app.engine.worker_states()).await;
    let (metrics, registry) = (Arc::clone(app.engine.metrics()), Arc::clone(app.engine.registry()));
    let scrape = Scrape { app, metrics, registry, workers: workers.unwrap_or_default() };
    match task::spawn_blocking(move || scrape.text(format)).await {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
