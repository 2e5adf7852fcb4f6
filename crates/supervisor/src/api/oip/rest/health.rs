//! Health probes. Live: the server responds. Ready: it answers requests. Updates change neither.

use axum::{
    body::Body,
    extract::State,
    http::{Response, StatusCode},
    response::IntoResponse,
};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::api::{app::App, error::axum_json};

/// Liveness of the server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Live {
    live: bool,
}

/// Readiness of the server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ready {
    ready: bool,
    /// Why the server is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Reports whether the server responds.
#[utoipa::path(
    get, path = "/v2/health/live", tag = "health",
    responses((status = 200, description = "The server is live", body = Live))
)]
pub(crate) async fn live() -> Response<Body> {
    axum_json(&json!(Live { live: true })).into_response()
}

/// Reports whether requests are answered. Ready once every model has been tried and every worker
/// has been ready, and while at least one worker serves. Not ready while no worker can load any
/// model, or one that is required.
#[utoipa::path(
    get, path = "/v2/health/ready", tag = "health",
    responses(
        (status = 200, description = "The server is ready", body = Ready),
        (status = 503, description = "The server is not ready", body = Ready),
    )
)]
pub(crate) async fn ready(State(app): State<App>) -> Response<Body> {
    let reason = app.engine.not_ready_reason();
    let ready = reason.is_none();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum_json(&json!(Ready { ready, reason }))).into_response()
}
