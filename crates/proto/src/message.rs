//! The control messages, and the only use of `bincode`. Every decoding has a limit and must
//! consume all bytes. The bytes of each message are fixed by the tests at the end: whoever
//! changes them raises [`crate::frame::PROTOCOL_VERSION`].
//!
//! A worker says `Hello`, is told `Welcome`, loads what is committed, says `Ready`, and from
//! then on answers what it is asked until its socket ends.

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    ask::{Answered, Item, Rejection},
    control_page::Slot,
    cost::CostTable,
    generation::Generation,
    limits::FRAME_CONTROL_BYTES_MAX,
    model_name::ModelName,
    tensor::TensorSpec,
};

/// What the supervisor says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The answer to `Hello`: where everything is.
    Welcome(Welcome),
    /// Answer the items of a group. The payload holds their bytes, one after the other.
    Run {
        /// The model's slot.
        slot: Slot,
        /// At most [`crate::limits::GROUP_ITEMS_MAX`].
        items: Vec<Item>,
        /// Whether the group is alone on the machine and may be spread over
        /// [`Welcome::helper_cpus`].
        wide: bool,
    },
    /// Refresh every model, then answer `Pong` with the same id.
    Ping,
    /// Load a version beside what is served, on a thread that yields to serving, and answer
    /// `LoadedAhead` or `LoadAheadFailed`. A later one for the same slot replaces an earlier.
    Load {
        /// The model's slot.
        slot: Slot,
        /// The version: a directory below [`crate::layout::Layout::versions`].
        version: String,
    },
    /// Refresh a model, drop what was loaded of it ahead, then answer `Forgotten` with the same id.
    Forget {
        /// The model's slot.
        slot: Slot,
    },
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The first message.
    Hello {
        /// [`crate::BUILD_ID`] of the worker.
        build_id: String,
        /// The CPU it is pinned to, or why it is not.
        pinned: Result<u16, String>,
    },
    /// Everything committed is loaded and warm.
    Ready,
    /// The worker now serves this generation of a model.
    Loaded {
        /// The model's slot.
        slot: Slot,
        /// What it serves from now on.
        generation: Generation,
        /// How long reading and warming took; 0 where the version was loaded already.
        load_micros: u64,
        /// Whether the compiled form is used, whose weights all workers share.
        compiled: bool,
        /// What its runs cost.
        costs: CostTable,
    },
    /// The worker could not load a committed generation and serves what it had.
    LoadFailed {
        /// The model's slot.
        slot: Slot,
        /// What could not be loaded.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// One micro-batch of the group with the frame's id. The payload holds the answers in the
    /// order of its items.
    Answered(Answered),
    /// Items of the group with the frame's id that have no answer.
    Rejected {
        /// Places in the group.
        items: Vec<u32>,
        /// Why, the same for all of them.
        reason: Rejection,
    },
    /// The answer to `Ping`.
    Pong,
    /// A version stands ready beside what is served; the next refresh to it is a swap.
    LoadedAhead {
        /// The model's slot.
        slot: Slot,
        /// The version.
        version: String,
        /// How long reading and warming took.
        load_micros: u64,
    },
    /// A version could not be loaded ahead; what is served goes on.
    LoadAheadFailed {
        /// The model's slot.
        slot: Slot,
        /// The version.
        version: String,
        /// Why.
        reason: String,
    },
    /// No generation of a model is committed any more, and the worker has dropped what it had.
    Unloaded {
        /// The model's slot.
        slot: Slot,
    },
    /// The answer to `Forget`.
    Forgotten,
}

/// Where a worker finds what it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// ONNX Runtime's shared library.
    pub onnxruntime: PathBuf,
    /// See [`crate::layout`].
    pub state_dir: PathBuf,
    /// The served models.
    pub models: Vec<ModelSlot>,
    /// What a worker removes if the supervisor ends without doing so itself.
    pub admin_socket: NamedSocket,
    /// CPUs of other workers that this one may use while they are idle.
    pub helper_cpus: Vec<u16>,
}

/// A socket's path and identity, so that nobody removes a successor's socket of the same path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSocket {
    /// Absolute.
    pub path: PathBuf,
    /// `st_dev` of the socket.
    pub device: u64,
    /// `st_ino` of the socket.
    pub inode: u64,
}

/// A served model's place in the control page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSlot {
    /// The served name.
    pub name: ModelName,
    /// Its slot.
    pub slot: Slot,
}

/// What the checker finds out about a version, kept with every generation that serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What the model is for.
    pub task: Task,
    /// Components of one embedding, or labels; 0 for tensors.
    pub dimension: u32,
    /// Tokens of the longest text that is not truncated, special tokens included.
    pub max_tokens: u32,
    /// How token embeddings become one embedding.
    pub pooling: Pooling,
    /// Whether embeddings have length 1 unless a request says otherwise.
    pub normalize: bool,
    /// What the scores of a model that classifies or reranks are of, in their order.
    #[serde(default)]
    pub labels: Vec<String>,
    /// How such scores become numbers between 0 and 1.
    #[serde(default)]
    pub activation: Activation,
    /// Names of the prompts that may be put before a text.
    #[serde(default)]
    pub prompts: Vec<String>,
    /// What a model for tensors takes and gives.
    #[serde(default)]
    pub signature: Signature,
}

impl Facts {
    /// Those of a model that does `task` and of which nothing else is known.
    pub fn of(task: Task) -> Self {
        Self {
            task,
            dimension: 0,
            max_tokens: 0,
            pooling: Pooling::None,
            normalize: false,
            labels: Vec::new(),
            activation: Activation::default(),
            prompts: Vec::new(),
            signature: Signature::default(),
        }
    }
}

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

/// What the checker process prints, one line of JSON each: what has passed, and at last the
/// verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckLine {
    /// A part of the check has passed: "load", "shapes", "canary", "drift", "compile".
    Passed(String),
    /// The candidate can serve.
    Accepted(Checked),
    /// It cannot.
    Refused(Refusal),
}

/// What the checker says of a candidate that can serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// What it found out.
    pub facts: Facts,
    /// How far the embeddings are from the serving generation's, where there is one to compare.
    pub drift: Option<Drift>,
    /// How many of the candidate's own canary texts came out as it says.
    pub canaries: u32,
    /// Why there is no compiled form, where there is none; workers load the plain model then.
    pub not_compiled: Option<String>,
}

/// Cosines between the candidate's embeddings and the serving generation's, over fixed texts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The smallest.
    pub min_cosine: f64,
    /// The mean.
    pub mean_cosine: f64,
    /// How many texts.
    pub probes: u32,
}

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

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<FRAME_CONTROL_BYTES_MAX>,
> = bincode::config::standard().with_limit();

/// Encodes a message for a frame.
///
/// # Errors
/// The message is larger than a frame may be.
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    bincode::serde::encode_to_vec(message, CONFIG).map_err(io::Error::other)
}

/// Decodes a message that must fill `bytes` exactly.
///
/// # Errors
/// `InvalidData` where the bytes are something else, too little or too much.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> io::Result<M> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let (message, consumed) = bincode::serde::decode_from_slice(bytes, CONFIG)
        .map_err(|error| invalid(error.to_string()))?;
    match bytes.len() - consumed {
        0 => Ok(message),
        rest => Err(invalid(format!("{rest} bytes follow the message"))),
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
