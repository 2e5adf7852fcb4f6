//! Readiness in the format of text-embeddings-inference. Updates never change it.

use axum::{
    body::Body,
    extract::State,
    http::{Response, StatusCode},
    response::IntoResponse,
};
use onnxd_engine::ErrorKind;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::api::{
    app::App,
    error::{Class, Fault, axum_json},
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

/// What the server is. Clients of Qdrant compare the version with their own.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServerInfo {
    /// "onnxd".
    title: &'static str,
    /// The version of Qdrant's interface.
    version: &'static str,
    /// The version of onnxd.
    onnxd: &'static str,
}

/// The version of Qdrant's interface that `/collections` has.
const QDRANT_VERSION: &str = "1.20.0";

/// Same as `/health`, with a body.
#[utoipa::path(
    get, path = "/", tag = "health",
    responses((status = 200, description = "Requests are answered", body = ServerInfo), TeiErrors)
)]
pub(crate) async fn root(app: State<App>) -> Response<Body> {
    let response = tei(app).await;
    if response.status() != StatusCode::OK {
        return response;
    }
    let info =
        ServerInfo { title: "onnxd", version: QDRANT_VERSION, onnxd: env!("CARGO_PKG_VERSION") };
    axum_json(&json!(info)).into_response()
}
