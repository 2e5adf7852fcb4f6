//! Errors of loading and running a model, classified by their remedy.

use std::{fmt, path::Path};

use onnxd_proto::domain::{Refusal, RefusalKind};
use ort::ErrorCode;
use thiserror::Error;

/// ONNX Runtime's messages for running out of memory, for which it has no error code.
const OUT_OF_MEMORY: [&str; 2] = ["std::bad_alloc", "Failed to allocate memory"];
/// Maximum length of an ONNX Runtime message in characters; names in models have no limit.
const MESSAGE_CHARS_MAX: usize = 1000;

/// Why a model cannot be loaded or run.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    /// The model's inputs or outputs are not supported.
    #[error("{0}")]
    Contract(String),
    /// The input does not fit the model.
    #[error("{0}")]
    Input(String),
    /// ONNX Runtime failed to load the model.
    #[error("{cause}: {message}")]
    Load { cause: Cause, message: String },
    /// ONNX Runtime failed to run the model.
    #[error("{cause}: {message}")]
    Run { cause: Cause, message: String },
}

/// Classes of ONNX Runtime's error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The file is truncated or not an ONNX model.
    Damaged,
    /// A file, or a part of one, is missing.
    Missing,
    /// The model uses features that this ONNX Runtime lacks.
    Unsupported,
    /// The input does not fit the model.
    Input,
    /// Out of memory.
    Memory,
    /// Any other error.
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
            _ if OUT_OF_MEMORY.iter().any(|phrase| error.message().contains(phrase)) => {
                Self::Memory
            }
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "not a complete ONNX model",
            Self::Missing => "a file or a part of the model is missing",
            Self::Unsupported => "the model uses features that this ONNX Runtime does not support",
            Self::Input => "invalid argument",
            Self::Memory => "not enough memory",
            Self::Other => "ONNX Runtime failed",
        })
    }
}

/// Converts an error of loading the file `model`. Its folder is left out of the message, because
/// clients of a model that loads on first use see it.
pub(super) fn load_failed(error: &ort::Error, model: &Path) -> SessionError {
    let message = without_folder(error.message(), model).chars().take(MESSAGE_CHARS_MAX).collect();
    SessionError::Load { cause: Cause::from(error), message }
}

/// Returns the message with paths relative to the model's folder.
fn without_folder(message: &str, model: &Path) -> String {
    // A relative path such as `model.onnx` has an empty parent.
    let folder = model.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Some(folder) = folder else { return message.to_owned() };
    // ONNX Runtime resolves links before it looks for weights.
    let resolved = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let prefixes = [folder, &resolved].map(|folder| format!("{}/", folder.display()));
    prefixes.iter().fold(message.to_owned(), |message, prefix| message.replace(prefix, ""))
}

pub(super) fn run_failed(error: ort::Error) -> SessionError {
    SessionError::Run { cause: Cause::from(&error), message: brief(&error) }
}

fn brief(error: &ort::Error) -> String {
    error.message().chars().take(MESSAGE_CHARS_MAX).collect()
}

impl SessionError {
    /// Converts to the refusal of a version whose model is `file`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_failed_loads_hide_the_folder() {
        let home = tempfile::tempdir().unwrap();
        let (folder, link) = (home.path().join("versions"), home.path().join("link"));
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        for place in [&folder, &link] {
            let model = link.join("model.onnx");
            let message = format!("Load model from {}/model.onnx failed", place.display());
            assert_eq!(without_folder(&message, &model), "Load model from model.onnx failed");
        }
        let message = "Load model from model.onnx failed: node /encoder/MatMul";
        assert_eq!(without_folder(message, Path::new("model.onnx")), message);
    }
}
