//! Tests of the confined executable with real servers: Caddy, SeaweedFS, olah, docker-registry,
//! tinyproxy and MLflow. `cargo xtask test-sources` installs them and runs these tests.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]

mod bucket;
mod fetch;
mod http;
mod hub;
mod mlflow;
mod registry;
mod servers;
mod web;
