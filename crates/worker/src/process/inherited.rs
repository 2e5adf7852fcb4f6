//! Takes over the descriptors that the supervisor passes on: 3 is the socket to it, 4 the control
//! page, 5 a pipe with orders to terminate groups. Nothing else in this executable knows their
//! numbers.

// The only file that turns a number into an owned descriptor; no safe function can do that.
#![allow(unsafe_code)]

use std::{
    fs::{self, File, FileType},
    io,
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::{fs::FileTypeExt, net::UnixStream},
    },
};

const SOCKET: RawFd = 3;
const CONTROL_PAGE: RawFd = 4;
const TERMINATIONS: RawFd = 5;

/// What was passed on.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) socket: UnixStream,
    pub(crate) control_page: OwnedFd,
    pub(crate) terminations: File,
}

/// What the supervisor passed on. Called once, before anything else of this
/// process has opened a descriptor.
///
/// # Errors
/// A descriptor is missing or is something else: nobody but the supervisor starts a worker.
pub(crate) fn take() -> io::Result<Inherited> {
    if !file_type(SOCKET)?.is_socket() {
        return Err(io::Error::other("descriptor 3 is not a socket"));
    }
    file_type(CONTROL_PAGE)?;
    if !file_type(TERMINATIONS)?.is_fifo() {
        return Err(io::Error::other("descriptor 5 is not a pipe"));
    }
    // SAFETY: all are open, as was just seen. Nothing has been opened since this process began,
    // so they were inherited, and as this runs once, nobody else here owns them.
    let [socket, control_page, terminations] = unsafe {
        [SOCKET, CONTROL_PAGE, TERMINATIONS].map(|descriptor| OwnedFd::from_raw_fd(descriptor))
    };
    Ok(Inherited { socket: socket.into(), control_page, terminations: terminations.into() })
}

fn file_type(descriptor: RawFd) -> io::Result<FileType> {
    let found = fs::metadata(format!("/proc/self/fd/{descriptor}"));
    found.map(|found| found.file_type()).map_err(|error| {
        io::Error::new(error.kind(), format!("descriptor {descriptor} is not open: {error}"))
    })
}
