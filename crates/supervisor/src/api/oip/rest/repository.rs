//! Triton's repository API, which only the admin interface serves. This listener points there.

use axum::{
    body::Body,
    http::{Response, StatusCode},
    response::IntoResponse,
};
use serde_json::json;

use crate::api::error::axum_json;

/// Paths of the repository API. The OpenAPI document does not describe them.
pub(crate) const PATH: &str = "/v2/repository/{*rest}";

/// Rejects every call of the repository API and names the listener that serves it.
pub(crate) async fn denied() -> Response<Body> {
    let message = "the repository API is not available on this port: use --admin-listen ADDRESS, or the admin socket";
    (StatusCode::FORBIDDEN, axum_json(&json!({ "error": message }))).into_response()
}
