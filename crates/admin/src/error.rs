//! Why a call has no response.

use std::time::Duration;

use thiserror::Error;

/// Why a call has no response.
#[derive(Debug, Error)]
pub enum Error {
    /// No endpoint accepts a connection. Lists each endpoint tried, with the reason.
    #[error("cannot reach a supervisor ({})", tried.join("; "))]
    Unreachable {
        /// Endpoints in the order tried.
        tried: Vec<String>,
    },
    /// No response arrived in time.
    #[error("the supervisor accepted the call but did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection broke before the response was complete.
    #[error("the supervisor's response was cut off: {0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The response is not JSON.
    #[error("expected JSON from the supervisor, got: {0}")]
    NotJson(String),
    /// The response is JSON of an unknown form.
    #[error("unexpected response from the supervisor: {0}")]
    Unexpected(String),
}

impl Error {
    pub(crate) fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Broken(error.into())
    }
}
