//! What a dispatch group is made of: items, what is asked for each, and what comes back. Messages
//! carry these; payloads carry what they describe, item after item.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{
    domain::{Task, tensor::TensorHead},
    generation::Generation,
};

/// Switches that one item may set.
pub const SWITCHES_MAX: usize = 4;
/// Bytes of a switch's name, and of a word for its value.
pub const SWITCH_BYTES_MAX: usize = 64;
/// Bytes of a token and its weight in the answer to [`Want::Sparse`].
pub const SPARSE_ENTRY_BYTES: usize = 8;
/// Bytes of a prompt's name.
pub const PROMPT_NAME_BYTES_MAX: usize = 256;

/// One item of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its bytes in the payload.
    pub payload_bytes: u32,
    /// What is to be done with them.
    pub ask: Ask,
}

/// What is asked for one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Run a text; the answer's bytes are little-endian f32.
    Text {
        /// How it becomes tokens.
        text: TextAsk,
        /// What of it is wanted.
        want: Want,
    },
    /// Say which tokens a text has. The payload is UTF-8; the answer is a JSON list.
    Tokenize {
        /// See [`TextAsk::prompt`].
        prompt: Option<String>,
        /// With the tokens that the model wants around a text.
        special: bool,
    },
    /// Say which text tokens are. The payload is u32, little-endian; the answer is UTF-8.
    Decode {
        /// Without the tokens that belong to no text.
        skip_special: bool,
    },
    /// Run tensors, which are the payload one after the other; so is the answer.
    Tensors {
        /// At most [`crate::domain::tensor::TENSORS_MAX`].
        inputs: Vec<TensorHead>,
        /// The outputs that are wanted, in their order; none means all.
        outputs: Vec<String>,
    },
}

/// How an item becomes the tokens of one text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextAsk {
    /// What the payload is.
    pub content: Content,
    /// Which end of a text that is too long is cut off; `None`: it is rejected.
    pub truncate: Option<Side>,
    /// The model's prompt of this name is put before the text; `None`: its default one, if any.
    pub prompt: Option<String>,
    /// Which side of a search the text is on. A model that has a prompt or a way of its own for
    /// that side uses it; others ignore it. A named prompt goes before it.
    pub role: Option<Role>,
    /// Values of scalar inputs, at most [`SWITCHES_MAX`].
    pub switches: Vec<Switch>,
}

/// A side of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// What is searched for.
    Query,
    /// What is searched in.
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

/// A value, or the model's word for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwitchValue {
    /// As it is fed.
    Number(i64),
    /// One of [`crate::domain::SwitchFacts::values`].
    Word(String),
}

/// What the payload of a text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A text, UTF-8.
    #[default]
    Text,
    /// Two texts that belong together, UTF-8.
    Pair {
        /// Bytes of the first.
        first_bytes: u32,
        /// Which of them is cut where both are too long together.
        cut: PairCut,
    },
    /// Tokens as the model takes them, u32, little-endian.
    Ids,
}

/// Which of two texts is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PairCut {
    /// The longer one, until both are of equal length.
    Longest,
    /// The first one alone.
    First,
}

/// An end of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// Its beginning.
    Left,
    /// Its end.
    Right,
    /// The one that the model's tokenizer cuts: mostly the end.
    Model,
}

/// What is wanted of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// One embedding.
    Embedding {
        /// Scale to length 1; `None` does what the model's `modules.json` says.
        normalize: Option<bool>,
        /// Only so many components, from the first on.
        dimensions: Option<u32>,
    },
    /// An embedding of each token, as the model gives it.
    TokenEmbeddings,
    /// The score of each label, as the model gives it; of a model that reranks one number, whose
    /// logistic function is the relevance.
    Scores,
    /// The tokens of the vocabulary that have a weight: pairs of a u32 and an f32, little-endian,
    /// by rising token.
    Sparse,
    /// What a model that labels tokens finds: a JSON list of [`Entity`].
    Entities(Aggregation),
}

/// How tokens with labels become entities, in the words of transformers'
/// `aggregation_strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Each token for itself.
    #[default]
    None,
    /// Adjacent tokens whose labels are of one kind.
    Simple,
    /// Words, each with the label of its first token; then as `Simple`.
    First,
    /// Words, each with the label of the highest mean score; then as `Simple`.
    Average,
    /// Words, each with the label of its highest score; then as `Simple`.
    Max,
}

impl Want {
    /// What a model must be for.
    pub fn is_of(self, task: Task) -> bool {
        match self {
            Self::Embedding { .. } => task == Task::Embed,
            Self::TokenEmbeddings => matches!(task, Task::Embed | Task::MultiVector),
            Self::Scores => matches!(task, Task::Classify | Task::Rerank),
            Self::Sparse => task == Task::Sparse,
            Self::Entities(_) => task == Task::TokenClassify,
        }
    }
}

/// The answer of one micro-batch. The payload holds what the items ask for, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// What made the answers, wholly.
    pub generation: Generation,
    /// The items that the micro-batch answers.
    pub items: Vec<AnsweredItem>,
    /// Time the group's tokenizing took.
    pub tokenize_micros: u32,
    /// Time the micro-batch took in ONNX Runtime and what follows.
    pub infer_micros: u32,
    /// CPU time of that, without what other processes took meanwhile; 0 where nothing was run.
    pub infer_cpu_micros: u32,
}

/// One answered item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredItem {
    /// Its place in the group.
    pub item: u32,
    /// Tokens that were computed, special tokens included; 0 for tensors.
    pub tokens: u32,
    /// Its bytes in the payload.
    pub bytes: u32,
    /// The tensors that these are, where tensors were asked for.
    pub outputs: Vec<TensorHead>,
}

/// Why an item has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// `truncate` is off and the text is longer than the model takes.
    TooLong {
        /// Tokens of the text, special tokens included.
        tokens: u32,
        /// What the model takes.
        max: u32,
    },
    /// The tokenizer failed on the text.
    Tokenizer(String),
    /// ONNX Runtime failed.
    Inference(String),
    /// No generation of the model could be loaded.
    NotLoaded(String),
    /// A token that the model does not have.
    TokenId {
        /// The token.
        id: u32,
        /// The highest that there is.
        highest: u32,
    },
    /// The model has no prompt of that name.
    Prompt {
        /// As asked for.
        name: String,
        /// Those that it has, separated by commas.
        known: String,
    },
    /// More components are asked for than an embedding has.
    Dimensions {
        /// As asked for.
        asked: u32,
        /// What the model gives.
        max: u32,
    },
    /// The model is for something else.
    WrongTask(Task),
    /// The tensors do not fit the model's inputs.
    Tensors(String),
    /// What is asked of a text is not what this model can do; for people.
    Unfit(String),
}

/// What a model that labels tokens found. A list of them is the answer to [`Want::Entities`], as
/// JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entity {
    /// The label; without its `B-` or `I-` where tokens were aggregated.
    pub label: String,
    /// Between 0 and 1.
    pub score: f32,
    /// The token, or the tokens as text.
    pub word: String,
    /// Where it begins in the text, in characters.
    pub start: usize,
    /// Where it ends.
    pub stop: usize,
    /// The token's place among all tokens of the text, special ones included; `None` where tokens
    /// were aggregated.
    pub index: Option<usize>,
}

impl Entity {
    /// Reads a worker's list of entities.
    ///
    /// # Errors
    /// `InvalidData` if the bytes are something else.
    pub fn read_list(bytes: &[u8]) -> io::Result<Vec<Self>> {
        serde_json::from_slice(bytes).map_err(io::Error::from)
    }
}

/// A token of a text. A list of them is the answer to [`Ask::Tokenize`], as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// A row of the embedding table.
    pub id: u32,
    /// What it stands for in the text.
    pub text: String,
    /// Whether it belongs to no text.
    pub special: bool,
    /// Where it begins in the text, in characters; nowhere if it is special.
    pub start: Option<usize>,
    /// Where it ends.
    pub stop: Option<usize>,
}

impl Token {
    /// Reads a worker's list of tokens.
    ///
    /// # Errors
    /// `InvalidData` if the bytes are something else.
    pub fn read_list(bytes: &[u8]) -> io::Result<Vec<Self>> {
        serde_json::from_slice(bytes).map_err(io::Error::from)
    }
}
