//! The control messages, and the only use of `bincode`. Every decode is bounded and must consume
//! all bytes. Tests fix the bytes of each message; raise [`crate::wire::frame::PROTOCOL_VERSION`]
//! when they change.
//!
//! A worker sends `Hello`, receives `Welcome`, loads what is committed and sends `Ready`. From then
//! on it answers requests until its socket closes.

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    control_page::Slot,
    domain::{cost::CostTable, model_name::ModelName},
    generation::Generation,
    limits::FRAME_CONTROL_BYTES_MAX,
    wire::operation::{BatchResult, Item, Rejection},
};

/// A message from the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The response to `Hello`: paths and models.
    Welcome(Welcome),
    /// Runs the items of a group. The payload holds their bytes, one after the other.
    Run {
        /// The model's slot.
        slot: Slot,
        /// At most [`crate::limits::GROUP_ITEMS_MAX`].
        items: Vec<Item>,
        /// Whether the group is the only work in flight and may also use [`Welcome::helper_cpus`].
        wide: bool,
    },
    /// Refreshes every model, then answers `Pong` with the same id.
    Ping,
    /// Loads a version ahead, on a thread that yields to serving. Answered by `LoadedAhead` or
    /// `LoadAheadFailed`. A later message for the same slot replaces an earlier one.
    Load {
        /// The model's slot.
        slot: Slot,
        /// The version: a directory below [`crate::layout::Layout::versions`].
        version: String,
    },
    /// Refreshes a model, drops the version loaded ahead, then answers `Forgotten` with the same
    /// id.
    Forget {
        /// The model's slot.
        slot: Slot,
    },
    /// Changes what the worker logs. Not answered.
    FilterLog {
        /// A filter that the supervisor accepted.
        filter: String,
    },
}

/// A message from a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The first message.
    Hello {
        /// [`crate::BUILD_ID`] of the worker.
        build_id: String,
        /// The CPU the worker is pinned to, or the reason it is not pinned.
        pinned: Result<u16, String>,
    },
    /// Everything committed is loaded and warm.
    Ready,
    /// The worker now serves this generation of a model.
    Loaded {
        /// The model's slot.
        slot: Slot,
        /// The generation that it now serves.
        generation: Generation,
        /// Time spent reading and warming up; 0 if the version was already loaded.
        load_micros: u64,
        /// Whether the worker uses the compiled form, whose weights all workers share.
        compiled: bool,
        /// Cost of the model's runs.
        costs: CostTable,
    },
    /// The worker could not load a committed generation and keeps serving the previous one.
    LoadFailed {
        /// The model's slot.
        slot: Slot,
        /// The generation that could not be loaded.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// One micro-batch of the group with the frame's id. The payload holds the results in the order
    /// of its items.
    Answered(BatchResult),
    /// Items of the group with the frame's id that have no result.
    Rejected {
        /// Indexes in the group.
        items: Vec<u32>,
        /// The common reason.
        reason: Rejection,
    },
    /// The response to `Ping`.
    Pong,
    /// A version is loaded ahead; the next refresh to it is a swap.
    LoadedAhead {
        /// The model's slot.
        slot: Slot,
        /// The version.
        version: String,
        /// Time spent reading and warming up.
        load_micros: u64,
    },
    /// A version could not be loaded ahead; the serving version is unaffected.
    LoadAheadFailed {
        /// The model's slot.
        slot: Slot,
        /// The version.
        version: String,
        /// Why.
        reason: String,
    },
    /// The model no longer has a committed generation, and the worker has dropped its copy.
    Unloaded {
        /// The model's slot.
        slot: Slot,
    },
    /// The response to `Forget`.
    Forgotten,
}

/// Paths and models that a worker needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// ONNX Runtime's shared library.
    pub onnxruntime: PathBuf,
    /// See [`crate::layout`].
    pub state_dir: PathBuf,
    /// The served models.
    pub models: Vec<ModelSlot>,
    /// Socket that a worker removes if the supervisor dies without removing it.
    pub admin_socket: NamedSocket,
    /// CPUs of other workers that this one may use while they are idle.
    pub helper_cpus: Vec<u16>,
}

/// A socket's path and identity. The identity protects a successor's socket at the same path from
/// removal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSocket {
    /// Absolute path.
    pub path: PathBuf,
    /// `st_dev` of the socket.
    pub device: u64,
    /// `st_ino` of the socket.
    pub inode: u64,
}

/// A served model and its slot in the control page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSlot {
    /// The served name.
    pub name: ModelName,
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
/// Fails if the message exceeds the limit of a frame.
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    bincode::serde::encode_to_vec(message, CONFIG).map_err(io::Error::other)
}

/// Decodes a message that must fill `bytes` exactly.
///
/// # Errors
/// Returns `InvalidData` if the bytes are malformed, too short or too long.
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
