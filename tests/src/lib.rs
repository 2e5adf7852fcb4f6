//! The harness of onnxd. The tests in `tests/`, the packages `onnxd-bench` and `onnxd-soak` start
//! the real executables; this library holds what they share.
//!
//! - [`fixtures`]: where models, the runtime and the executables are.
//! - [`launch`], [`server`], [`home`]: a running supervisor, and the directories that must be clean after it.
//! - [`admin`], [`control`]: what the commands print, and the socket beneath them.
//! - [`disk`]: what stands in a state directory.
//! - [`client`]: an HTTP client that never retries and never hides a closed connection.
//! - [`grpc`]: the client's side of gRPC.
//! - [`kinds`]: requests of every kind, whose answers tell which content made them.
//! - [`corpus`], [`load`], [`history`]: clients that record what they saw, and the invariants
//!   that every recorded history must satisfy.
//! - [`expected`]: model directories of every kind, and what the reference libraries compute with them.
//! - [`exposition`]: what `/metrics` answers.
//! - [`fake`]: a worker that misbehaves.
//! - [`notify`]: a fake systemd.
//! - [`tracer`]: a kernel that refuses.
//! - [`processes`]: what `/proc` says. [`random`]: numbers that a seed determines.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]
#![allow(clippy::print_stderr, reason = "a failing test shows the supervisor's log")]

pub mod admin;
pub mod client;
pub mod control;
pub mod corpus;
pub mod disk;
pub mod expected;
pub mod exposition;
pub mod fake;
pub mod fixtures;
pub mod grpc;
pub mod history;
pub mod home;
pub mod kinds;
pub mod launch;
pub mod load;
pub mod notify;
pub mod processes;
pub mod random;
pub mod server;
pub mod tracer;
mod wait;

pub use crate::wait::{eventually, soon};
