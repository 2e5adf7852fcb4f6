//! Errors of requests, before a contract renders them: from the engine, the transport, and the
//! contracts' own checks.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use onnxd_engine::{EngineError, ErrorKind, engine::memory::OutOfMemory};
use onnxd_proto::domain::Task;
use serde_json::Value;
use utoipa::{
    ToSchema,
    openapi::{ContentBuilder, RefOr, Response as Described, ResponseBuilder},
};

use crate::{
    api::numbers::NotFinite,
    transport::error::{BodyError, TransportError},
};

/// Why a request failed.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// The class, which contracts map to a status and an error type.
    pub class: Class,
    /// A message for the client. Reveals no internals of the server.
    pub message: String,
    /// The faulty field of the request, if known.
    pub field: Option<&'static str>,
    /// When the client may retry, if known.
    retry_after: Option<Duration>,
    /// The connection closes after the response.
    closes: bool,
}

/// The class of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The engine failed or rejected the request.
    Engine(ErrorKind),
    /// The request cannot be parsed at all.
    Unreadable,
    /// The request is valid JSON of the wrong shape.
    Malformed,
    /// No route matches the path.
    NoRoute,
    /// The route does not allow the method.
    Method,
    /// The request or its body did not reach the handler; the HTTP status says why.
    Transport(StatusCode),
}

impl Class {
    /// The request has no inputs.
    pub(crate) const EMPTY: Self = Self::Engine(ErrorKind::Empty);
    /// An input or option is not allowed.
    pub(crate) const INVALID: Self = Self::Engine(ErrorKind::Invalid);
    /// The model's output cannot be represented in the response.
    pub(crate) const FAILED: Self = Self::Engine(ErrorKind::Failed);

    /// Returns the HTTP status that text-embeddings-inference uses and most contracts share. Each
    /// contract documents its differences in its own folder.
    pub(crate) fn default_status(self) -> StatusCode {
        match self {
            Self::Unreadable => StatusCode::BAD_REQUEST,
            Self::Malformed => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Transport(status) => status,
            Self::Engine(kind) => match kind {
                ErrorKind::Empty => StatusCode::BAD_REQUEST,
                ErrorKind::Invalid | ErrorKind::Tokenizer => StatusCode::UNPROCESSABLE_ENTITY,
                ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                ErrorKind::NotFound | ErrorKind::Unloaded => StatusCode::NOT_FOUND,
                ErrorKind::WrongTask | ErrorKind::Failed => StatusCode::FAILED_DEPENDENCY,
                ErrorKind::Overloaded => StatusCode::TOO_MANY_REQUESTS,
                ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
                ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }
}

impl Fault {
    /// Creates a fault.
    pub(crate) fn new(class: Class, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { class, message, field: None, retry_after: None, closes: false }
    }

    /// Names the faulty field.
    pub(crate) fn about(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    /// Reclassifies the fault, for contracts that do not distinguish invalid JSON from a wrong
    /// shape.
    pub(crate) fn unreadable(self) -> Self {
        Self { class: Class::Unreadable, ..self }
    }

    /// Builds a response with this status and body, and the headers for retry and close.
    pub(crate) fn response(&self, status: StatusCode, body: &Value) -> Response<Body> {
        let mut response = (status, axum_json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(pause) = self.retry_after {
            // RFC 9110, section 10.2.3 requires whole seconds. OpenAI's clients prefer the other
            // header.
            let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000)));
            headers.insert("retry-after-ms", HeaderValue::from(millis));
        }
        if self.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Self {
        let mut message = error.message();
        if let EngineError::WrongTask { task, .. } = error {
            message.push_str("; ");
            message.push_str(suggestion(task));
        }
        Self {
            class: Class::Engine(error.kind()),
            message,
            field: error.field(),
            retry_after: error.retry_after(),
            closes: false,
        }
    }
}

/// Returns which route to call for a model of this task.
fn suggestion(task: Task) -> &'static str {
    match task {
        Task::Embed => "it embeds texts: use POST /embed or /v1/embeddings",
        Task::Sparse => "it returns sparse embeddings: use POST /embed_sparse",
        Task::MultiVector => "it returns several vectors per text: use POST /embed_all",
        Task::Classify => "it classifies texts: use POST /predict",
        Task::Rerank => "it scores pairs of texts: use POST /rerank",
        Task::TokenClassify => "it labels tokens: use POST / or /token_classification",
        Task::Tensor => "it takes tensors: use POST /v2/models/{model}/infer",
    }
}

impl From<OutOfMemory> for Fault {
    fn from(error: OutOfMemory) -> Self {
        EngineError::from(error).into()
    }
}

impl From<TransportError> for Fault {
    fn from(error: TransportError) -> Self {
        let class = match &error {
            TransportError::OutOfMemory(OutOfMemory::UsedUp)
            | TransportError::DecompressionBusy { .. } => Class::Engine(ErrorKind::Overloaded),
            TransportError::Panicked => Class::Engine(ErrorKind::Internal),
            TransportError::IncompleteBody(_) | TransportError::InvalidCompression(_) => {
                Class::Unreadable
            }
            other => Class::Transport(other.status()),
        };
        Self { retry_after: error.retry_after(), ..Self::new(class, error.to_string()) }
    }
}

impl From<BodyError> for Fault {
    fn from(BodyError { error, closes }: BodyError) -> Self {
        Self { closes, ..error.into() }
    }
}

impl From<NotFinite> for Fault {
    fn from(error: NotFinite) -> Self {
        Self::new(Class::FAILED, error.to_string())
    }
}

/// Runs a handler and renders its error, if any.
pub(crate) async fn respond(
    render: fn(Fault) -> Response<Body>,
    handler: impl Future<Output = Result<Response<Body>, Fault>>,
) -> Response<Body> {
    handler.await.unwrap_or_else(render)
}

/// Returns a JSON body with its content type.
pub(crate) fn axum_json(body: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string())
}

/// The statuses of errors that any request can get, with their descriptions.
const STATUSES: [(&str, &str); 13] = [
    ("400", "The request is empty or cannot be parsed"),
    ("401", "The API key is missing or invalid"),
    ("404", "Unknown model or route"),
    ("405", "The route does not allow the method"),
    ("408", "The body did not arrive in time"),
    ("413", "The body is too large"),
    (
        "415",
        "Unsupported content encoding: only gzip and deflate are accepted; or a form or plain text that a browser sends to a collection",
    ),
    ("422", "Invalid request body"),
    ("424", "The model has another task, or failed"),
    ("429", "Overloaded; the headers say when to retry"),
    ("500", "The request crashed workers repeatedly, or an internal error occurred"),
    ("503", "The model is not loaded, or no worker is available"),
    ("504", "The request timed out"),
];

/// Returns the errors of any route, with bodies of type `E`, for the OpenAPI document.
pub(crate) fn described<E: ToSchema>() -> BTreeMap<String, RefOr<Described>> {
    let describe = |(status, description): (&str, &str)| {
        let content = ContentBuilder::new().schema(Some(E::schema())).build();
        let response =
            ResponseBuilder::new().description(description).content("application/json", content);
        (status.to_owned(), RefOr::T(response.build()))
    };
    STATUSES.into_iter().map(describe).collect()
}
