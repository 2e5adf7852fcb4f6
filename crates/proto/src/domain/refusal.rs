//! Reasons for refusing an update.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a candidate does not serve. The names of `kind` are part of the admin interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Class of the cause.
    pub kind: RefusalKind,
    /// The cause in plain text.
    pub message: String,
    /// How long the source's server asks to wait before another attempt. Stays in this process.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

/// Classes of causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The requested source or generation does not exist.
    NotFound,
    /// A file is missing, or the model does not fit its task or the serving version.
    Contract,
    /// ONNX Runtime or the tokenizer cannot load the model.
    Load,
    /// The checker crashed.
    Crash,
    /// The check took too long.
    Timeout,
    /// The check took too much memory.
    Memory,
    /// The candidate's own canary texts do not produce the output it declares.
    Canary,
    /// The candidate's embeddings differ too much from the serving generation's.
    Drift,
    /// A file does not match its digest.
    Checksum,
    /// No configured key has signed the files.
    Signature,
    /// The source's server does not answer, or has a fault. A later attempt may succeed.
    Unreachable,
    /// The source's server refuses the credentials, or asks for some.
    Unauthorized,
    /// The source's files do not belong together yet: an upload is running. A later attempt may
    /// succeed.
    Incomplete,
    /// The source's address is not allowed.
    Forbidden,
    /// The disk is full.
    Space,
    /// A newer update replaced this one.
    Superseded,
    /// `onnxd update --cancel` ended it.
    Cancelled,
    /// The version failed an earlier probation.
    Quarantined,
    /// onnxd is stopping, or the update queue is full.
    Busy,
    /// A successor is taking over; retry the call.
    HandingOver,
    /// The call is invalid: its body, a header or a path in it.
    Malformed,
    /// An internal error in onnxd, or a disk error.
    Internal,
}

impl RefusalKind {
    /// Returns whether another attempt with the same content may succeed.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::NotFound
                | Self::Unreachable
                | Self::Unauthorized
                | Self::Incomplete
                | Self::Space
                | Self::Superseded
                | Self::Busy
                | Self::HandingOver
                | Self::Internal
        )
    }

    /// Creates a refusal of this kind.
    pub fn because(self, message: impl Into<String>) -> Refusal {
        Refusal { kind: self, message: message.into(), retry_after: None }
    }
}

impl Refusal {
    /// Returns the refusal with another message.
    #[must_use]
    pub fn with_message(self, message: String) -> Self {
        Self { message, ..self }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
