//! The real executable, driven as the supervisor drives it.
//!
//! - [`ahead`]: loading before the commit.
//! - [`check`]: which versions are accepted, and why others are not.
//! - [`compiled`]: compiled forms, good and bad.
//! - [`confined`]: what a worker is confined to.
//! - [`embed`]: answers, their labels, and what changes them.
//! - [`life`]: how a worker starts, where it runs, and how it ends.
//! - [`limits`]: what a checker may not use.
//! - [`list`]: which files of a source are its model.
//! - [`memory`]: what workers cost together.
//! - [`tasks`]: rerankers, classifiers, tensors, prompts, tokens.
//! - [`unload`]: giving a model back.
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
