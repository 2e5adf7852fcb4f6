//! The reasons the engine fails a request. Independent of protocol status codes: contracts map
//! [`EngineError::kind`] to theirs.

use std::{sync::Arc, time::Duration};

use onnxd_proto::{
    domain::{RefusalKind, Task},
    limits::{TENSORS_BYTES_MAX, TEXT_BYTES_MAX},
    wire::operation::Rejection,
};
use thiserror::Error;

use super::memory::OutOfMemory;
use crate::{dispatch::gather::GatherError, models::update::NotServed};

/// When to retry while the server starts.
const START_RETRY_AFTER: Duration = Duration::from_secs(2);
/// When to retry while a model's source is away.
const SOURCE_RETRY_AFTER: Duration = Duration::from_secs(30);
/// When to retry while no worker can load a model. Workers try again, at most 30 s apart.
const LOAD_RETRY_AFTER: Duration = Duration::from_secs(30);

/// The class of an error. Contracts map it to their own codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request has no input.
    Empty,
    /// An input or option is invalid.
    Invalid,
    /// The inputs together are too large.
    TooLarge,
    /// The tokenizer failed on an input.
    Tokenizer,
    /// The model, or that generation of it, is not served.
    NotFound,
    /// The model was unloaded.
    Unloaded,
    /// The model's task does not support the operation.
    WrongTask,
    /// Inference failed on the inputs.
    Failed,
    /// The queue or memory is full; the same request can succeed later.
    Overloaded,
    /// The model is not loaded, or no worker is available.
    Unavailable,
    /// The deadline passed.
    Timeout,
    /// A fault in onnxd, or an input that crashes workers.
    Internal,
}

/// The reason a request failed. `field` is the caller's name for the input in question.
#[derive(Clone, Debug, Error)]
pub enum EngineError {
    /// No model has that name.
    #[error("model `{name}` is not served; available models: {served}")]
    ModelNotFound {
        /// The requested name, shortened.
        name: String,
        /// The names of all models, comma-separated.
        served: String,
    },
    /// The model serves another generation.
    #[error(
        "version `{version}` of model `{model}` is not served, only {served}; omit the version to use the newest"
    )]
    VersionNotFound {
        /// The requested generation, shortened.
        version: String,
        /// The model's name.
        model: String,
        /// The generation that is served.
        served: u64,
    },
    /// The model serves no generation.
    #[error("the model is not loaded yet")]
    NotLoaded,
    /// The model's task does not support the operation.
    #[error("the task of model `{model}` is {}, but this call requires {wanted}", task.as_str())]
    WrongTask {
        /// The model's name.
        model: String,
        /// The model's task.
        task: Task,
        /// The tasks that support the operation.
        wanted: String,
    },
    /// The model failed to load on first use, or was unloaded.
    #[error(transparent)]
    NotServed(#[from] NotServed),
    /// The dispatcher or a worker rejected the request.
    #[error(transparent)]
    Gather(#[from] GatherError),
    /// A text is too long for any tokenizer.
    #[error(
        "Input validation error: a text in `{field}` has {bytes} bytes, at most {TEXT_BYTES_MAX} are allowed"
    )]
    TextTooLong {
        /// The caller's name for the texts.
        field: &'static str,
        /// Size of the text.
        bytes: usize,
    },
    /// A query paired with all its texts is too long.
    #[error(
        "Input validation error: the query paired with each of the `{field}` totals {bytes} bytes, at most {max} are allowed"
    )]
    PairsTooLong {
        /// The caller's name for the texts.
        field: &'static str,
        /// Size of all pairs.
        bytes: usize,
        /// The maximum size.
        max: usize,
    },
    /// A prompt name is too long.
    #[error("`prompt_name` may have at most {max} bytes")]
    PromptName {
        /// The maximum size.
        max: usize,
    },
    /// A value for a scalar input is invalid.
    #[error("{0}")]
    Switches(String),
    /// The model has no word for the purpose of the vectors.
    #[error("the model has no `{field}` named `{name}`; available: {known}")]
    Purpose {
        /// The caller's name for the purpose.
        field: &'static str,
        /// The requested purpose.
        name: String,
        /// The model's words, comma-separated.
        known: String,
    },
    /// The classifier has no entailment label.
    #[error(
        "model `{model}` does not support zero-shot classification: none of its labels ({labels}) begins with `entail`"
    )]
    NoEntailment {
        /// The model's name.
        model: String,
        /// Its labels, comma-separated.
        labels: String,
    },
    /// An option is invalid.
    #[error("{message}")]
    Option {
        /// The complete message.
        message: String,
        /// The caller's name for the option.
        field: &'static str,
    },
    /// The tensors do not fit the model.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// There is not enough memory for a large body.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The generation of an answer was forgotten before the answer arrived.
    #[error("internal error: the answer is from an unknown generation")]
    UnknownGeneration,
    /// A worker's answer does not match the request.
    #[error("the model's output does not match the request")]
    NoOutputs,
    /// A worker's list of tokens or entities cannot be parsed.
    #[error("internal error: cannot parse the worker's list")]
    Tokens(#[source] Arc<std::io::Error>),
}

impl EngineError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ModelNotFound { .. } | Self::VersionNotFound { .. } => ErrorKind::NotFound,
            Self::NotServed(NotServed::Unloaded(_)) => ErrorKind::Unloaded,
            Self::NotLoaded | Self::NotServed(NotServed::Starting(_) | NotServed::Failed(_)) => {
                ErrorKind::Unavailable
            }
            Self::WrongTask { .. } | Self::NoEntailment { .. } => ErrorKind::WrongTask,
            Self::TextTooLong { .. }
            | Self::PairsTooLong { .. }
            | Self::PromptName { .. }
            | Self::Switches(_)
            | Self::Purpose { .. }
            | Self::Option { .. } => ErrorKind::Invalid,
            Self::OutOfMemory(OutOfMemory::UsedUp) => ErrorKind::Overloaded,
            Self::OutOfMemory(OutOfMemory::TooLarge { .. }) => ErrorKind::TooLarge,
            Self::UnknownGeneration | Self::Tokens(_) => ErrorKind::Internal,
            Self::NoOutputs => ErrorKind::Failed,
            Self::Tensors(error) => error.kind(),
            Self::Gather(error) => match error {
                GatherError::Overloaded { .. } => ErrorKind::Overloaded,
                GatherError::Timeout(_) => ErrorKind::Timeout,
                GatherError::Stopped => ErrorKind::Unavailable,
                GatherError::Poisonous => ErrorKind::Internal,
                GatherError::Rejected(rejection) => rejection_kind(rejection),
            },
        }
    }

    /// Returns the message for clients. It reveals nothing about the server's internals.
    pub fn message(&self) -> String {
        match self {
            // These name directories and other servers, which clients must not see.
            Self::NotServed(NotServed::Failed(refusal))
                if matches!(
                    refusal.kind,
                    RefusalKind::NotFound
                        | RefusalKind::Space
                        | RefusalKind::Internal
                        | RefusalKind::Unreachable
                        | RefusalKind::Unauthorized
                        | RefusalKind::Incomplete
                        | RefusalKind::Forbidden
                ) =>
            {
                "the model could not be loaded; see the server log for the reason".to_owned()
            }
            // The reason names files of this machine.
            Self::Gather(GatherError::Rejected(Rejection::NotLoaded(_))) => {
                "no worker could load the model; `onnxd status` and the log name the reason"
                    .to_owned()
            }
            Self::Gather(GatherError::Rejected(
                Rejection::TooLong { .. } | Rejection::TokenId { .. },
            )) => format!("Input validation error: {self}"),
            _ => self.to_string(),
        }
    }

    /// Returns the request field at fault, if any.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::ModelNotFound { .. }
            | Self::VersionNotFound { .. }
            | Self::NotServed(NotServed::Unloaded(_)) => Some("model"),
            Self::TextTooLong { field, .. }
            | Self::PairsTooLong { field, .. }
            | Self::Purpose { field, .. }
            | Self::Option { field, .. } => Some(field),
            Self::Switches(_) => Some("switches"),
            Self::PromptName { .. } => Some("prompt_name"),
            Self::Tensors(_) => Some("inputs"),
            Self::Gather(GatherError::Rejected(rejection)) => match rejection {
                Rejection::TokenId { .. } => Some("input"),
                Rejection::Prompt { .. } => Some("prompt_name"),
                Rejection::Dimensions { .. } => Some("dimensions"),
                Rejection::Tensors(_) => Some("inputs"),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns whether the options do not fit the version that answered. They may fit another.
    pub(super) fn is_about_options(&self) -> bool {
        use Rejection::{Prompt, Unfit};
        matches!(self, Self::Gather(GatherError::Rejected(Prompt { .. } | Unfit(_))))
    }

    /// Returns when the same request may be retried, if known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Gather(GatherError::Overloaded { retry_after, .. }) => Some(*retry_after),
            Self::OutOfMemory(error) => error.retry_after(),
            Self::NotServed(NotServed::Starting(_)) => Some(START_RETRY_AFTER),
            Self::Gather(GatherError::Rejected(Rejection::NotLoaded(_))) => Some(LOAD_RETRY_AFTER),
            Self::NotServed(NotServed::Failed(refusal)) if refusal.kind.is_transient() => {
                Some(refusal.retry_after.unwrap_or(SOURCE_RETRY_AFTER))
            }
            _ => None,
        }
    }
}

/// The reason tensors do not fit a model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TensorError {
    /// The request has no inputs.
    #[error("the request has no inputs")]
    NoInputs,
    /// The inputs together are too large.
    #[error("the inputs total {bytes} bytes, at most {TENSORS_BYTES_MAX} are allowed")]
    TooLarge {
        /// Size of all inputs.
        bytes: usize,
    },
    /// An input does not match the model or its own shape.
    #[error("{0}")]
    Invalid(String),
}

impl TensorError {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoInputs => ErrorKind::Empty,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Invalid(_) => ErrorKind::Invalid,
        }
    }
}

fn rejection_kind(rejection: &Rejection) -> ErrorKind {
    match rejection {
        Rejection::TooLong { .. }
        | Rejection::TokenId { .. }
        | Rejection::Prompt { .. }
        | Rejection::Dimensions { .. }
        | Rejection::Tensors(_)
        | Rejection::Unfit(_) => ErrorKind::Invalid,
        Rejection::Tokenizer(_) => ErrorKind::Tokenizer,
        Rejection::Inference(_) | Rejection::WrongTask(_) => ErrorKind::Failed,
        Rejection::NotLoaded(_) => ErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn directories_of_this_machine_are_hidden_from_clients() {
        let secret = "/srv/models/m is gone";
        let hidden = NotServed::Failed(RefusalKind::NotFound.because(secret));
        let hidden = EngineError::from(hidden);
        assert!(hidden.to_string().contains(secret) && !hidden.message().contains(secret));
        let not_served = NotServed::Failed(RefusalKind::Load.because("no such operator"));
        assert!(EngineError::from(not_served).message().contains("no such operator"));
    }

    #[test]
    fn overload_names_a_retry_delay_and_parse_errors_a_cause() {
        let retry_after = Duration::from_millis(70);
        let full = EngineError::from(GatherError::Overloaded { limit: 1, retry_after });
        assert_eq!((full.kind(), full.retry_after()), (ErrorKind::Overloaded, Some(retry_after)));
        let memory = EngineError::from(OutOfMemory::UsedUp);
        assert_eq!(memory.retry_after(), Some(Duration::from_secs(1)));
        let not_loaded = GatherError::Rejected(Rejection::NotLoaded("damaged".into()));
        let not_loaded = EngineError::from(not_loaded);
        assert_eq!(
            (not_loaded.kind(), not_loaded.retry_after()),
            (ErrorKind::Unavailable, Some(LOAD_RETRY_AFTER))
        );
        let message = not_loaded.message();
        assert!(message.contains("no worker") && message.contains("`onnxd status`"), "{message}");
        assert!(!message.contains("damaged") && not_loaded.to_string().contains("damaged"));
        let cause = std::io::Error::other("not a list");
        assert!(EngineError::Tokens(Arc::new(cause)).source().is_some());
    }
}
