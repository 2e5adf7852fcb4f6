//! Copies and moves the files of a snapshot, and computes their digests. Called by
//! [`directory`](super::directory).

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use sha2::{Digest, Sha256};

use crate::models::disk::hex;

/// Returns the bytes this process may still write to the file system of `path`; see statvfs(3).
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Copies one file and returns its length and SHA-256. `count` is called for each part, and an
/// error of it ends the copy.
pub(super) fn copy(
    from: &File,
    to: &Path,
    count: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<(u64, String)> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    transfer(from, &mut File::create_new(to)?, count)
}

/// Moves the file opened as `handle` from one path to another.
pub(super) fn rename(handle: &File, from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(from, to)?;
    let (moved, expected) = (fs::symlink_metadata(to)?, handle.metadata()?);
    // A link would lead out of the version, and a second name could be used to change it.
    match moved.ino() == expected.ino() && moved.dev() == expected.dev() && moved.nlink() == 1 {
        true => Ok(()),
        false => Err(io::Error::other("the name leads to another file")),
    }
}

/// Writes the content of one file to `to`, and returns its length and SHA-256.
pub(super) fn transfer(
    mut from: &File,
    to: &mut dyn Write,
    count: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<(u64, String)> {
    from.rewind()?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok((bytes, hex(&digest.finalize())));
        }
        bytes += length as u64;
        count(length as u64)?;
        digest.update(&buffer[..length]);
        to.write_all(&buffer[..length])?;
    }
}
