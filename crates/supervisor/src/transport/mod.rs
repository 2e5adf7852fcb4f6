//! How connections are accepted, limited, secured and drained, and how bodies are read and written.
//! Knows no contract.
//!
//! - [`listener`] accepts, [`http2`] holds connections for gRPC; [`places`] limits connections, [`watched`] finds slow ones.
//! - [`edge`] is what every request passes first: [`keys`], [`cors`], [`tls`].
//! - [`bodies`] and [`unpack`] read request bodies; [`chunks`] and [`holding`] write response bodies.
//! - [`panics`] turns a panicking handler into a response.
//! - [`error`]: what goes wrong here; each listener is handed the words for it.

pub(crate) mod bodies;
pub(crate) mod chunks;
pub(crate) mod cors;
pub(crate) mod edge;
pub(crate) mod error;
pub(crate) mod holding;
mod http2;
pub(crate) mod keys;
pub(crate) mod listener;
pub(crate) mod panics;
pub(crate) mod places;
mod secret_file;
pub(crate) mod tls;
pub(crate) mod unpack;
mod watched;
