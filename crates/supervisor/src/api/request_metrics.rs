//! Middleware that counts and times every request by route.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};

use onnxd_telemetry::metrics::Metrics;

/// Wraps the whole router.
pub(crate) async fn record(
    State(metrics): State<Arc<Metrics>>,
    request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let route = metrics.routes.find(request.extensions().get().map(MatchedPath::as_str));
    let response = next.run(request).await;
    route.answered(response.status().as_u16(), start.elapsed());
    response
}
