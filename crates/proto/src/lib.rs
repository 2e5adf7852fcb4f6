//! What the supervisor and its workers agree on.
//!
//! - [`frame`]: the fixed header in front of every message, and its limits.
//! - [`message`]: the control messages, and the only use of `bincode`.
//! - [`ask`]: the items of a dispatch group, what is asked for each, and what comes back.
//! - [`tensor`]: types and shapes of raw tensors.
//! - [`generation`]: commit and refresh, the two atomic operations everything rests on.
//! - [`control_page`]: the sealed shared page that holds one generation per model.
//! - [`layout`]: where versions and generations stand in the state directory.
//! - [`cost`]: what running texts together costs.
//! - [`log`]: writing logs without waiting for who reads them.
//! - [`limits`], [`exit`], [`model_name`]: numbers and names that both sides use.
//!
//! No tokio, no ONNX Runtime, no HTTP: those belong to one side each.

pub mod ask;
pub mod control_page;
pub mod cost;
pub mod exit;
pub mod frame;
pub mod generation;
pub mod layout;
pub mod limits;
pub mod log;
pub mod message;
pub mod model_name;
#[cfg(any(test, fuzzing))]
pub mod properties;
pub mod tensor;

/// The digest of this crate's sources: equal in two executables that understand each other.
pub const BUILD_ID: &str = env!("ONNXD_BUILD_ID");
