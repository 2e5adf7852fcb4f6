//! HTTP: the listener and its limits, the routes, the errors, and the admin interface.
//!
//! - [`listener`]: connections: how many, how long they may be idle or slow, how they end.
//!   [`places`] are what is shared out, [`watched`] sees who is slow, [`panics`] are answered.
//! - [`sockets`]: what is bound, and when.
//! - [`router`]: which path is answered by whom.
//! - [`api`]: the contracts: TEI's, OpenAI's, Cohere's, the Open Inference Protocol, health.
//! - [`openapi`]: the document that describes them.
//! - [`edge`]: what stands before the routes: [`keys`], [`cors`], [`tls`].
//! - [`error`]: one kind of error, in the shape that each contract asks for.
//! - [`bodies`], [`unpack`]: how bodies are read; [`chunks`], [`holding`]: answers that lie in
//!   several places, or hold something until they are sent.
//! - [`measure`]: how many requests there are and how long they take.
//! - [`admin`]: `update`, `rollback`, `unload` and `status`, over the Unix socket and guarded TCP.
//! - [`repository`]: Triton's repository API, beside it.

pub(crate) mod admin;
pub(crate) mod api;
pub(crate) mod bodies;
mod chunks;
pub(crate) mod cors;
pub(crate) mod edge;
pub(crate) mod error;
pub(crate) mod holding;
pub(crate) mod keys;
pub(crate) mod listener;
mod measure;
mod openapi;
pub(crate) mod panics;
pub(crate) mod places;
pub(crate) mod repository;
pub(crate) mod router;
mod secret_file;
pub(crate) mod sockets;
pub(crate) mod tls;
pub(crate) mod unpack;
mod watched;
