//! Caches digests of unchanged source files, so reloading the serving version reads no file. A file is
//! unchanged if its device, inode, size and times are. A file modified just before it was read is read
//! again, because a further change could leave the same times.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use onnxd_proto::domain::FileStamp;

/// Coarsest resolution of file times.
const TIME_RESOLUTION_MAX: Duration = Duration::from_secs(2);
/// Maximum cached files; the cache is cleared when it is full.
const FILES_MAX: usize = 4096;

/// Digests of files read before.
#[derive(Debug, Default)]
pub struct Digests(Mutex<HashMap<Identity, String>>);

/// The identity of a file's content at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(FileStamp);

impl Identity {
    /// Returns the identity of the file as it is now.
    ///
    /// # Errors
    /// The error of the operating system.
    pub(in crate::models) fn read(file: &File) -> io::Result<Self> {
        Ok(Self(FileStamp::from(&file.metadata()?)))
    }

    /// Returns whether this is the file that a listing saw, unchanged.
    pub(in crate::models) fn matches(&self, stamp: &FileStamp) -> bool {
        self.0 == *stamp
    }

    /// Returns the file's length.
    pub(in crate::models) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Returns whether nothing has changed the file for so long. Uses the time that a copy cannot set.
    pub(in crate::models) fn is_unchanged_for(&self, settle: Duration) -> bool {
        Duration::from_secs(seconds(self.0.changed.0)).saturating_add(settle) < now()
    }

    /// Returns whether the file was unmodified long enough for any further change to show in its times.
    pub(in crate::models) fn is_settled(&self) -> bool {
        let changed = seconds(self.0.changed.0.max(self.0.modified.0));
        Duration::from_secs(changed).saturating_add(TIME_RESOLUTION_MAX) < now()
    }
}

/// Returns the time since the epoch.
#[expect(clippy::disallowed_methods, reason = "compared with file times, which use the same clock")]
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn seconds(time: i64) -> u64 {
    u64::try_from(time).unwrap_or(u64::MAX)
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileStamp { device, inode, bytes, modified, changed } = &self.0;
        write!(formatter, "{device} {inode} {bytes} {modified:?} {changed:?}")
    }
}

impl Digests {
    /// Returns the file's SHA-256 in hex if the file has not changed since it was read.
    pub(in crate::models) fn get(&self, identity: &Identity) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(identity).cloned()
    }

    /// Caches the digest of a file that was `before` when reading began. Returns whether the digest is
    /// certain: the file did not change, and a change would have shown. Otherwise nothing is cached.
    pub(in crate::models) fn remember(&self, file: &File, before: &Identity, sha256: &str) -> bool {
        let unchanged = Identity::read(file).is_ok_and(|after| after == *before);
        let certain = unchanged && before.is_settled();
        if certain {
            let mut digests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if digests.len() >= FILES_MAX {
                digests.clear();
            }
            digests.insert(before.clone(), sha256.to_owned());
        }
        certain
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn opened(path: &std::path::Path) -> (File, Identity) {
        let file = File::open(path).unwrap();
        let identity = Identity::read(&file).unwrap();
        (file, identity)
    }

    #[test]
    fn times_that_a_copy_sets_do_not_make_a_file_look_old() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        fs::write(&path, "a").unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        let (_, identity) = opened(&path);
        assert!(!identity.is_unchanged_for(Duration::from_secs(60)));
        std::thread::sleep(Duration::from_secs(1));
        let (_, identity) = opened(&path);
        assert!(identity.is_unchanged_for(Duration::ZERO));
    }

    #[test]
    fn only_files_unmodified_for_a_while_are_cached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        fs::write(&path, "a").unwrap();
        let digests = Digests::default();
        let (file, fresh) = opened(&path);
        digests.remember(&file, &fresh, "digest of a");
        assert_eq!(digests.get(&fresh), None, "it was written a moment ago");
        std::thread::sleep(TIME_RESOLUTION_MAX + Duration::from_secs(1));
        digests.remember(&file, &fresh, "digest of a");
        assert_eq!(digests.get(&fresh).as_deref(), Some("digest of a"));
        fs::write(&path, "b").unwrap();
        let (_, changed) = opened(&path);
        assert_eq!(digests.get(&changed), None);
        digests.remember(&file, &fresh, "wrong: it changed while it was read");
        assert_eq!(digests.get(&fresh).as_deref(), Some("digest of a"));
    }
}
