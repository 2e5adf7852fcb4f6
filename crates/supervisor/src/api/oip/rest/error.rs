//! Errors in the format of the Open Inference Protocol over HTTP.

use std::{collections::BTreeMap, future::Future};

use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use serde::Serialize;
use serde_json::json;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{RefOr, Response as Described},
};

use crate::api::error::{self, Fault, described};

/// An error in the format of the Open Inference Protocol.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OipError {
    error: String,
}

/// Describes the errors of Open Inference Protocol routes.
pub(crate) struct OipErrors;

impl IntoResponses for OipErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described::<OipError>()
    }
}

/// Renders an error in the format of the Open Inference Protocol.
pub(crate) fn render(fault: Fault) -> Response<Body> {
    // The protocol uses 400 for every invalid request.
    let status = match fault.class.default_status() {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    };
    fault.response(status, &json!(OipError { error: fault.message.clone() }))
}

/// Runs a handler and renders its error, if any.
pub(super) async fn respond(
    handler: impl Future<Output = Result<Response<Body>, Fault>>,
) -> Response<Body> {
    error::respond(render, handler).await
}
