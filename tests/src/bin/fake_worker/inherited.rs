//! Takes ownership of the descriptors inherited from the supervisor: 3 is the socket, 4 the control
//! page.

// The only file that turns a number into an owned descriptor; no safe function can do that.
#![allow(unsafe_code)]

use std::os::{
    fd::{FromRawFd, OwnedFd},
    unix::net::UnixStream,
};

/// Returns the socket and the control page. Call it once, before anything else opens a file.
pub(crate) fn take() -> (UnixStream, OwnedFd) {
    // SAFETY: the supervisor starts a serving worker with both descriptors open. Anything opened
    // earlier is closed again, so nothing else in this process owns these numbers.
    unsafe { (UnixStream::from_raw_fd(3), OwnedFd::from_raw_fd(4)) }
}
