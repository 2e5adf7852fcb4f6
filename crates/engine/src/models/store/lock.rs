//! The lock file of the state directory, which names its holder. Called by [`crate::models::store`].

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use onnxd_proto::{exit::Failure, regular};

/// How long to try, and the pause between two attempts.
const ATTEMPTS_TIME: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(10);

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
    let opened = inherited.map_or_else(|| regular::open_with(&mut options, path), Ok);
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
    exclusively(&file).map_err(|error| {
        if error == rustix::io::Errno::WOULDBLOCK {
            let holder = holder.trim();
            invalid(&format!("in use by another onnxd, process {holder}; stop it first"))
        } else {
            invalid(&error)
        }
    })?;
    if !succeeds {
        write_pid(&file).map_err(|error| invalid(&error))?;
    }
    Ok(file)
}

/// Locks the file. Tries for a moment, because [`holder`] holds the lock for an instant.
fn exclusively(file: &File) -> rustix::io::Result<()> {
    let end = Instant::now() + ATTEMPTS_TIME;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(PAUSE),
            locked => return locked,
        }
    }
}

/// Returns the PID of the server that holds the lock, without changing anything.
///
/// # Errors
/// The file cannot be read.
pub fn holder(path: &Path) -> io::Result<Option<String>> {
    let mut file = match regular::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Released at the end of this function.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            Ok(Some(holder.trim().to_owned()))
        }
        locked => Ok(locked.map(|()| None)?),
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
