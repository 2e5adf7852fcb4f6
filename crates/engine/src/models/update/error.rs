//! Why a model does not serve or an update task did not answer.

use onnxd_proto::domain::{Refusal, RefusalKind};
use thiserror::Error;

use crate::models::startup::Phase;

/// Why a model does not answer requests.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotServed {
    /// It was unloaded on request; only an update loads it again.
    #[error("model `{0}` is unloaded; run `onnxd update {0}` to load it")]
    Unloaded(String),
    /// The server is starting and has not loaded it yet.
    #[error("the server is starting: {0}")]
    Starting(Phase),
    /// It could not be loaded.
    #[error("the model could not be loaded: {0}")]
    Failed(Refusal),
}

/// Why a model could not be restored at start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// Its content was refused.
    #[error("--model {model}: {refusal}")]
    Refused {
        /// The model.
        model: String,
        /// Why its content was refused.
        refusal: Refusal,
    },
    /// Its update task ended: an internal error.
    #[error("internal error: the update task of {model} ended unexpectedly")]
    Ended {
        /// The model.
        model: String,
    },
}

/// Why a call to an update task failed.
pub(super) enum CallError {
    Refused(Refusal),
    /// The update task ended.
    Ended,
}

impl CallError {
    pub(super) fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Ended => RefusalKind::Internal
                .because("internal error: the model's update task ended unexpectedly"),
        }
    }
}
