//! Why an update was refused.

use serde::{Deserialize, Serialize};

/// Why a candidate does not serve. The words of `kind` are part of the admin interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The class of the cause.
    pub kind: RefusalKind,
    /// The cause, for people.
    pub message: String,
}

/// Classes of causes why an update did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The source or generation that was asked for does not exist.
    NotFound,
    /// A file is missing, or the model does not fit its task or what is being served.
    Contract,
    /// ONNX Runtime or the tokenizer cannot load it.
    Load,
    /// The checker died.
    Crash,
    /// The check took too long.
    Timeout,
    /// The check took too much memory.
    Memory,
    /// The candidate's own canary texts do not come out as it says.
    Canary,
    /// The candidate's embeddings are too far from the serving generation's.
    Drift,
    /// A file is not what its digest says.
    Checksum,
    /// The disk is full.
    Space,
    /// A newer update took this one's place.
    Superseded,
    /// The version failed its probation before.
    Quarantined,
    /// onnxd is stopping, or too many updates wait.
    Busy,
    /// A successor takes over; ask again.
    HandingOver,
    /// The call itself is wrong: its body, its headers or a path in it.
    Malformed,
    /// A fault of onnxd's own, or of the disk.
    Internal,
}

impl RefusalKind {
    /// A refusal of this kind.
    pub fn because(self, message: impl Into<String>) -> Refusal {
        Refusal { kind: self, message: message.into() }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
