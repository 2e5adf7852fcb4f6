//! Caches the version of each source's last snapshot, so an unchanged source is recognized without
//! reading its files. Snapshots of other servers are also kept on disk, because their ids stay valid
//! after a restart.

use std::{
    collections::HashMap,
    fs, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use onnxd_proto::{domain::SourceUri, layout::Layout};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::models::{disk::hex, sources::SnapshotId, store::Staged};

/// Maximum cached sources; the cache is cleared when it is full.
const SOURCES_MAX: usize = 1024;

/// The version last staged from each source.
#[derive(Debug)]
pub(super) struct StagedCache {
    layout: Layout,
    sources: Mutex<HashMap<SourceUri, Entry>>,
}

/// A snapshot and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub snapshot: SnapshotId,
    pub version: String,
    pub bytes: u64,
    /// Identifies the keys that the version's signature was verified with.
    pub keys: String,
}

/// An entry on disk.
#[derive(Debug, Serialize, Deserialize)]
struct StoredEntry {
    source: SourceUri,
    snapshot: String,
    version: String,
    bytes: u64,
    #[serde(default)]
    keys: String,
}

impl StagedCache {
    /// Returns the cache of the state directory with this layout.
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, sources: Mutex::default() }
    }

    /// Returns the entry of a source that was verified with these keys.
    pub(super) fn get(&self, uri: &SourceUri, keys: &str) -> Option<Entry> {
        let known = self.sources.lock().unwrap_or_else(PoisonError::into_inner).get(uri).cloned();
        known.or_else(|| self.restored(uri)).filter(|entry| entry.keys == keys)
    }

    pub(super) fn insert(
        &self,
        uri: &SourceUri,
        snapshot: &SnapshotId,
        keys: &str,
        staged: &Staged,
    ) {
        let (snapshot, version, bytes) = (snapshot.clone(), staged.version.clone(), staged.bytes);
        let entry = Entry { snapshot, version, bytes, keys: keys.to_owned() };
        // Without the file, the source is read once more after a restart.
        if let Err(error) = self.write(uri, &entry) {
            tracing::warn!(source = %uri, %error, "failed to store the snapshot of a source");
        }
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SOURCES_MAX {
            sources.clear();
        }
        sources.insert(uri.clone(), entry);
    }

    /// Returns the entry that an earlier process stored, and caches it.
    fn restored(&self, uri: &SourceUri) -> Option<Entry> {
        let entry = self.read(uri)?;
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SOURCES_MAX {
            return Some(entry);
        }
        // Another thread may have staged a newer snapshot meanwhile.
        Some(sources.entry(uri.clone()).or_insert(entry).clone())
    }

    /// Returns the file of a source on another server. The ids of directories are not stored.
    fn path(&self, uri: &SourceUri) -> Option<PathBuf> {
        match uri {
            SourceUri::Directory { .. } => None,
            SourceUri::Remote(_) => {
                let name = hex(&Sha256::digest(uri.to_string())[..16]);
                Some(self.layout.snapshots().join(name))
            }
        }
    }

    fn read(&self, uri: &SourceUri) -> Option<Entry> {
        let text = fs::read(self.path(uri)?).ok()?;
        let StoredEntry { source, snapshot, version, bytes, keys } =
            serde_json::from_slice(&text).ok()?;
        let snapshot = SnapshotId::new(snapshot);
        (source == *uri).then_some(Entry { snapshot, version, bytes, keys })
    }

    fn write(&self, uri: &SourceUri, entry: &Entry) -> io::Result<()> {
        let Some(path) = self.path(uri) else { return Ok(()) };
        let Entry { snapshot, version, bytes, keys } = entry.clone();
        let (source, snapshot) = (uri.clone(), snapshot.as_str().to_owned());
        let text = serde_json::to_vec(&StoredEntry { source, snapshot, version, bytes, keys })?;
        fs::create_dir_all(self.layout.snapshots())?;
        // A reader finds the old or the new file.
        let unfinished = path.with_extension("new");
        fs::write(&unfinished, text)?;
        fs::rename(unfinished, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_of_other_servers_survive_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let remote: SourceUri = "hf://org/name@main".parse().unwrap();
        let directory: SourceUri = "/models/name".parse().unwrap();
        let id = SnapshotId::new("hf:0123".to_owned());
        let before = StagedCache::new(layout.clone());
        for uri in [&remote, &directory] {
            before.insert(uri, &id, "", &Staged::kept("v"));
            assert_eq!(before.get(uri, "").unwrap().snapshot, id);
            assert_eq!(before.get(uri, "key"), None, "its signature was not verified");
        }
        let after = StagedCache::new(layout.clone());
        assert_eq!(after.get(&remote, ""), before.get(&remote, ""));
        assert_eq!(after.get(&directory, ""), None);
        assert_eq!(after.get(&"hf://org/name".parse().unwrap(), ""), None);
        let file = fs::read_dir(layout.snapshots()).unwrap().next().unwrap().unwrap().path();
        fs::write(file, "{").unwrap();
        assert_eq!(StagedCache::new(layout).get(&remote, ""), None, "a damaged file is ignored");
    }
}
