//! Errors in the words of the Open Inference Protocol over HTTP.

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

/// An error as the Open Inference Protocol has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OipError {
    error: String,
}

/// The errors of routes in the words of the Open Inference Protocol.
pub(crate) struct OipErrors;

impl IntoResponses for OipErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described::<OipError>()
    }
}

/// Puts an error into the words of the Open Inference Protocol.
pub(crate) fn render(fault: Fault) -> Response<Body> {
    // The protocol knows 400 for every request that is not right.
    let status = match fault.class.usual_status() {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    };
    fault.response(status, &json!(OipError { error: fault.message.clone() }))
}

/// Turns a handler's result into a response.
pub(super) async fn respond(
    handler: impl Future<Output = Result<Response<Body>, Fault>>,
) -> Response<Body> {
    error::respond(render, handler).await
}
