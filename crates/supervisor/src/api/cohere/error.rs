//! Errors in Cohere's format.

use std::{collections::BTreeMap, future::Future};

use axum::{body::Body, http::Response};
use serde::Serialize;
use serde_json::json;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{RefOr, Response as Described},
};

use crate::api::error::{self, Fault, described};

/// An error in Cohere's format.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CohereError {
    message: String,
}

/// Describes the errors of Cohere routes.
pub(crate) struct CohereErrors;

impl IntoResponses for CohereErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described::<CohereError>()
    }
}

/// Renders an error in Cohere's format.
pub(crate) fn render(fault: Fault) -> Response<Body> {
    let body = json!(CohereError { message: fault.message.clone() });
    fault.response(fault.class.default_status(), &body)
}

/// Runs a handler and renders its error, if any.
pub(super) async fn respond(
    handler: impl Future<Output = Result<Response<Body>, Fault>>,
) -> Response<Body> {
    error::respond(render, handler).await
}
