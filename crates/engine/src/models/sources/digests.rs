//! Digests of source files that have not changed since they were read, so that a reload of what
//! is served already reads nothing. A file is the same when device, inode, size and times are;
//! one that changed within the last moments before it was read is read again, because a further
//! change could have left the same times.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use onnxd_proto::domain::FileStamp;

/// File times may be as coarse as this.
const COARSEST: Duration = Duration::from_secs(2);
/// Files that are remembered. When there are more, all are forgotten.
const FILES_MAX: usize = 4096;

/// What was read before.
#[derive(Debug, Default)]
pub struct Digests(Mutex<HashMap<Identity, String>>);

/// A file as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(FileStamp);

impl Identity {
    /// The file as it is now.
    ///
    /// # Errors
    /// What the system answers.
    pub(in crate::models) fn of(file: &File) -> io::Result<Self> {
        Ok(Self(FileStamp::from(&file.metadata()?)))
    }

    /// Whether this is the file that a listing saw, unchanged.
    pub(in crate::models) fn is(&self, stamp: &FileStamp) -> bool {
        self.0 == *stamp
    }

    /// Its length.
    pub(in crate::models) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Whether the file was left alone for long enough that a change would show.
    pub(in crate::models) fn is_settled(&self) -> bool {
        #[expect(
            clippy::disallowed_methods,
            reason = "compared with file times, which are this clock's"
        )]
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = u64::try_from(self.0.changed.0.max(self.0.modified.0)).unwrap_or(u64::MAX);
        Duration::from_secs(changed).saturating_add(COARSEST) < now
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileStamp { device, inode, bytes, modified, changed } = &self.0;
        write!(formatter, "{device} {inode} {bytes} {modified:?} {changed:?}")
    }
}

impl Digests {
    /// The SHA-256 of the file, in hex, if it has not changed since it was read.
    pub(in crate::models) fn get(&self, identity: &Identity) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(identity).cloned()
    }

    /// Remembers what was read of a file that was `before` when reading began. Returns whether a
    /// change meanwhile would have shown; else nothing is remembered.
    pub(in crate::models) fn remember(&self, file: &File, before: &Identity, sha256: &str) -> bool {
        let unchanged = Identity::of(file).is_ok_and(|after| after == *before);
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
        let identity = Identity::of(&file).unwrap();
        (file, identity)
    }

    #[test]
    fn a_file_that_was_left_alone_is_known_and_a_changed_or_new_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        fs::write(&path, "a").unwrap();
        let digests = Digests::default();
        let (file, fresh) = opened(&path);
        digests.remember(&file, &fresh, "digest of a");
        assert_eq!(digests.get(&fresh), None, "it was written a moment ago");
        std::thread::sleep(COARSEST + Duration::from_secs(1));
        digests.remember(&file, &fresh, "digest of a");
        assert_eq!(digests.get(&fresh).as_deref(), Some("digest of a"));
        fs::write(&path, "b").unwrap();
        let (_, changed) = opened(&path);
        assert_eq!(digests.get(&changed), None);
        digests.remember(&file, &fresh, "wrong: it changed while it was read");
        assert_eq!(digests.get(&fresh).as_deref(), Some("digest of a"));
    }
}
