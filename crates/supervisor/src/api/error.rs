//! Why a request is not answered, before a contract puts it into its own words: the engine's
//! errors, the transport's, and those that contracts find in a request.

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

/// Why a request is not answered.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// The class, which contracts map to their status and words.
    pub class: Class,
    /// For people. Says nothing about the inside of the server.
    pub message: String,
    /// The field of the request that is wrong, where one is.
    pub field: Option<&'static str>,
    /// When it may be tried again, where that is known.
    retry_after: Option<Duration>,
    /// The connection ends with the answer.
    closes: bool,
}

/// The class of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The engine did not answer.
    Engine(ErrorKind),
    /// The request cannot be read at all.
    Unreadable,
    /// The request is JSON of another shape.
    Malformed,
    /// The path has no route.
    NoRoute,
    /// The route has another method.
    Method,
    /// The request did not reach its handler, or its body did not: an HTTP status says why.
    Transport(StatusCode),
}

impl Class {
    /// There is no input.
    pub(crate) const EMPTY: Self = Self::Engine(ErrorKind::Empty);
    /// An input or option is not allowed.
    pub(crate) const INVALID: Self = Self::Engine(ErrorKind::Invalid);
    /// The model's output cannot be sent.
    pub(crate) const FAILED: Self = Self::Engine(ErrorKind::Failed);

    /// The HTTP status that text-embeddings-inference began with and most contracts share. Each
    /// contract says in its own folder where it differs.
    pub(crate) fn usual_status(self) -> StatusCode {
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
    /// A fault of this class.
    pub(crate) fn new(class: Class, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { class, message, field: None, retry_after: None, closes: false }
    }

    /// The same fault, naming a field.
    pub(crate) fn about(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    /// The same fault, of a contract that does not tell the two ways of malformed JSON apart.
    pub(crate) fn unreadable(self) -> Self {
        Self { class: Class::Unreadable, ..self }
    }

    /// A response with this status and body, and the headers that the fault asks for.
    pub(crate) fn response(&self, status: StatusCode, body: &Value) -> Response<Body> {
        let mut response = (status, axum_json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(pause) = self.retry_after {
            // Whole seconds, RFC 9110 section 10.2.3; the other is what OpenAI's clients prefer.
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
            message.push_str(way(task));
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

/// Where a model for this task is called.
fn way(task: Task) -> &'static str {
    match task {
        Task::Embed => "it embeds texts: POST /embed or /v1/embeddings",
        Task::Sparse => "it embeds texts sparsely: POST /embed_sparse",
        Task::MultiVector => "it gives several vectors for each text: POST /embed_all",
        Task::Classify => "it classifies texts: POST /predict",
        Task::Rerank => "it scores pairs of texts: POST /rerank",
        Task::TokenClassify => "it labels tokens: POST / or /token_classification",
        Task::Tensor => "it takes tensors: POST /v2/models/{model}/infer",
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
            TransportError::OutOfMemory(_) | TransportError::UnpackingBusy { .. } => {
                Class::Engine(ErrorKind::Overloaded)
            }
            TransportError::Panicked => Class::Engine(ErrorKind::Internal),
            TransportError::Broken(_) | TransportError::NotPacked(_) => Class::Unreadable,
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

/// Turns a handler's result into a response, with errors in the words of `render`.
pub(crate) async fn respond(
    render: fn(Fault) -> Response<Body>,
    handler: impl Future<Output = Result<Response<Body>, Fault>>,
) -> Response<Body> {
    handler.await.unwrap_or_else(render)
}

/// A JSON body with its content type.
pub(crate) fn axum_json(body: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string())
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

/// The errors of any route, in the shape of `E`, for the OpenAPI document.
pub(crate) fn described<E: ToSchema>() -> BTreeMap<String, RefOr<Described>> {
    let describe = |(status, description): (&str, &str)| {
        let content = ContentBuilder::new().schema(Some(E::schema())).build();
        let response =
            ResponseBuilder::new().description(description).content("application/json", content);
        (status.to_owned(), RefOr::T(response.build()))
    };
    STATUSES.into_iter().map(describe).collect()
}
