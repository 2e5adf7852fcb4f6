//! The admin interface of onnxd, shared by the server in `crates/supervisor` and every client (the
//! command line, tests, benchmarks).
//!
//! - [`api`]: requests, responses and refusals as JSON types.
//! - [`client`]: calls a supervisor over its Unix socket, or over TCP with a token.
//!
//! Depends on onnxd's domain records, but not on its engine or configuration.

pub mod api;
pub mod client;
mod error;
mod log;
mod reply;
