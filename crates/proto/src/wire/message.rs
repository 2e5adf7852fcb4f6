//! The control messages, and the only use of `bincode`. Every decoding has a limit and must
//! consume all bytes. The bytes of each message are fixed by the tests at the end: whoever
//! changes them raises [`crate::wire::frame::PROTOCOL_VERSION`].
//!
//! A worker says `Hello`, is told `Welcome`, loads what is committed, says `Ready`, and from
//! then on answers what it is asked until its socket ends.

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    control_page::Slot,
    domain::{cost::CostTable, model_name::ModelName},
    generation::Generation,
    limits::FRAME_CONTROL_BYTES_MAX,
    wire::ask::{Answered, Item, Rejection},
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
