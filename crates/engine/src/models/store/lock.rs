//! The lock of the state directory, and who is written in it. Called by [`crate::models::store`].

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use onnxd_proto::exit::Failure;

/// Locks with flock(2), which belongs to the open file: a successor that inherits the descriptor
/// holds the lock with its predecessor, and whichever ends last lets it go. So nothing here ever
/// unlocks; closing does.
pub(super) fn take(path: &Path, inherited: Option<File>) -> Result<File, Failure> {
    let wrong = |reason: &dyn std::fmt::Display| {
        Failure::configuration(format!("--state-dir: {}: {reason}", path.display()))
    };
    let succeeds = inherited.is_some();
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let opened = inherited.map_or_else(|| options.open(path), Ok);
    let mut file = opened.map_err(|error| wrong(&error))?;
    if succeeds {
        let same = fs::metadata(path).and_then(|there| {
            let own = file.metadata()?;
            Ok((there.dev(), there.ino()) == (own.dev(), own.ino()))
        });
        if !same.map_err(|error| wrong(&error))? {
            return Err(wrong(&"a successor has to use its predecessor's state directory"));
        }
    }
    let mut holder = String::new();
    // Only for the message below.
    let _ = file.read_to_string(&mut holder);
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        if error == rustix::io::Errno::WOULDBLOCK {
            wrong(&format!("another supervisor works here, process {}", holder.trim()))
        } else {
            wrong(&error)
        }
    })?;
    if !succeeds {
        sign(&file).map_err(|error| wrong(&error))?;
    }
    Ok(file)
}

/// Writes the pid of this process.
///
/// # Errors
/// What the disk answers.
pub(super) fn sign(lock: &File) -> io::Result<()> {
    let line = format!("{}\n", std::process::id());
    // In this order somebody's pid can be read at any time.
    lock.write_all_at(line.as_bytes(), 0)?;
    lock.set_len(line.len() as u64)
}
