//! The lock file of the state directory, which names its holder. Called by [`crate::models::store`].

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use onnxd_proto::{exit::Failure, layout::Layout};

/// Takes the lock with flock(2), which belongs to the open file description. A successor that inherits
/// the descriptor shares the lock with its predecessor, and the last one to exit releases it. So
/// nothing here unlocks explicitly; closing the file does.
pub(super) fn take(path: &Path, inherited: Option<File>) -> Result<File, Failure> {
    let invalid = |reason: &dyn std::fmt::Display| {
        Failure::configuration(format!("--state-dir: {}: {reason}", path.display()))
    };
    let succeeds = inherited.is_some();
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let opened = inherited.map_or_else(|| options.open(path), Ok);
    let mut file = opened.map_err(|error| invalid(&error))?;
    if succeeds {
        let same = fs::metadata(path).and_then(|there| {
            let own = file.metadata()?;
            Ok((there.dev(), there.ino()) == (own.dev(), own.ino()))
        });
        if !same.map_err(|error| invalid(&error))? {
            return Err(invalid(&"a successor must use its predecessor's state directory"));
        }
    }
    let mut holder = String::new();
    // Only used in the message below.
    let _ = file.read_to_string(&mut holder);
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        if error == rustix::io::Errno::WOULDBLOCK {
            invalid(&format!("in use by another onnxd, process {}", holder.trim()))
        } else {
            invalid(&error)
        }
    })?;
    if !succeeds {
        write_pid(&file).map_err(|error| invalid(&error))?;
    }
    Ok(file)
}

/// Returns the PID of the supervisor that uses a state directory, as it wrote it, if there is one.
pub fn holder(layout: &Layout) -> Option<String> {
    let mut file = File::open(layout.lock()).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).ok()?;
            Some(holder.trim().to_owned())
        }
        _ => None,
    }
}

/// Writes this process's PID into the lock file.
///
/// # Errors
/// A disk error.
pub(super) fn write_pid(lock: &File) -> io::Result<()> {
    let line = format!("{}\n", std::process::id());
    // In this order the file holds a PID at any time.
    lock.write_all_at(line.as_bytes(), 0)?;
    lock.set_len(line.len() as u64)
}
