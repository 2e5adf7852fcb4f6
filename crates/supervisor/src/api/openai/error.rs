//! Errors in OpenAI's format.

use std::{collections::BTreeMap, future::Future};

use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use onnxd_engine::ErrorKind;
use serde::Serialize;
use serde_json::json;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{RefOr, Response as Described},
};

use crate::api::error::{self, Class, Fault, described};

/// An error in OpenAI's format.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiError {
    error: OpenAiErrorDetail,
}

#[derive(Debug, Serialize, ToSchema)]
struct OpenAiErrorDetail {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The faulty field of the request.
    param: Option<&'static str>,
    code: Option<&'static str>,
}

/// Describes the errors of OpenAI routes.
pub(crate) struct OpenAiErrors;

impl IntoResponses for OpenAiErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described::<OpenAiError>()
    }
}

/// Renders an error in OpenAI's format.
pub(crate) fn render(fault: Fault) -> Response<Body> {
    // OpenAI answers 400 to anything it cannot parse.
    let status = match fault.class {
        Class::Malformed => StatusCode::BAD_REQUEST,
        class => class.default_status(),
    };
    let code = match status {
        StatusCode::NOT_FOUND if fault.field == Some("model") => Some("model_not_found"),
        StatusCode::UNAUTHORIZED => Some("invalid_api_key"),
        _ => None,
    };
    let (message, param) = (fault.message.clone(), fault.field);
    let error = OpenAiErrorDetail { message, kind: kind(fault.class, status), param, code };
    fault.response(status, &json!(OpenAiError { error }))
}

/// Runs a handler and renders its error, if any.
pub(super) async fn respond(
    handler: impl Future<Output = Result<Response<Body>, Fault>>,
) -> Response<Body> {
    error::respond(render, handler).await
}

/// Returns the error type of a class.
fn kind(class: Class, status: StatusCode) -> &'static str {
    match class {
        Class::Engine(ErrorKind::Overloaded) => "rate_limit_error",
        Class::Engine(ErrorKind::WrongTask | ErrorKind::Failed) => "server_error",
        _ if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}
