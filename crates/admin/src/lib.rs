//! The admin interface of onnxd, for both of its sides: the server in `crates/supervisor` and every
//! client (the command line, tests, benchmarks).
//!
//! - [`api`]: requests, responses and refusals, as the JSON that travels.
//! - [`client`]: calls a supervisor over its Unix socket, or over TCP with a token.
//!
//! Knows onnxd's domain records and neither its engine nor its configuration.

pub mod api;
pub mod client;
