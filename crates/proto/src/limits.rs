//! Every bound that both processes rely on. What only one side enforces stands beside its use.

/// Models that one supervisor serves: the slots of one 4 KiB control page.
pub const MODELS_MAX: usize = 63;

/// Texts in one dispatch group.
pub const GROUP_ITEMS_MAX: usize = 32;

/// Bytes of one text. A longer one is answered 422 before it reaches a worker: tokenizers may
/// take far more time and memory than the text has bytes.
pub const TEXT_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a frame's control message.
pub const FRAME_CONTROL_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a frame's payload: a full group of the longest texts, or its embeddings.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Components of one embedding.
pub const DIMENSION_MAX: usize = 65_536;

const _: () = assert!(GROUP_ITEMS_MAX * TEXT_BYTES_MAX <= FRAME_PAYLOAD_BYTES_MAX);
const _: () = assert!(GROUP_ITEMS_MAX * DIMENSION_MAX * 4 <= FRAME_PAYLOAD_BYTES_MAX);
