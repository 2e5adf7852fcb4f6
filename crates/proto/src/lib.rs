//! The definitions that the supervisor and its workers share.
//!
//! - [`wire`]: the protocol on a worker's socket.
//! - [`domain`]: shared records: tasks, facts, refusals, tensors, costs.
//! - [`generation`]: commit and refresh, the two atomic operations of every update.
//! - [`control_page`]: the sealed shared page with one generation per model.
//! - [`layout`]: paths of versions and generations in the state directory.
//! - [`manifest`]: the list of a version's files.
//! - [`regular`]: opens only regular files.
//! - [`search`]: collections of documents, and the protocol of the index process.
//! - [`limits`], [`exit`]: bounds and exit codes that both sides use.
//!
//! Depends on neither tokio nor ONNX Runtime nor HTTP: each of those belongs to one side only.

pub mod control_page;
pub mod domain;
pub mod exit;
pub mod generation;
pub mod layout;
pub mod limits;
pub mod manifest;
#[cfg(any(test, fuzzing))]
pub mod properties;
pub mod regular;
pub mod search;
pub mod wire;

/// Digest of this crate's sources. Two executables with equal ids speak the same protocol.
pub const BUILD_ID: &str = env!("ONNXD_BUILD_ID");
