//! Health for probes: live is that this answers, ready is that requests are answered. An update
//! never changes either.

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

/// Whether the server answers at all.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Live {
    live: bool,
}

/// Whether requests are answered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ready {
    ready: bool,
}

/// Whether the server answers at all.
#[utoipa::path(
    get, path = "/v2/health/live", tag = "health",
    responses((status = 200, description = "It does", body = Live))
)]
pub(crate) async fn live() -> Response<Body> {
    axum_json(&json!(Live { live: true })).into_response()
}

/// Whether requests are answered: not before every worker has been ready once, nor while none
/// serves.
#[utoipa::path(
    get, path = "/v2/health/ready", tag = "health",
    responses(
        (status = 200, description = "They are", body = Ready),
        (status = 503, description = "They are not", body = Ready),
    )
)]
pub(crate) async fn ready(State(app): State<App>) -> Response<Body> {
    let ready = app.engine.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum_json(&json!(Ready { ready }))).into_response()
}
