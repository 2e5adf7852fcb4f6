//! Tests of the real executable, driven like the supervisor drives it.
//!
//! - [`confined`]: the sandbox and the lock.
//! - [`damaged`]: damaged files and a full disk.
//! - [`killed`]: acknowledged writes survive SIGKILL.
//! - [`limits`]: requests at and beyond each limit.
//! - [`serving`]: each request.

#![allow(clippy::unwrap_used)] // In tests, a panic is how to fail.

mod confined;
mod damaged;
mod killed;
mod limits;
mod process;
mod serving;

/// The executable.
const EXECUTABLE: &str = env!("CARGO_BIN_EXE_onnxd-index");

/// Starts the executable.
fn start(directory: &std::path::Path) -> process::Index {
    process::Index::start(EXECUTABLE, directory)
}
