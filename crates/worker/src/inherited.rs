//! Takes over the two descriptors that the supervisor passes on: 3 is the socket to it, 4 the
//! control page. Nothing else in this executable knows their numbers.

// The only file that turns a number into an owned descriptor; no safe function can do that.
#![allow(unsafe_code)]

use std::{
    fs::{self, FileType},
    io,
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::{fs::FileTypeExt, net::UnixStream},
    },
};

const SOCKET: RawFd = 3;
const CONTROL_PAGE: RawFd = 4;

/// The socket to the supervisor and the control page. Called once, before anything else of this
/// process has opened a descriptor.
///
/// # Errors
/// A descriptor is missing or is something else: nobody but the supervisor starts a worker.
pub(crate) fn take() -> io::Result<(UnixStream, OwnedFd)> {
    if !file_type(SOCKET)?.is_socket() {
        return Err(io::Error::other("descriptor 3 is not a socket"));
    }
    file_type(CONTROL_PAGE)?;
    // SAFETY: both are open, as was just seen. Nothing has been opened since this process began,
    // so they were inherited, and as this runs once, nobody else here owns them.
    let (socket, page) =
        unsafe { (OwnedFd::from_raw_fd(SOCKET), OwnedFd::from_raw_fd(CONTROL_PAGE)) };
    Ok((socket.into(), page))
}

fn file_type(descriptor: RawFd) -> io::Result<FileType> {
    let found = fs::metadata(format!("/proc/self/fd/{descriptor}"));
    found.map(|found| found.file_type()).map_err(|error| {
        io::Error::new(error.kind(), format!("descriptor {descriptor} is not open: {error}"))
    })
}
