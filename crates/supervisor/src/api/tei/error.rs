//! Errors in the format of text-embeddings-inference.

use std::{collections::BTreeMap, future::Future};

use axum::{body::Body, http::Response};
use onnxd_engine::ErrorKind;
use serde::Serialize;
use serde_json::json;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{RefOr, Response as Described},
};

use crate::api::error::{self, Class, Fault, described};

/// An error in the format of text-embeddings-inference.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TeiError {
    error: String,
    /// `Validation`, `Empty`, `Tokenizer`, `Backend`, `Overloaded` or `Unhealthy`.
    error_type: &'static str,
}

/// Describes the errors of text-embeddings-inference routes.
pub(crate) struct TeiErrors;

impl IntoResponses for TeiErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described::<TeiError>()
    }
}

/// Renders an error in the format of text-embeddings-inference.
pub(crate) fn render(fault: Fault) -> Response<Body> {
    let (status, error_type) = (fault.class.default_status(), error_type(fault.class));
    fault.response(status, &json!(TeiError { error: fault.message.clone(), error_type }))
}

/// Runs a handler and renders its error, if any.
pub(crate) async fn respond(
    handler: impl Future<Output = Result<Response<Body>, Fault>>,
) -> Response<Body> {
    error::respond(render, handler).await
}

/// Returns the error type of a class.
fn error_type(class: Class) -> &'static str {
    let Class::Engine(kind) = class else { return "Validation" };
    match kind {
        ErrorKind::Empty => "Empty",
        ErrorKind::Invalid | ErrorKind::TooLarge | ErrorKind::NotFound => "Validation",
        ErrorKind::Tokenizer => "Tokenizer",
        ErrorKind::WrongTask | ErrorKind::Failed | ErrorKind::Timeout | ErrorKind::Internal => {
            "Backend"
        }
        ErrorKind::Overloaded => "Overloaded",
        ErrorKind::Unloaded | ErrorKind::Unavailable => "Unhealthy",
    }
}
