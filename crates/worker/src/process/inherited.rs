//! Takes over the descriptors inherited from the supervisor: 3 is the socket, 4 the control page, 5
//! a pipe with orders to terminate groups. No other file knows their numbers.

// The only file that turns a number into an owned descriptor; no safe function does that.
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

/// The inherited descriptors.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) socket: UnixStream,
    pub(crate) control_page: OwnedFd,
    pub(crate) terminations: File,
}

/// Takes ownership of the inherited descriptors. Call it once, before the process opens a
/// descriptor.
///
/// # Errors
/// A descriptor is missing or of the wrong type: the supervisor did not start this process.
pub(crate) fn take() -> io::Result<Inherited> {
    if !file_type(SOCKET)?.is_socket() {
        return Err(io::Error::other("descriptor 3 is not a socket"));
    }
    file_type(CONTROL_PAGE)?;
    if !file_type(TERMINATIONS)?.is_fifo() {
        return Err(io::Error::other("descriptor 5 is not a pipe"));
    }
    // SAFETY: all are open, as checked above. This process has opened no descriptor before, so they
    // were inherited. This function runs once, so nothing else owns them.
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
