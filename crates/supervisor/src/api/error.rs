//! Errors of requests: one kind, printed in the shape of the contract that the route belongs to;
//! and what the OpenAPI document says of them.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use onnxd_proto::{domain::RefusalKind, wire::ask::Rejection};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{ContentBuilder, RefOr, Response as Described, ResponseBuilder},
};

use crate::api::numbers::NotFinite;
use onnxd_engine::{dispatch::gather::GatherError, models::update::NotServed};

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
    /// The connection ends with the answer: a part of the request may not have been read, and
    /// nothing of it is ever to be taken for a request.
    pub closes: bool,
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
    /// OpenAI's: `/v1/…`.
    OpenAi,
    /// Cohere's and Jina's: `/v1/rerank` and the like.
    Cohere,
    /// The Open Inference Protocol: `/v2/…`.
    Oip,
}

impl Contract {
    /// The contract of a path, also of one that does not exist.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/v1/rerank" | "/v2/rerank" | "/v1/embed" | "/v2/embed" => Self::Cohere,
            "/embeddings" => Self::OpenAi,
            path if path.starts_with("/v1/") => Self::OpenAi,
            path if path == "/v2" || path.starts_with("/v2/") => Self::Oip,
            _ => Self::Tei,
        }
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
        Self {
            status,
            kind,
            message: message.into(),
            param: None,
            retry_after: None,
            closes: false,
        }
    }

    /// Nothing is served of the model.
    pub(crate) fn not_loaded() -> Self {
        Self::new(Kind::Unhealthy, "the model is not loaded yet")
    }

    /// The same with another status.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The same, after which the connection ends.
    pub(crate) fn and_close(self) -> Self {
        Self { closes: true, ..self }
    }

    /// The same, naming a field.
    pub(crate) fn about(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    /// The response in the shape of a contract.
    pub(crate) fn into_response(mut self, contract: Contract) -> Response<Body> {
        if contract == Contract::Oip && self.status == StatusCode::UNPROCESSABLE_ENTITY {
            self.status = StatusCode::BAD_REQUEST;
        }
        let (code, message) = (self.code(), self.message);
        let body = match contract {
            Contract::Tei => json!(TeiError { error: message, error_type: self.kind.tei() }),
            Contract::OpenAi => {
                let kind = self.kind.open_ai(self.status);
                let error = OpenAiErrorDetail { message, kind, param: self.param, code };
                json!(OpenAiError { error })
            }
            Contract::Cohere => json!(CohereError { message }),
            Contract::Oip => json!(OipError { error: message }),
        };
        let mut response = (self.status, axum_json(&body)).into_response();
        if let Some(pause) = self.retry_after {
            let headers = response.headers_mut();
            // Whole seconds, RFC 9110 section 10.2.3; the other is what OpenAI's clients prefer.
            let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000)));
            headers.insert("retry-after-ms", HeaderValue::from(millis));
        }
        if self.closes {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn code(&self) -> Option<&'static str> {
        match self.status {
            StatusCode::NOT_FOUND if self.param == Some("model") => Some("model_not_found"),
            StatusCode::UNAUTHORIZED => Some("invalid_api_key"),
            _ => None,
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
        let message = match &error {
            // These name directories of this machine, which are no client's business.
            NotServed::Failed(refusal)
                if matches!(
                    refusal.kind,
                    RefusalKind::NotFound | RefusalKind::Space | RefusalKind::Internal
                ) =>
            {
                "the model could not be loaded; the log of the server says why".to_owned()
            }
            error => error.to_string(),
        };
        let this = Self::new(Kind::Unhealthy, message);
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
            GatherError::Rejected(rejection) => match rejection {
                Rejection::TooLong { .. } => {
                    Self::new(Kind::Validation, format!("Input validation error: {message}"))
                }
                Rejection::TokenId { .. } => {
                    let message = format!("Input validation error: {message}");
                    Self::new(Kind::Validation, message).about("input")
                }
                Rejection::Prompt { .. } => {
                    Self::new(Kind::Validation, message).about("prompt_name")
                }
                Rejection::Dimensions { .. } => {
                    Self::new(Kind::Validation, message).about("dimensions")
                }
                Rejection::Tensors(_) => Self::new(Kind::Validation, message).about("inputs"),
                Rejection::Tokenizer(_) => Self::new(Kind::Tokenizer, message),
                Rejection::Inference(_) | Rejection::WrongTask(_) => {
                    Self::new(Kind::Backend, message)
                }
                Rejection::NotLoaded(_) => Self::new(Kind::Unhealthy, message),
            },
        }
    }
}

/// An error as text-embeddings-inference has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TeiError {
    error: String,
    /// `Validation`, `Empty`, `Tokenizer`, `Backend`, `Overloaded` or `Unhealthy`.
    error_type: &'static str,
}

/// An error as OpenAI has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiError {
    error: OpenAiErrorDetail,
}

#[derive(Debug, Serialize, ToSchema)]
struct OpenAiErrorDetail {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field of the request that is wrong.
    param: Option<&'static str>,
    code: Option<&'static str>,
}

/// An error as Cohere has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CohereError {
    message: String,
}

/// An error as the Open Inference Protocol has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OipError {
    error: String,
}

/// What may go wrong with any request, and what the client is told by the status.
const STATUSES: [(&str, &str); 13] = [
    ("400", "The request is empty or cannot be understood"),
    ("401", "An API key is needed"),
    ("404", "There is no such model or route"),
    ("405", "The route has another method"),
    ("408", "The body took too long"),
    ("413", "The body is too long"),
    ("415", "The body is packed in another way than gzip or deflate"),
    ("422", "The request is not what it should be"),
    ("424", "The model is for something else, or failed"),
    ("429", "Too many inputs wait; the headers say when to come back"),
    ("500", "Workers ended again and again while they computed this request"),
    ("503", "The model is not loaded, or no worker is left"),
    ("504", "The request took too long"),
];

fn described<E: ToSchema>() -> BTreeMap<String, RefOr<Described>> {
    let describe = |(status, description): (&str, &str)| {
        let content = ContentBuilder::new().schema(Some(E::schema())).build();
        let response =
            ResponseBuilder::new().description(description).content("application/json", content);
        (status.to_owned(), RefOr::T(response.build()))
    };
    STATUSES.into_iter().map(describe).collect()
}

/// The errors of routes in the words of text-embeddings-inference.
pub(crate) struct TeiErrors;
/// The errors of routes in the words of OpenAI.
pub(crate) struct OpenAiErrors;
/// The errors of routes in the words of Cohere.
pub(crate) struct CohereErrors;
/// The errors of routes in the words of the Open Inference Protocol.
pub(crate) struct OipErrors;

impl IntoResponses for TeiErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described::<TeiError>()
    }
}

impl IntoResponses for OpenAiErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described::<OpenAiError>()
    }
}

impl IntoResponses for CohereErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described::<CohereError>()
    }
}

impl IntoResponses for OipErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described::<OipError>()
    }
}
