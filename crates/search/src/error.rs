//! Why a call of [`crate::Search`] failed.

use std::time::Duration;

use onnxd_engine::{EngineError, RequestContext, dispatch::gather::GatherError};
use onnxd_proto::search::{IndexError, IndexErrorKind};
use thiserror::Error;
use tokio::time;

/// The class of an error. Contracts map it to their own codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchErrorKind {
    /// The model failed or rejected the request; see the [`EngineError`].
    Engine,
    /// No such collection or document.
    NotFound,
    /// A collection or alias of that name exists.
    Exists,
    /// The request is invalid.
    Invalid,
    /// A vector belongs to another version than the model serves.
    Version,
    /// A limit is reached.
    Full,
    /// The index cannot answer now; the same request can succeed later.
    Unavailable,
}

/// Why a call failed: the cause and the remedy.
#[derive(Clone, Debug, Error)]
pub enum SearchError {
    /// The model failed or rejected the request.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The index failed or rejected the request.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl SearchError {
    /// Returns the class.
    pub fn kind(&self) -> SearchErrorKind {
        match self {
            Self::Engine(_) => SearchErrorKind::Engine,
            Self::Index(error) => match error.kind {
                IndexErrorKind::NotFound => SearchErrorKind::NotFound,
                IndexErrorKind::Exists => SearchErrorKind::Exists,
                IndexErrorKind::Invalid => SearchErrorKind::Invalid,
                IndexErrorKind::Version => SearchErrorKind::Version,
                IndexErrorKind::Full => SearchErrorKind::Full,
                IndexErrorKind::Storage
                | IndexErrorKind::Damaged
                | IndexErrorKind::Changed
                | IndexErrorKind::Unavailable => SearchErrorKind::Unavailable,
            },
        }
    }

    /// Reports that a request took longer than its client allows.
    fn late(timeout: Duration) -> Self {
        Self::Engine(GatherError::Timeout(timeout).into())
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Index(IndexErrorKind::Invalid.because(message))
    }
}

/// Waits no longer than the client of a request does.
///
/// # Errors
/// It took longer.
pub(crate) async fn in_time<T>(
    context: &RequestContext,
    waited: impl Future<Output = T>,
) -> Result<T, SearchError> {
    match context.timeout() {
        Some(timeout) => {
            time::timeout(timeout, waited).await.map_err(|_| SearchError::late(timeout))
        }
        None => Ok(waited.await),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use onnxd_engine::ErrorKind;

    use super::*;

    #[tokio::test]
    async fn a_wait_ends_with_the_timeout_of_the_request() {
        let context = RequestContext::new();
        assert_eq!(in_time(&context, ready(7)).await.unwrap(), 7);
        let context = context.within(Duration::from_millis(1));
        assert_eq!(in_time(&context, ready(7)).await.unwrap(), 7);
        match in_time(&context, pending::<()>()).await {
            Err(SearchError::Engine(error)) => assert_eq!(error.kind(), ErrorKind::Timeout),
            other => panic!("{other:?}"),
        }
    }
}
