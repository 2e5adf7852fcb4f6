//! Health for probes: live is that this answers, ready is that requests are answered. An update
//! never changes either.

use axum::{
    body::Body,
    extract::State,
    http::{Response, StatusCode},
    response::IntoResponse,
};
use serde_json::json;

use crate::http::{
    error::{ApiError, Contract, Kind, axum_json},
    router::App,
};

/// `GET /v2/health/live`.
pub(crate) async fn live() -> Response<Body> {
    axum_json(&json!({ "live": true })).into_response()
}

/// `GET /v2/health/ready`: 200, or 503 before every worker has been ready once, and while none
/// serves.
pub(crate) async fn ready(State(app): State<App>) -> Response<Body> {
    let ready = app.health.borrow().is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum_json(&json!({ "ready": ready }))).into_response()
}

/// `GET /health`, as TEI: 200 with an empty body, or 503.
pub(crate) async fn tei(State(app): State<App>) -> Response<Body> {
    if app.health.borrow().is_ready() {
        return StatusCode::OK.into_response();
    }
    ApiError::new(Kind::Unhealthy, "no worker is ready").into_response(Contract::Tei)
}
