//! Which path is answered by whom, and what every route has in common: the limits of bodies, and
//! errors in the shape of the contract.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, Uri},
    response::IntoResponse,
    routing::{any, get, post},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::{sync::watch, time};

use super::{
    api::{health, openai, tei},
    error::{ApiError, Contract, Kind},
    repository,
};
use crate::{
    dispatch::{dispatcher::Health, gather::Dispatch},
    models::{registry::Registry, update::Updater},
};

/// Bytes of a request's body, as TEI has it.
pub(crate) const BODY_BYTES_MAX: usize = 2_000_000;
/// How long a client may take to send a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What handlers need.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub registry: Arc<Registry>,
    pub dispatch: Arc<Dispatch>,
    /// Loads models on first use.
    pub updater: Arc<Updater>,
    pub health: watch::Receiver<Health>,
    /// How many workers there are.
    pub workers: usize,
}

/// All public routes.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/embed", post(tei::embed))
        .route("/info", get(tei::info))
        .route("/health", get(health::tei))
        .route("/v2/repository/{*rest}", any(repository::elsewhere))
        .route("/v1/embeddings", post(openai::embeddings))
        .merge(health_routes())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(app)
}

/// Health alone, for listeners that serve something else.
pub(crate) fn health(app: App) -> Router {
    health_routes().with_state(app)
}

fn health_routes() -> Router<App> {
    Router::new()
        .route("/v2/health/live", get(health::live))
        .route("/v2/health/ready", get(health::ready))
}

async fn not_found(uri: Uri) -> Response<Body> {
    let message = format!("there is no route {}", uri.path());
    ApiError::new(Kind::Validation, message)
        .with_status(StatusCode::NOT_FOUND)
        .into_response(Contract::of(uri.path()))
}

async fn method_not_allowed(uri: Uri, method: axum::http::Method) -> Response<Body> {
    let message = format!("{method} is not allowed on {}", uri.path());
    ApiError::new(Kind::Validation, message)
        .with_status(StatusCode::METHOD_NOT_ALLOWED)
        .into_response(Contract::of(uri.path()))
}

/// Reads a body within the limits.
///
/// # Errors
/// 413 where it is too long, 408 where it takes too long, 400 where it breaks off.
pub(crate) async fn read_body(request: Request<Body>) -> Result<Bytes, ApiError> {
    read_body_within(request, BODY_BYTES_MAX).await
}

/// The same with another limit.
///
/// # Errors
/// As above.
pub(crate) async fn read_body_within(
    request: Request<Body>,
    bytes_max: usize,
) -> Result<Bytes, ApiError> {
    let wrong =
        |status, message: String| Err(ApiError::new(Kind::Validation, message).with_status(status));
    let too_long = format!("the body is longer than {bytes_max} bytes");
    let body = request.into_body();
    // What says beforehand that it is too long is not waited for.
    if hyper::body::Body::size_hint(&body).lower() > bytes_max as u64 {
        return wrong(StatusCode::PAYLOAD_TOO_LARGE, too_long);
    }
    let limited = Limited::new(body, bytes_max);
    match time::timeout(BODY_TIMEOUT, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            wrong(StatusCode::PAYLOAD_TOO_LARGE, too_long)
        }
        Ok(Err(error)) => {
            wrong(StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))
        }
        Err(_) => wrong(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body took longer than {} s", BODY_TIMEOUT.as_secs()),
        ),
    }
}

/// Turns a handler's result into a response in the shape of its contract. After an error that
/// may leave a part of the body unread the connection ends, so that nothing of it is ever taken
/// for a request.
pub(crate) fn respond(
    contract: Contract,
    result: Result<Response<Body>, ApiError>,
) -> Response<Body> {
    result.unwrap_or_else(|error| {
        let status = error.status;
        let mut response = error.into_response(contract);
        if matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            let close = axum::http::HeaderValue::from_static("close");
            response.headers_mut().insert(axum::http::header::CONNECTION, close);
        }
        response.into_response()
    })
}
