//! The shape of a model's results, kept in its record. Contracts render by this description, not by
//! the task.

use serde::{Deserialize, Serialize};

/// Shape of the result for one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Output {
    /// One vector.
    Dense {
        /// Number of components.
        dimension: u32,
    },
    /// Weights for tokens of the vocabulary, mostly zero.
    Sparse {
        /// Size of the vocabulary.
        dimension: u32,
    },
    /// One vector per token.
    MultiVector {
        /// Number of components of each vector.
        dimension: u32,
    },
    /// One score per label.
    Scores {
        /// Number of labels.
        labels: u32,
    },
    /// One score per token and label.
    TokenScores {
        /// Number of labels.
        labels: u32,
    },
    /// Named tensors, as declared in the model file.
    Tensors,
}

impl Output {
    /// Returns the numbers in one row: vector components or labels; 0 for tensors.
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
