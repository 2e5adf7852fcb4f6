//! Errors of requests that are made before a handler runs or while it reads a body, and who puts
//! them into words: each listener is handed [`Shapes`], so that this folder knows no contract.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::MatchedPath,
    http::{Request, Response, StatusCode},
};
use onnxd_engine::engine::memory::OutOfMemory;
use thiserror::Error;

/// Why a request does not reach its handler, or its body does not.
#[derive(Debug, Error)]
pub(crate) enum TransportError {
    /// The request shows no API key that is allowed.
    #[error("an API key is needed: send authorization: Bearer KEY, or x-api-key: KEY")]
    KeyNeeded,
    /// The body is too long.
    #[error("the body is longer than {max} bytes")]
    TooLong { max: usize },
    /// The body is too long once it is unpacked.
    #[error("the unpacked body is longer than {max} bytes")]
    UnpackedTooLong { max: usize },
    /// The client took too long to send the body.
    #[error("the body took longer than {} s", .0.as_secs())]
    Timeout(Duration),
    /// The body broke off.
    #[error("the body could not be read: {0}")]
    Broken(#[source] axum::Error),
    /// The body is packed in an unknown way.
    #[error("the body is packed in a way that is neither gzip nor deflate")]
    UnknownEncoding,
    /// The body is not packed in the way that it claims.
    #[error("the body cannot be unpacked: {0}")]
    NotPacked(#[source] io::Error),
    /// Large bodies take all the memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// Too many packed bodies wait to be unpacked.
    #[error("the server is overloaded: too many packed bodies")]
    UnpackingBusy { retry_after: Duration },
    /// A handler panicked.
    #[error("the server failed at this request")]
    Panicked,
}

impl TransportError {
    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::KeyNeeded => StatusCode::UNAUTHORIZED,
            Self::TooLong { .. } | Self::UnpackedTooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Timeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) | Self::NotPacked(_) => StatusCode::BAD_REQUEST,
            Self::UnknownEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::OutOfMemory(_) | Self::UnpackingBusy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// When the request may be tried again, where that is known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OutOfMemory(error) => Some(error.retry_after()),
            Self::UnpackingBusy { retry_after } => Some(*retry_after),
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
    /// The connection ends with the answer: a part of the request may not have been read, and
    /// nothing of it may ever be taken for a request.
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
    /// The same error, after which the connection ends.
    pub(super) fn and_close(self) -> Self {
        Self { closes: true, ..self }
    }
}

/// Puts errors into the words of one contract.
pub(crate) trait Shape: Send + Sync {
    /// The response to a request that failed.
    fn render(&self, error: TransportError) -> Response<Body>;
}

/// Knows the words of each route.
pub(crate) trait Shapes: Send + Sync {
    /// The words of a request, by the template of its route, if it has one, and its path.
    fn shape(&self, template: Option<&str>, path: &str) -> &'static dyn Shape;
}

/// The words of a request. It has been routed already.
pub(super) fn shape_of(shapes: &Arc<dyn Shapes>, request: &Request<Body>) -> &'static dyn Shape {
    let template = request.extensions().get().map(MatchedPath::as_str);
    shapes.shape(template, request.uri().path())
}

/// One shape for all routes.
pub(crate) fn only(shape: &'static dyn Shape) -> Arc<dyn Shapes> {
    struct Only(&'static dyn Shape);
    impl Shapes for Only {
        fn shape(&self, _template: Option<&str>, _path: &str) -> &'static dyn Shape {
            self.0
        }
    }
    Arc::new(Only(shape))
}
