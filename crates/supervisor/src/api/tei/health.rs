//! Whether requests are answered, as text-embeddings-inference says it. An update never changes it.

use axum::{
    body::Body,
    extract::State,
    http::{Response, StatusCode},
    response::IntoResponse,
};
use onnxd_engine::ErrorKind;

use crate::api::{
    app::App,
    error::{Class, Fault},
    tei::error::{TeiErrors, render},
};

/// Whether requests are answered, as text-embeddings-inference says it.
#[utoipa::path(
    get, path = "/health", tag = "health",
    responses((status = 200, description = "They are"), TeiErrors)
)]
pub(crate) async fn tei(State(app): State<App>) -> Response<Body> {
    if app.engine.is_ready() {
        return StatusCode::OK.into_response();
    }
    render(Fault::new(Class::Engine(ErrorKind::Unavailable), "no worker is ready"))
}

/// The same as `/health`.
#[utoipa::path(
    get, path = "/ping", tag = "health",
    responses((status = 200, description = "Requests are answered"), TeiErrors)
)]
pub(crate) async fn ping(app: State<App>) -> Response<Body> {
    tei(app).await
}

/// The same as `/health`.
#[utoipa::path(
    get, path = "/", tag = "health",
    responses((status = 200, description = "Requests are answered"), TeiErrors)
)]
pub(crate) async fn root(app: State<App>) -> Response<Body> {
    tei(app).await
}
