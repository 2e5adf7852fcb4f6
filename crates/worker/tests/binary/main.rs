//! The real executable, driven as the supervisor drives it.
//!
//! - [`check`]: which versions are accepted, and why others are not.
//! - [`embed`]: answers, their labels, and what changes them.
//! - [`life`]: how a worker starts, where it runs, and how it ends.

#![allow(clippy::unwrap_used)] // In tests, a panic is how to fail.

mod check;
mod embed;
mod fixtures;
mod life;
mod supervisor;
