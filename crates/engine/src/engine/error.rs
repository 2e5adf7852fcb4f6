//! Why the engine does not answer a request. Carries no status of any protocol: contracts map
//! [`EngineError::kind`] to their own.

use std::{sync::Arc, time::Duration};

use onnxd_proto::{
    domain::{RefusalKind, Task},
    limits::{TENSORS_BYTES_MAX, TEXT_BYTES_MAX},
    wire::ask::Rejection,
};
use thiserror::Error;

use super::memory::OutOfMemory;
use crate::{dispatch::gather::GatherError, models::update::NotServed};

/// The class of an error, which contracts map to their own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no input.
    Empty,
    /// An input or option is not allowed.
    Invalid,
    /// The inputs are too large together.
    TooLarge,
    /// The tokenizer failed on an input.
    Tokenizer,
    /// The model, or that generation of it, is not served.
    NotFound,
    /// The model was told to serve nothing.
    Unloaded,
    /// The model does something else.
    WrongTask,
    /// The model failed on the inputs.
    Failed,
    /// Too much waits; the same request succeeds later.
    Overloaded,
    /// The model is not loaded, or no worker is left.
    Unavailable,
    /// The deadline has passed.
    Timeout,
    /// A fault of onnxd, or an input that crashes workers.
    Internal,
}

/// Why a request has no answer. `field` is what the caller calls the input in question.
#[derive(Clone, Debug, Error)]
pub enum EngineError {
    /// No model has that name.
    #[error("the model `{name}` is not served; served are: {served}")]
    ModelNotFound {
        /// As asked for, shortened.
        name: String,
        /// The names of all models, separated by commas.
        served: String,
    },
    /// The model serves another generation.
    #[error(
        "version `{version}` of the model `{model}` is not served; {served} is, and without a version the newest answers"
    )]
    VersionNotFound {
        /// As asked for, shortened.
        version: String,
        /// The model's name.
        model: String,
        /// The generation that is served.
        served: u64,
    },
    /// Nothing is served of the model.
    #[error("the model is not loaded yet")]
    NotLoaded,
    /// The model does something else.
    #[error("the model `{model}` is for {}, and this call is for {wanted}", task.as_str())]
    WrongTask {
        /// The model's name.
        model: String,
        /// What it does.
        task: Task,
        /// What the call is for.
        wanted: String,
    },
    /// The model could not be loaded on first use, or is unloaded.
    #[error(transparent)]
    NotServed(#[from] NotServed),
    /// The dispatcher or a worker refused.
    #[error(transparent)]
    Gather(#[from] GatherError),
    /// A text is too long for any tokenizer.
    #[error(
        "Input validation error: a text of `{field}` has {bytes} bytes, at most {TEXT_BYTES_MAX} are allowed"
    )]
    TextTooLong {
        /// What the caller calls the texts.
        field: &'static str,
        /// Bytes of the text.
        bytes: usize,
    },
    /// A query and all its texts are too long together.
    #[error(
        "Input validation error: the query with each of the `{field}` makes {bytes} bytes, at most {max} are allowed"
    )]
    PairsTooLong {
        /// What the caller calls the texts.
        field: &'static str,
        /// Bytes of all pairs.
        bytes: usize,
        /// Bytes that are allowed.
        max: usize,
    },
    /// The name of a prompt is too long.
    #[error("`prompt_name` has more than {max} bytes")]
    PromptName {
        /// Bytes that are allowed.
        max: usize,
    },
    /// A value for a scalar input is not allowed.
    #[error("{0}")]
    Switches(String),
    /// The model has no word for what the vectors are for.
    #[error("the model has no `{field}` of the name `{name}`; known are: {known}")]
    Purpose {
        /// What the caller calls it.
        field: &'static str,
        /// As asked for.
        name: String,
        /// The model's words, separated by commas.
        known: String,
    },
    /// The labels of a classifier say nothing of entailment.
    #[error(
        "the model `{model}` cannot classify by labels of a request: none of its own labels ({labels}) begins with `entail`"
    )]
    NoEntailment {
        /// The model's name.
        model: String,
        /// Its labels, separated by commas.
        labels: String,
    },
    /// An option is not allowed.
    #[error("{message}")]
    Option {
        /// What is wrong.
        message: String,
        /// What the caller calls it.
        field: &'static str,
    },
    /// Tensors do not fit the model.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// Large bodies take all the memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The generation of an answer was forgotten before the answer came.
    #[error("the generation of the answer is unknown")]
    UnknownGeneration,
    /// A worker's answer is not what was asked for.
    #[error("the answer has no outputs")]
    NoOutputs,
    /// A worker's list of tokens or entities cannot be read.
    #[error("internal error: the worker's list cannot be read")]
    Tokens(#[source] Arc<std::io::Error>),
}

impl EngineError {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ModelNotFound { .. } | Self::VersionNotFound { .. } => ErrorKind::NotFound,
            Self::NotServed(NotServed::Unloaded(_)) => ErrorKind::Unloaded,
            Self::NotLoaded | Self::NotServed(NotServed::Failed(_)) => ErrorKind::Unavailable,
            Self::WrongTask { .. } | Self::NoEntailment { .. } => ErrorKind::WrongTask,
            Self::TextTooLong { .. }
            | Self::PairsTooLong { .. }
            | Self::PromptName { .. }
            | Self::Switches(_)
            | Self::Purpose { .. }
            | Self::Option { .. } => ErrorKind::Invalid,
            Self::OutOfMemory(_) => ErrorKind::Overloaded,
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

    /// What to tell a client. Says nothing about the inside of the server.
    pub fn message(&self) -> String {
        match self {
            // These name directories of this machine, which are no client's business.
            Self::NotServed(NotServed::Failed(refusal))
                if matches!(
                    refusal.kind,
                    RefusalKind::NotFound | RefusalKind::Space | RefusalKind::Internal
                ) =>
            {
                "the model could not be loaded; the log of the server says why".to_owned()
            }
            Self::Gather(GatherError::Rejected(
                Rejection::TooLong { .. } | Rejection::TokenId { .. },
            )) => format!("Input validation error: {self}"),
            _ => self.to_string(),
        }
    }

    /// The field of the request that is wrong, where one is.
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

    /// Whether the options do not fit the version that was asked; they may fit another.
    pub(super) fn is_about_options(&self) -> bool {
        use Rejection::{Prompt, Unfit};
        matches!(self, Self::Gather(GatherError::Rejected(Prompt { .. } | Unfit(_))))
    }

    /// When the same request may be tried again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Gather(GatherError::Overloaded { retry_after, .. }) => Some(*retry_after),
            Self::OutOfMemory(error) => Some(error.retry_after()),
            _ => None,
        }
    }
}

/// Why tensors do not fit a model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TensorError {
    /// There is no input.
    #[error("there are no inputs")]
    NoInputs,
    /// The inputs are too large together.
    #[error("the inputs have {bytes} bytes, at most {TENSORS_BYTES_MAX} are taken")]
    TooLarge {
        /// Bytes of all inputs.
        bytes: usize,
    },
    /// An input is not what the model takes, or not what its shape says.
    #[error("{0}")]
    Invalid(String),
}

impl TensorError {
    /// The class of the error.
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
    fn directories_of_this_machine_are_not_told_to_clients() {
        let secret = "/srv/models/m is gone";
        let hidden = NotServed::Failed(RefusalKind::NotFound.because(secret));
        let hidden = EngineError::from(hidden);
        assert!(hidden.to_string().contains(secret) && !hidden.message().contains(secret));
        let told = NotServed::Failed(RefusalKind::Load.because("no such operator"));
        assert!(EngineError::from(told).message().contains("no such operator"));
    }

    #[test]
    fn overload_says_when_to_come_back_and_tokens_keep_their_cause() {
        let retry_after = Duration::from_millis(70);
        let full = EngineError::from(GatherError::Overloaded { limit: 1, retry_after });
        assert_eq!((full.kind(), full.retry_after()), (ErrorKind::Overloaded, Some(retry_after)));
        let memory = EngineError::from(OutOfMemory);
        assert_eq!(memory.retry_after(), Some(Duration::from_secs(1)));
        let cause = std::io::Error::other("not a list");
        assert!(EngineError::Tokens(Arc::new(cause)).source().is_some());
    }
}
