//! Exits at once, whatever other threads do. Called by the guard, which must not wait for an
//! inference, and by `main` when a worker stops.

// The only file that calls `_exit`; no safe function does that.
#![allow(unsafe_code)]

use onnxd_proto::exit::ExitStatus;

/// Exits with this status and runs no destructors. `std::process::exit` would run those of ONNX
/// Runtime, which free memory that a running inference uses and may crash or hang.
pub(crate) fn now(status: ExitStatus) -> ! {
    // SAFETY: `_exit` never returns and has no precondition. The kernel releases memory and
    // descriptors, and this process has no buffered file contents.
    unsafe { nix::libc::_exit((status as u8).into()) }
}
