//! Why a model cannot be loaded or run, in the classes that tell people what to do.

use std::fmt;

use onnxd_proto::domain::{Refusal, RefusalKind};
use ort::ErrorCode;
use thiserror::Error;

/// How ONNX Runtime says that there is not enough memory, for which it has no code.
const OUT_OF_MEMORY: [&str; 2] = ["std::bad_alloc", "Failed to allocate memory"];
/// Characters of a message of ONNX Runtime that are passed on; names in models have no limit.
const MESSAGE_CHARS_MAX: usize = 1000;

/// Why a model cannot be loaded or run.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    /// Its inputs or outputs are not what they should be.
    #[error("{0}")]
    Contract(String),
    /// What it is given is not what it takes.
    #[error("{0}")]
    Input(String),
    /// ONNX Runtime cannot load it.
    #[error("{cause}: {message}")]
    Load { cause: Cause, message: String },
    /// ONNX Runtime cannot run it with what it was given.
    #[error("{cause}: {message}")]
    Run { cause: Cause, message: String },
}

/// The classes of ONNX Runtime's error codes, as far as they tell people what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The file is cut short or was never an ONNX model.
    Damaged,
    /// A file, or a part of one, is not where it should be.
    Missing,
    /// The model uses what this version of ONNX Runtime does not have.
    Unsupported,
    /// The input does not fit the model.
    Input,
    /// There is not enough memory.
    Memory,
    /// Anything else.
    Other,
}

impl From<&ort::Error> for Cause {
    fn from(error: &ort::Error) -> Self {
        match error.code() {
            ErrorCode::InvalidProtobuf | ErrorCode::InvalidGraph | ErrorCode::NoModel => {
                Self::Damaged
            }
            ErrorCode::NoSuchFile | ErrorCode::NotFound => Self::Missing,
            ErrorCode::NotImplemented => Self::Unsupported,
            ErrorCode::InvalidArgument => Self::Input,
            _ if OUT_OF_MEMORY.iter().any(|said| error.message().contains(said)) => Self::Memory,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "this is not a whole ONNX model",
            Self::Missing => "something is missing",
            Self::Unsupported => "this ONNX Runtime does not support the model",
            Self::Input => "an argument is invalid",
            Self::Memory => "there is not enough memory",
            Self::Other => "ONNX Runtime failed",
        })
    }
}

pub(super) fn load_failed(error: ort::Error) -> SessionError {
    SessionError::Load { cause: Cause::from(&error), message: brief(&error) }
}

pub(super) fn run_failed(error: ort::Error) -> SessionError {
    SessionError::Run { cause: Cause::from(&error), message: brief(&error) }
}

fn brief(error: &ort::Error) -> String {
    error.message().chars().take(MESSAGE_CHARS_MAX).collect()
}

impl SessionError {
    /// As the reason why the version in which `file` is the model does not serve.
    pub(crate) fn refuse(self, file: &str) -> Refusal {
        let kind = match self {
            Self::Load { cause: Cause::Memory, .. } | Self::Run { cause: Cause::Memory, .. } => {
                RefusalKind::Memory
            }
            Self::Load { .. } => RefusalKind::Load,
            Self::Contract(_) | Self::Input(_) | Self::Run { .. } => RefusalKind::Contract,
        };
        kind.because(format!("{file}: {self}"))
    }
}
