//! What a model does: its task, and how its outputs become answers.

use serde::{Deserialize, Serialize};

use super::tensor::TensorSpec;

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Texts in, embeddings out.
    Embed,
    /// Texts or pairs of texts in, a score for each label out.
    Classify,
    /// Pairs of a query and a text in, a score out.
    Rerank,
    /// Tensors in, tensors out.
    Tensor,
}

impl Task {
    /// The word for it in files, messages and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Classify => "classify",
            Self::Rerank => "rerank",
            Self::Tensor => "tensor",
        }
    }
}

/// How token embeddings become one embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over all tokens that are not padding.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's that is not padding.
    LastToken,
    /// The model pools by itself: its output has one row per text.
    None,
}

/// How scores become numbers between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// All of a text's together, so that their sum is 1.
    #[default]
    Softmax,
    /// Each for itself.
    Sigmoid,
}

/// What a model for tensors takes and gives, in its own order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// All are needed.
    pub inputs: Vec<TensorSpec>,
    /// Any may be asked for.
    pub outputs: Vec<TensorSpec>,
}
