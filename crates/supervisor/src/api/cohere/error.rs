//! Errors in the words of Cohere.

use std::{collections::BTreeMap, future::Future};

use axum::{body::Body, http::Response};
use serde::Serialize;
use serde_json::json;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{RefOr, Response as Described},
};

use crate::api::error::{self, Fault, described};

/// An error as Cohere has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CohereError {
    message: String,
}

/// The errors of routes in the words of Cohere.
pub(crate) struct CohereErrors;

impl IntoResponses for CohereErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described::<CohereError>()
    }
}

/// Puts an error into the words of Cohere.
pub(crate) fn render(fault: Fault) -> Response<Body> {
    let body = json!(CohereError { message: fault.message.clone() });
    fault.response(fault.class.usual_status(), &body)
}

/// Turns a handler's result into a response.
pub(super) async fn respond(
    handler: impl Future<Output = Result<Response<Body>, Fault>>,
) -> Response<Body> {
    error::respond(render, handler).await
}
