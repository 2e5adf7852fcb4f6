//! What a model returns, described by its record. Contracts render the description; they do not ask
//! for the task.

use serde::{Deserialize, Serialize};

/// The shape of the answer to one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Output {
    /// One vector.
    Dense {
        /// Its components.
        dimension: u32,
    },
    /// Weights of tokens of the vocabulary, most of them zero.
    Sparse {
        /// Tokens of the vocabulary.
        dimension: u32,
    },
    /// One vector for each token.
    MultiVector {
        /// Components of each.
        dimension: u32,
    },
    /// One score for each label.
    Scores {
        /// How many labels there are.
        labels: u32,
    },
    /// One score for each label, for each token.
    TokenScores {
        /// How many labels there are.
        labels: u32,
    },
    /// Named tensors, as the model's file declares them.
    Tensors,
}

impl Output {
    /// Numbers of one row: components of a vector, or labels; 0 for tensors.
    pub fn row_len(self) -> u32 {
        match self {
            Self::Dense { dimension }
            | Self::Sparse { dimension }
            | Self::MultiVector { dimension } => dimension,
            Self::Scores { labels } | Self::TokenScores { labels } => labels,
            Self::Tensors => 0,
        }
    }
}
