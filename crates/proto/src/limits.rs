//! Bounds that both processes rely on. A bound that only one side enforces is defined where it is
//! used.

/// Maximum number of models per supervisor: the slots of one 4 KiB control page.
pub const MODELS_MAX: usize = 63;

/// Maximum number of items in a dispatch group.
pub const GROUP_ITEMS_MAX: usize = 32;

/// Maximum bytes of one text. The supervisor rejects a longer one with 422 without involving a
/// worker, because a tokenizer's time and memory can grow much faster than the text.
pub const TEXT_BYTES_MAX: usize = 256 * 1024;

/// Maximum bytes of a frame's control message. Enough for a full group whose items all have the
/// maximum number of tensors, with the longest names and the most axes; a test encodes one.
pub const FRAME_CONTROL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Maximum bytes of a frame's payload: the tensors of one item, a full group of the longest texts,
/// or their embeddings.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Maximum bytes of one item's tensors, input or output.
pub const TENSORS_BYTES_MAX: usize = FRAME_PAYLOAD_BYTES_MAX;

/// Maximum number of components in an embedding.
pub const DIMENSION_MAX: usize = 65_536;

const _: () = assert!(GROUP_ITEMS_MAX * TEXT_BYTES_MAX <= FRAME_PAYLOAD_BYTES_MAX);
const _: () = assert!(GROUP_ITEMS_MAX * DIMENSION_MAX * 4 <= FRAME_PAYLOAD_BYTES_MAX);
