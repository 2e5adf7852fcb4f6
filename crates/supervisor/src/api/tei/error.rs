//! Errors in the words of text-embeddings-inference.

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

/// An error as text-embeddings-inference has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TeiError {
    error: String,
    /// `Validation`, `Empty`, `Tokenizer`, `Backend`, `Overloaded` or `Unhealthy`.
    error_type: &'static str,
}

/// The errors of routes in the words of text-embeddings-inference.
pub(crate) struct TeiErrors;

impl IntoResponses for TeiErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described::<TeiError>()
    }
}

/// Puts an error into the words of text-embeddings-inference.
pub(crate) fn render(fault: Fault) -> Response<Body> {
    let (status, error_type) = (fault.class.usual_status(), error_type(fault.class));
    fault.response(status, &json!(TeiError { error: fault.message.clone(), error_type }))
}

/// Turns a handler's result into a response.
pub(crate) async fn respond(
    handler: impl Future<Output = Result<Response<Body>, Fault>>,
) -> Response<Body> {
    error::respond(render, handler).await
}

/// The word for the class of an error.
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
