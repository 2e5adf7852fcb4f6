//! Tests of the real executable, driven like the supervisor drives it.
//!
//! - [`ahead`]: loading before the commit.
//! - [`check`]: accepted and refused versions.
//! - [`compiled`]: valid and damaged compiled forms.
//! - [`confined`]: the worker's sandbox.
//! - [`embed`]: embeddings and their generations.
//! - [`life`]: start, CPU, isolation and exit.
//! - [`limits`]: the checker's resource limits.
//! - [`list`]: listing a source.
//! - [`memory`]: memory of several workers.
//! - [`tasks`]: rerankers, classifiers, tensors, prompts, tokens.
//! - [`unload`]: unloading a model.
//! - [`weights`]: the type of a model's weights.

#![allow(clippy::unwrap_used)] // In tests, a panic is how to fail.

mod ahead;
mod check;
mod checker;
mod compiled;
mod confined;
mod embed;
mod fixtures;
mod life;
mod limits;
mod list;
mod memory;
mod supervisor;
mod tasks;
mod unload;
mod weights;
