//! Tests of the fetcher against a server that misbehaves. `real/` has the tests with real servers.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]

mod binary;
mod bucket;
mod double;
mod fetch;
mod hub;
mod mlflow;
mod registry;
mod time;
mod tls;
mod web;
