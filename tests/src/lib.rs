//! The test harness of onnxd. The tests in `tests/` and the packages `onnxd-bench` and `onnxd-soak`
//! start the real executables; this library has their shared parts.
//!
//! - [`fixtures`]: locations of models, the runtime and the executables.
//! - [`launch`], [`server`], [`home`]: a running supervisor, and the directories that must be clean
//!   after it.
//! - [`admin`], [`control`]: output of the commands, and the socket beneath them.
//! - [`disk`]: contents of a state directory.
//! - [`client`]: an HTTP client that never retries and never hides a closed connection.
//! - [`grpc`]: a gRPC client.
//! - [`kinds`]: requests of every kind, whose answers reveal the content that produced them.
//! - [`corpus`], [`load`], [`history`]: clients that record what they saw, and the invariants of
//!   every recorded history.
//! - [`search`]: clients that search and write, and the answers of an exact search.
//! - [`expected`]: model directories of every kind, with the results of the reference libraries.
//! - [`exposition`]: a parser for `/metrics`.
//! - [`web`]: a web server with model files. [`collector`]: a collector of traces.
//! - [`fake`]: a worker that misbehaves.
//! - [`notify`]: a fake systemd.
//! - [`tracer`]: system calls that fail. [`small_disk`]: a disk that is full.
//! - [`control_group`]: the limits of a container.
//! - [`processes`]: `/proc`. [`random`]: seeded random numbers.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]
#![allow(clippy::print_stderr, reason = "a failing test shows the supervisor's log")]

pub mod admin;
pub mod client;
pub mod collector;
pub mod control;
pub mod control_group;
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
pub mod postgres;
pub mod processes;
pub mod random;
pub mod search;
pub mod server;
pub mod small_disk;
pub mod tracer;
mod wait;
pub mod web;

pub use crate::wait::{eventually, soon};
