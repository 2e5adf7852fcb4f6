//! Every bound that both processes rely on. What only one side enforces stands beside its use.

/// Models that one supervisor serves: the slots of one 4 KiB control page.
pub const MODELS_MAX: usize = 63;

/// Items in one dispatch group.
pub const GROUP_ITEMS_MAX: usize = 32;

/// Bytes of one text. A longer one is answered 422 before it reaches a worker: tokenizers may
/// take far more time and memory than the text has bytes.
pub const TEXT_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a frame's control message: a full group of items with as many tensors as there may be,
/// under names as long and of as many axes as they may be. A test encodes one.
pub const FRAME_CONTROL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of a frame's payload: the tensors of one item, a full group of the longest texts, or
/// their embeddings.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of the tensors of one item, in or out.
pub const TENSORS_BYTES_MAX: usize = FRAME_PAYLOAD_BYTES_MAX;

/// Components of one embedding.
pub const DIMENSION_MAX: usize = 65_536;

const _: () = assert!(GROUP_ITEMS_MAX * TEXT_BYTES_MAX <= FRAME_PAYLOAD_BYTES_MAX);
const _: () = assert!(GROUP_ITEMS_MAX * DIMENSION_MAX * 4 <= FRAME_PAYLOAD_BYTES_MAX);
