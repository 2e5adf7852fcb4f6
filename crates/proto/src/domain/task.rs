//! A model's task, and how its outputs become results.

use serde::{Deserialize, Serialize};

use super::tensor::TensorSpec;

/// The purpose of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Texts in, embeddings out.
    Embed,
    /// Texts in, weights for tokens of the vocabulary out.
    Sparse,
    /// Texts in, one embedding per token out, for late interaction.
    MultiVector,
    /// Texts or pairs of texts in, one score per label out.
    Classify,
    /// Pairs of a query and a text in, one score out.
    Rerank,
    /// Texts in, one score per token and label out.
    TokenClassify,
    /// Tensors in, tensors out.
    Tensor,
}

impl Task {
    pub const ALL: [Self; 7] = [
        Self::Embed,
        Self::Sparse,
        Self::MultiVector,
        Self::Classify,
        Self::Rerank,
        Self::TokenClassify,
        Self::Tensor,
    ];
    /// Tasks whose models take texts.
    pub const TEXT: [Self; 6] = [
        Self::Embed,
        Self::Sparse,
        Self::MultiVector,
        Self::Classify,
        Self::Rerank,
        Self::TokenClassify,
    ];

    /// Returns the task's name in files, messages and metrics.
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

/// How a model's scores become the results that clients receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Normalizes the scores of a text to a sum of 1.
    #[default]
    Softmax,
    /// Maps each score independently.
    Sigmoid,
    /// Passes scores through unchanged.
    Identity,
}

/// Inputs and outputs of a tensor model, in model order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// All are required.
    pub inputs: Vec<TensorSpec>,
    /// A request may ask for any subset.
    pub outputs: Vec<TensorSpec>,
}
