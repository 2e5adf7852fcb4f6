//! What the supervisor and its workers agree on.
//!
//! - [`wire`]: what travels over a worker's socket.
//! - [`domain`]: the records that both sides know: tasks, facts, refusals, tensors, costs.
//! - [`generation`]: commit and refresh, the two atomic operations everything rests on.
//! - [`control_page`]: the sealed shared page that holds one generation per model.
//! - [`layout`]: where versions and generations stand in the state directory.
//! - [`limits`], [`exit`]: numbers that both sides use.
//!
//! No tokio, no ONNX Runtime, no HTTP: those belong to one side each.

pub mod control_page;
pub mod domain;
pub mod exit;
pub mod generation;
pub mod layout;
pub mod limits;
#[cfg(any(test, fuzzing))]
pub mod properties;
pub mod wire;

/// The digest of this crate's sources: equal in two executables that understand each other.
pub const BUILD_ID: &str = env!("ONNXD_BUILD_ID");
