//! Contents of a dispatch group: items, the operation on each, and the results. Messages carry
//! these types; payloads carry the bytes they describe, item by item.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{
    domain::{Task, tensor::TensorHead},
    generation::Generation,
};

/// Maximum number of switches per item.
pub const SWITCHES_MAX: usize = 4;
/// Maximum bytes of a switch's name, and of a named value.
pub const SWITCH_BYTES_MAX: usize = 64;
/// Bytes of a token and its weight in the result of [`TextOutput::Sparse`].
pub const SPARSE_ENTRY_BYTES: usize = 8;
/// Maximum bytes of a prompt's name.
pub const PROMPT_NAME_BYTES_MAX: usize = 256;

/// One item of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Bytes in the payload.
    pub payload_bytes: u32,
    /// Operation to run on them.
    pub operation: Operation,
}

/// Operation on one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Runs a text. The result is little-endian f32.
    Text {
        /// How the payload becomes tokens.
        text: TextOperation,
        /// Requested output.
        output: TextOutput,
    },
    /// Returns the tokens of a text. The payload is UTF-8; the result is a JSON list.
    Tokenize {
        /// See [`TextOperation::prompt`].
        prompt: Option<String>,
        /// Whether to add the model's special tokens.
        special: bool,
    },
    /// Returns the text of tokens. The payload is little-endian u32; the result is UTF-8.
    Decode {
        /// Whether to leave out special tokens.
        skip_special: bool,
    },
    /// Runs tensors. The payload is the tensors one after the other, and so is the result.
    Tensors {
        /// At most [`crate::domain::tensor::TENSORS_MAX`].
        inputs: Vec<TensorHead>,
        /// Requested outputs, in order; empty means all.
        outputs: Vec<String>,
    },
}

/// How an item becomes the tokens of one text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextOperation {
    /// Type of the payload.
    pub content: Content,
    /// End at which a text that is too long is cut; `None` rejects it.
    pub truncate: Option<Side>,
    /// Name of the model's prompt to prepend; `None` uses the default one, if any.
    pub prompt: Option<String>,
    /// Side of a search that the text is on. A model with a prompt or a mode for that side uses it;
    /// other models ignore it. A named prompt takes precedence.
    pub role: Option<Role>,
    /// Values of scalar inputs, at most [`SWITCHES_MAX`].
    pub switches: Vec<Switch>,
}

/// A side of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The text that is searched for.
    Query,
    /// A text that is searched in.
    Document,
}

/// The value of a scalar input of the graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// The input's name.
    pub name: String,
    /// Its value.
    pub value: SwitchValue,
}

/// A number, or the model's name for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwitchValue {
    /// Fed to the graph unchanged.
    Number(i64),
    /// One of [`crate::domain::SwitchFacts::values`].
    Name(String),
}

/// Type of a text item's payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A text, UTF-8.
    #[default]
    Text,
    /// Two texts that form a pair, UTF-8.
    Pair {
        /// Bytes of the first text.
        first_bytes: u32,
        /// Text to cut if the pair is too long.
        cut: PairCut,
    },
    /// Token ids of the model, little-endian u32.
    Ids,
}

/// Text of a pair that is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PairCut {
    /// The longer one, until both are equally long.
    Longest,
    /// Only the first one.
    First,
}

/// End of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    Right,
    /// The end that the model's tokenizer cuts, usually the right one.
    Model,
}

/// Requested output for a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TextOutput {
    /// One embedding.
    Embedding {
        /// Whether to scale to length 1; `None` follows the model's `modules.json`.
        normalize: Option<bool>,
        /// Number of leading components to return; `None` returns all.
        dimensions: Option<u32>,
    },
    /// One embedding per token, as the model computes them.
    TokenEmbeddings,
    /// One score per label, as the model computes them. A reranker has one score, whose logistic
    /// function is the relevance.
    Scores,
    /// Tokens of the vocabulary with a nonzero weight: pairs of a u32 and an f32, little-endian,
    /// ascending by token.
    Sparse,
    /// Entities found by a token classifier: a JSON list of [`Entity`].
    Entities(Aggregation),
}

/// How labeled tokens become entities, named like transformers' `aggregation_strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Each token is an entity.
    #[default]
    None,
    /// Adjacent tokens with the same kind of label form an entity.
    Simple,
    /// Like `Simple`, over words labeled by their first token.
    First,
    /// Like `Simple`, over words labeled by their highest mean score.
    Average,
    /// Like `Simple`, over words labeled by their highest score.
    Max,
}

impl TextOutput {
    /// Returns whether a model with this task can produce the output.
    pub fn is_supported_by(self, task: Task) -> bool {
        match self {
            Self::Embedding { .. } => task == Task::Embed,
            Self::TokenEmbeddings => matches!(task, Task::Embed | Task::MultiVector),
            Self::Scores => matches!(task, Task::Classify | Task::Rerank),
            Self::Sparse => task == Task::Sparse,
            Self::Entities(_) => task == Task::TokenClassify,
        }
    }
}

/// The response of one micro-batch. The payload holds the results of its items, one after the
/// other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchResult {
    /// The generation that computed all of the results.
    pub generation: Generation,
    /// Items of the micro-batch.
    pub items: Vec<AnsweredItem>,
    /// Time spent tokenizing the group.
    pub tokenize_micros: u32,
    /// Time the micro-batch spent in ONNX Runtime and post-processing.
    pub infer_micros: u32,
    /// CPU time of `infer_micros`; 0 if nothing ran.
    pub infer_cpu_micros: u32,
}

/// One answered item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredItem {
    /// Index in the group.
    pub item: u32,
    /// Computed tokens, including special tokens; 0 for tensors.
    pub tokens: u32,
    /// Bytes in the payload.
    pub bytes: u32,
    /// Heads of the result's tensors, for a tensor operation.
    pub outputs: Vec<TensorHead>,
}

/// Why an item has no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// The text exceeds the model's maximum and truncation is off.
    TooLong {
        /// Tokens of the text, including special tokens.
        tokens: u32,
        /// Maximum of the model.
        max: u32,
    },
    /// The tokenizer failed on the text.
    Tokenizer(String),
    /// ONNX Runtime failed.
    Inference(String),
    /// No generation of the model could be loaded.
    NotLoaded(String),
    /// The model has no token with this id.
    TokenId {
        /// The token id.
        id: u32,
        /// Highest id of the model.
        highest: u32,
    },
    /// The model has no prompt with this name.
    Prompt {
        /// The requested name.
        name: String,
        /// The model's prompts, separated by commas.
        known: String,
    },
    /// The request asks for more components than an embedding has.
    Dimensions {
        /// Requested number of components.
        requested: u32,
        /// Components of the model's embeddings.
        max: u32,
    },
    /// The model has a different task.
    WrongTask(Task),
    /// The tensors do not fit the model's inputs.
    Tensors(String),
    /// The model does not support a requested option; the text says which.
    Unfit(String),
}

/// An entity found by a token classifier. [`TextOutput::Entities`] returns a JSON list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entity {
    /// The label, without `B-` or `I-` if tokens were aggregated.
    pub label: String,
    /// Score between 0 and 1.
    pub score: f32,
    /// The token, or the text of the aggregated tokens.
    pub word: String,
    /// Start in the text, in characters.
    pub start: usize,
    /// End in the text, in characters, exclusive.
    pub stop: usize,
    /// Index of the token among all tokens of the text, including special ones; `None` if tokens
    /// were aggregated.
    pub index: Option<usize>,
}

impl Entity {
    /// Parses a worker's list of entities.
    ///
    /// # Errors
    /// Returns `InvalidData` if the bytes are not such a list.
    pub fn read_list(bytes: &[u8]) -> io::Result<Vec<Self>> {
        serde_json::from_slice(bytes).map_err(io::Error::from)
    }
}

/// A token of a text. [`Operation::Tokenize`] returns a JSON list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Row of the embedding table.
    pub id: u32,
    /// The text it stands for.
    pub text: String,
    /// Whether it is a special token.
    pub special: bool,
    /// Start in the text, in characters; `None` for special tokens.
    pub start: Option<usize>,
    /// End in the text, in characters, exclusive.
    pub stop: Option<usize>,
}

impl Token {
    /// Parses a worker's list of tokens.
    ///
    /// # Errors
    /// Returns `InvalidData` if the bytes are not such a list.
    pub fn read_list(bytes: &[u8]) -> io::Result<Vec<Self>> {
        serde_json::from_slice(bytes).map_err(io::Error::from)
    }
}
