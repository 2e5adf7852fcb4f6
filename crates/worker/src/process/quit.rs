//! Ends the process at once, whatever its other threads are doing. Called by the guard, which
//! must not wait for an inference to finish, and by a worker that fails while it loads ahead.

// The only file that calls `_exit`, for which there is no safe function.
#![allow(unsafe_code)]

use onnxd_proto::exit::ExitStatus;

/// Ends the process with this status, running no destructor. `std::process::exit` would run those
/// of ONNX Runtime, which frees what a running inference uses and may then crash or hang.
pub(crate) fn now(status: ExitStatus) -> ! {
    // SAFETY: `_exit` never returns and has no precondition; memory and descriptors are given
    // back by the kernel, and this process has no file whose contents are still buffered.
    unsafe { nix::libc::_exit((status as u8).into()) }
}
