//! What a model does: its task, and how its outputs become answers.

use serde::{Deserialize, Serialize};

use super::tensor::TensorSpec;

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Texts in, embeddings out.
    Embed,
    /// Texts in, weights of tokens of the vocabulary out.
    Sparse,
    /// Texts in, an embedding of each token out, for late interaction.
    MultiVector,
    /// Texts or pairs of texts in, a score for each label out.
    Classify,
    /// Pairs of a query and a text in, a score out.
    Rerank,
    /// Texts in, a score for each label of each token out.
    TokenClassify,
    /// Tensors in, tensors out.
    Tensor,
}

impl Task {
    /// Every task.
    pub const ALL: [Self; 7] = [
        Self::Embed,
        Self::Sparse,
        Self::MultiVector,
        Self::Classify,
        Self::Rerank,
        Self::TokenClassify,
        Self::Tensor,
    ];
    /// The tasks whose models take texts.
    pub const TEXT: [Self; 6] = [
        Self::Embed,
        Self::Sparse,
        Self::MultiVector,
        Self::Classify,
        Self::Rerank,
        Self::TokenClassify,
    ];

    /// The word for it in files, messages and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Sparse => "sparse",
            Self::MultiVector => "multi_vector",
            Self::Classify => "classify",
            Self::Rerank => "rerank",
            Self::TokenClassify => "token_classify",
            Self::Tensor => "tensor",
        }
    }
}

/// How a model's scores become what clients are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// All of a text's together, so that their sum is 1.
    #[default]
    Softmax,
    /// Each for itself.
    Sigmoid,
    /// They are given as the model gives them.
    Identity,
}

/// What a model for tensors takes and gives, in its own order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// All are needed.
    pub inputs: Vec<TensorSpec>,
    /// Any may be asked for.
    pub outputs: Vec<TensorSpec>,
}
