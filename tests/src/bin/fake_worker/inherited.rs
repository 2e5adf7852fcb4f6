//! The descriptors that the supervisor passes on: 3 is the socket to it, 4 the control page.

// The only file that turns a number into an owned descriptor; no safe function can do that.
#![allow(unsafe_code)]

use std::os::{
    fd::{FromRawFd, OwnedFd},
    unix::net::UnixStream,
};

/// The socket and the control page. Called once, before anything is opened.
pub(crate) fn take() -> (UnixStream, OwnedFd) {
    // SAFETY: the supervisor starts a serving worker with both open; whatever was opened before
    // this has been closed again, so nobody else here owns these numbers.
    unsafe { (UnixStream::from_raw_fd(3), OwnedFd::from_raw_fd(4)) }
}
