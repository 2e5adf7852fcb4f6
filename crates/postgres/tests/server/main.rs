//! Tests with a real PostgreSQL, whose programs are in the directory `ONNXD_TEST_POSTGRES`. Run by
//! `cargo xtask test-postgres`.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "figures of tests are small"
)]

mod database;
mod differential;
mod documents;
mod existing;
mod faults;
mod probe;
mod process;
mod recall;
mod removal;
mod tls;
mod views;
