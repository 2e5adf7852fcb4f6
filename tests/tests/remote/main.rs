//! Models from real servers: Caddy, SeaweedFS, olah, docker-registry and MLflow, with tinyproxy.
//! Each file of a server tests the fetcher alone and then onnxd with the [`scenario`] that all
//! kinds of sources share. `cargo xtask test-sources` installs the servers and runs these tests.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]

mod bucket;
mod fetch;
mod files;
mod gate;
mod http;
mod hub;
mod kind;
mod mlflow;
mod registry;
mod scenario;
mod secrets;
mod servers;
mod web;
