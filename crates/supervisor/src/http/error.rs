//! Errors of requests: one kind, printed in the shape of the contract that the route belongs to.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use onnxd_proto::message::Rejection;
use serde_json::{Value, json};

use super::api::numbers::NotFinite;
use crate::{dispatch::gather::GatherError, models::update::NotServed};

/// Why a request is not answered.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// TEI's word for the class of the error.
    pub kind: Kind,
    /// For people. Says nothing about the inside of the server.
    pub message: String,
    /// The field of the request that is wrong, where one is.
    pub param: Option<&'static str>,
    /// When it may be tried again, where that is known.
    pub retry_after: Option<Duration>,
}

/// TEI's `error_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Validation,
    Empty,
    Tokenizer,
    Backend,
    Overloaded,
    Unhealthy,
}

/// Which contract a route belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contract {
    /// text-embeddings-inference, and what belongs to no contract.
    Tei,
    /// `/v1/…`.
    OpenAi,
}

impl Contract {
    /// The contract of a path, also of one that does not exist.
    pub(crate) fn of(path: &str) -> Self {
        if path.starts_with("/v1/") { Self::OpenAi } else { Self::Tei }
    }
}

impl ApiError {
    /// An error with TEI's usual status for its kind.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        let status = match kind {
            Kind::Validation | Kind::Tokenizer => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::Empty => StatusCode::BAD_REQUEST,
            Kind::Backend => StatusCode::FAILED_DEPENDENCY,
            Kind::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Kind::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, kind, message: message.into(), param: None, retry_after: None }
    }

    /// The same with another status.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The same, naming a field.
    pub(crate) fn about(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    /// The response in the shape of a contract.
    pub(crate) fn into_response(self, contract: Contract) -> Response<Body> {
        let body = match contract {
            Contract::Tei => json!({ "error": self.message, "error_type": self.kind.tei() }),
            Contract::OpenAi => json!({ "error": {
                "message": self.message,
                "type": self.kind.open_ai(self.status),
                "param": self.param,
                "code": self.code(),
            } }),
        };
        let mut response = (self.status, axum_json(&body)).into_response();
        if let Some(pause) = self.retry_after {
            let headers = response.headers_mut();
            // Whole seconds, RFC 9110 section 10.2.3; the other is what OpenAI's clients prefer.
            let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000)));
            headers.insert("retry-after-ms", HeaderValue::from(millis));
        }
        response
    }

    fn code(&self) -> Value {
        match self.status {
            StatusCode::NOT_FOUND if self.param == Some("model") => "model_not_found".into(),
            _ => Value::Null,
        }
    }
}

/// A JSON body with its content type.
pub(crate) fn axum_json(body: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string())
}

impl Kind {
    fn tei(self) -> &'static str {
        match self {
            Self::Validation => "Validation",
            Self::Empty => "Empty",
            Self::Tokenizer => "Tokenizer",
            Self::Backend => "Backend",
            Self::Overloaded => "Overloaded",
            Self::Unhealthy => "Unhealthy",
        }
    }

    fn open_ai(self, status: StatusCode) -> &'static str {
        match self {
            Self::Overloaded => "rate_limit_error",
            _ if status.is_server_error() || self == Self::Backend => "server_error",
            _ => "invalid_request_error",
        }
    }
}

impl From<NotFinite> for ApiError {
    fn from(error: NotFinite) -> Self {
        Self::new(Kind::Backend, error.to_string())
    }
}

impl From<NotServed> for ApiError {
    fn from(error: NotServed) -> Self {
        let this = Self::new(Kind::Unhealthy, error.to_string());
        match error {
            NotServed::Unloaded(_) => this.with_status(StatusCode::NOT_FOUND).about("model"),
            NotServed::Failed(_) => this,
        }
    }
}

impl From<GatherError> for ApiError {
    fn from(error: GatherError) -> Self {
        let message = error.to_string();
        match error {
            GatherError::Overloaded { retry_after, .. } => {
                Self { retry_after: Some(retry_after), ..Self::new(Kind::Overloaded, message) }
            }
            GatherError::Timeout(_) => {
                Self::new(Kind::Backend, message).with_status(StatusCode::GATEWAY_TIMEOUT)
            }
            GatherError::Stopped => Self::new(Kind::Unhealthy, message),
            GatherError::Poisonous => {
                Self::new(Kind::Backend, message).with_status(StatusCode::INTERNAL_SERVER_ERROR)
            }
            GatherError::Rejected(Rejection::TooLong { .. }) => {
                Self::new(Kind::Validation, format!("Input validation error: {message}"))
            }
            GatherError::Rejected(Rejection::Tokenizer(_)) => Self::new(Kind::Tokenizer, message),
            GatherError::Rejected(Rejection::Inference(_)) => Self::new(Kind::Backend, message),
            GatherError::Rejected(Rejection::NotLoaded(_)) => Self::new(Kind::Unhealthy, message),
        }
    }
}
