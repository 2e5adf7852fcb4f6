//! HTTP: the listener and its limits, the routes, the errors, and the admin interface.
//!
//! - [`listener`]: connections: how many, how long they may be idle or slow, how they end.
//! - [`sockets`]: what is bound, and when.
//! - [`router`]: which path is answered by whom.
//! - [`api`]: the contracts: TEI's, OpenAI's, health.
//! - [`error`]: one kind of error, in the shape that each contract asks for.
//! - [`admin`]: `update`, `rollback`, `unload` and `status`, over the Unix socket and guarded TCP.
//! - [`repository`]: Triton's repository API, beside it.

pub(crate) mod admin;
pub(crate) mod api;
pub(crate) mod error;
pub(crate) mod listener;
pub(crate) mod repository;
pub(crate) mod router;
pub(crate) mod sockets;
