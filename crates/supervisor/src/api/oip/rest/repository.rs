//! The repository API of Triton, which the admin interface serves and this listener does not.

use axum::{
    body::Body,
    http::{Response, StatusCode},
    response::IntoResponse,
};
use serde_json::json;

use crate::api::error::axum_json;

/// Paths of the repository API. The OpenAPI document does not describe them.
pub(crate) const PATH: &str = "/v2/repository/{*rest}";

/// Answers every call of the repository API with where it is served.
pub(crate) async fn elsewhere() -> Response<Body> {
    let message =
        "the repository API is not served here: use --admin-listen ADDRESS, or the admin socket";
    (StatusCode::FORBIDDEN, axum_json(&json!({ "error": message }))).into_response()
}
