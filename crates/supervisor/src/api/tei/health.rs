//! Readiness in the format of text-embeddings-inference. Updates never change it.

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

/// Reports whether requests are answered, in the format of text-embeddings-inference.
#[utoipa::path(
    get, path = "/health", tag = "health",
    responses((status = 200, description = "Requests are answered"), TeiErrors)
)]
pub(crate) async fn tei(State(app): State<App>) -> Response<Body> {
    match app.engine.not_ready_reason() {
        None => StatusCode::OK.into_response(),
        Some(reason) => render(Fault::new(Class::Engine(ErrorKind::Unavailable), reason)),
    }
}

/// Same as `/health`.
#[utoipa::path(
    get, path = "/ping", tag = "health",
    responses((status = 200, description = "Requests are answered"), TeiErrors)
)]
pub(crate) async fn ping(app: State<App>) -> Response<Body> {
    tei(app).await
}

/// Same as `/health`.
#[utoipa::path(
    get, path = "/", tag = "health",
    responses((status = 200, description = "Requests are answered"), TeiErrors)
)]
pub(crate) async fn root(app: State<App>) -> Response<Body> {
    tei(app).await
}
