//! Errors before a handler runs or while it reads a body. Each listener gets [`Shapes`] to render them, so
//! that this folder stays independent of contracts.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::MatchedPath,
    http::{Request, Response, StatusCode},
};
use onnxd_engine::engine::memory::OutOfMemory;
use thiserror::Error;

/// Why a request or its body does not reach the handler.
#[derive(Debug, Error)]
pub(crate) enum TransportError {
    /// The request carries no accepted API key.
    #[error("missing or invalid API key: send `authorization: Bearer KEY` or `x-api-key: KEY`")]
    Unauthorized,
    /// The body is too large.
    #[error("the body is longer than {max} bytes")]
    BodyTooLarge { max: usize },
    /// The decompressed body is too large.
    #[error("the decompressed body is longer than {max} bytes")]
    DecompressedTooLarge { max: usize },
    /// The client took too long to send the body.
    #[error("the body took longer than {} s", .0.as_secs())]
    BodyTimeout(Duration),
    /// The body is incomplete.
    #[error("cannot read the body: {0}")]
    IncompleteBody(#[source] axum::Error),
    /// The encoding is unsupported.
    #[error("unsupported content-encoding: use gzip, deflate or none")]
    UnsupportedEncoding,
    /// The body does not match its encoding.
    #[error("cannot decompress the body: {0}")]
    InvalidCompression(#[source] io::Error),
    /// There is not enough memory for the body.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// Too many bodies wait to be decompressed.
    #[error("the server is overloaded: too many compressed bodies")]
    DecompressionBusy { retry_after: Duration },
    /// The request does not name one host.
    #[error("{0}")]
    Host(&'static str),
    /// A handler panicked.
    #[error("internal error: the request handler panicked")]
    Panicked,
}

impl TransportError {
    /// Returns the HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::BodyTooLarge { .. }
            | Self::DecompressedTooLarge { .. }
            | Self::OutOfMemory(OutOfMemory::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::IncompleteBody(_) | Self::InvalidCompression(_) | Self::Host(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::OutOfMemory(OutOfMemory::UsedUp) | Self::DecompressionBusy { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns when to retry the request, if known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OutOfMemory(error) => error.retry_after(),
            Self::DecompressionBusy { retry_after } => Some(*retry_after),
            _ => None,
        }
    }
}

/// Why a body could not be read.
#[derive(Debug, Error)]
#[error("{error}")]
pub(crate) struct BodyError {
    /// The reason.
    #[source]
    pub error: TransportError,
    /// The response must close the connection. Part of the request may be unread and must never be
    /// parsed as the next request.
    pub closes: bool,
}

impl From<TransportError> for BodyError {
    fn from(error: TransportError) -> Self {
        Self { error, closes: false }
    }
}

impl From<OutOfMemory> for BodyError {
    fn from(error: OutOfMemory) -> Self {
        TransportError::from(error).into()
    }
}

impl BodyError {
    /// Marks the error as one that closes the connection.
    pub(super) fn and_close(self) -> Self {
        Self { closes: true, ..self }
    }
}

/// Renders errors for one contract.
pub(crate) trait Shape: Send + Sync {
    /// Returns the response to a failed request.
    fn render(&self, error: TransportError) -> Response<Body>;
}

/// Selects the contract of each route.
pub(crate) trait Shapes: Send + Sync {
    /// Returns the renderer for a request, by the template of its route, if any, and its path.
    fn shape(&self, template: Option<&str>, path: &str) -> &'static dyn Shape;

    /// Returns how to rewrite paths before routing.
    fn rewrite(&self) -> Rewrite {
        |_| None
    }
}

/// Returns the path to route instead of the given one, if it is another.
pub(crate) type Rewrite = fn(&str) -> Option<String>;

/// Returns the renderer for a request that has been routed.
pub(super) fn shape_of(shapes: &Arc<dyn Shapes>, request: &Request<Body>) -> &'static dyn Shape {
    let template = request.extensions().get().map(MatchedPath::as_str);
    shapes.shape(template, request.uri().path())
}

/// Returns a selector that renders all routes alike.
pub(crate) fn only(shape: &'static dyn Shape) -> Arc<dyn Shapes> {
    struct Only(&'static dyn Shape);
    impl Shapes for Only {
        fn shape(&self, _template: Option<&str>, _path: &str) -> &'static dyn Shape {
            self.0
        }
    }
    Arc::new(Only(shape))
}
