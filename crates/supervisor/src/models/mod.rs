//! Models, versions, generations, and the way from a source to what is served.
//!
//! - [`registry`]: the served models and the generation of each; the one writer of the control
//!   page.
//! - [`source`]: where versions come from; a directory so far.
//! - [`store`]: the state directory: staging, versions, generations.
//! - [`checker`]: starts the process that tries a candidate.
//! - [`update`]: stage → check → persist → commit, and rollback.

pub(crate) mod checker;
pub(crate) mod registry;
pub(crate) mod source;
pub(crate) mod store;
pub(crate) mod update;
