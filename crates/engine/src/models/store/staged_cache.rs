//! Caches the version of each source's last snapshot, so an unchanged source is recognized without
//! reading its files. Snapshots of other servers are also kept on disk, because their ids stay valid
//! after a restart.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use onnxd_proto::{domain::SourceUri, layout::Layout, regular};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::models::{
    disk::{STORED_BYTES_MAX, hex, replace},
    sources::SnapshotId,
    store::{Staged, names},
};

/// Maximum cached sources; the cache is cleared when it is full.
const SOURCES_MAX: usize = 1024;

/// The version last staged from each source.
#[derive(Debug)]
pub(super) struct StagedCache {
    layout: Layout,
    sources: Mutex<HashMap<Key, Entry>>,
}

/// A source, and the id of the keys that its content was verified with. Models may have one source and
/// different keys.
type Key = (SourceUri, String);

/// A snapshot and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub snapshot: SnapshotId,
    pub version: String,
    pub bytes: u64,
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
        let key = (uri.clone(), keys.to_owned());
        let known = self.sources.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        known.or_else(|| self.restored(key))
    }

    pub(super) fn insert(
        &self,
        uri: &SourceUri,
        snapshot: &SnapshotId,
        keys: &str,
        staged: &Staged,
    ) {
        let (snapshot, version, bytes) = (snapshot.clone(), staged.version.clone(), staged.bytes);
        let (key, entry) = ((uri.clone(), keys.to_owned()), Entry { snapshot, version, bytes });
        // Without the file, the source is read once more after a restart.
        if let Err(error) = self.write(&key, &entry) {
            tracing::warn!(source = %uri, %error, "failed to store the snapshot of a source");
        }
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SOURCES_MAX {
            sources.clear();
        }
        sources.insert(key, entry);
    }

    /// Returns the entry that an earlier process stored, and caches it.
    fn restored(&self, key: Key) -> Option<Entry> {
        let entry = self.read(&key)?;
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SOURCES_MAX {
            return Some(entry);
        }
        // Another thread may have staged a newer snapshot meanwhile.
        Some(sources.entry(key).or_insert(entry).clone())
    }

    /// Returns the file of a source on another server. The ids of directories are not stored.
    fn path(&self, (uri, keys): &Key) -> Option<PathBuf> {
        match uri {
            SourceUri::Directory { .. } => None,
            SourceUri::Remote(_) => {
                let name = hex(&Sha256::digest(format!("{uri} {keys}"))[..16]);
                Some(self.layout.snapshots().join(name))
            }
        }
    }

    /// Removes the files of sources and keys that are not `configured`.
    pub(super) fn remove_unconfigured(&self, configured: &[(&SourceUri, String)]) {
        let path = |(uri, keys): &(&SourceUri, String)| self.path(&((*uri).clone(), keys.clone()));
        let configured: HashSet<PathBuf> = configured.iter().filter_map(path).collect();
        for entry in fs::read_dir(self.layout.snapshots()).into_iter().flatten().flatten() {
            if !configured.contains(&entry.path()) {
                // What stays takes little space.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn read(&self, key: &Key) -> Option<Entry> {
        let text = regular::read(&self.path(key)?, STORED_BYTES_MAX).ok()?;
        let StoredEntry { source, snapshot, version, bytes, keys } =
            serde_json::from_slice(&text).ok()?;
        let snapshot = SnapshotId::new(snapshot);
        (*key == (source, keys)).then_some(Entry { snapshot, version, bytes })
    }

    fn write(&self, key: &Key, entry: &Entry) -> io::Result<()> {
        let Some(path) = self.path(key) else { return Ok(()) };
        let Entry { snapshot, version, bytes } = entry.clone();
        let ((source, keys), snapshot) = (key.clone(), snapshot.as_str().to_owned());
        let text = serde_json::to_vec(&StoredEntry { source, snapshot, version, bytes, keys })?;
        replace(&path, &text)
    }
}

/// Returns the stored entries of sources that are not `configured`, and those that cannot be read.
pub(super) fn others(layout: &Layout, configured: &[SourceUri]) -> io::Result<Vec<PathBuf>> {
    let is_configured = |path: &PathBuf| {
        let entry = regular::read(path, STORED_BYTES_MAX)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        entry.is_some_and(|entry: StoredEntry| configured.contains(&entry.source))
    };
    let paths = names(&layout.snapshots())?.into_iter().map(|name| layout.snapshots().join(name));
    Ok(paths.filter(|path| !is_configured(path)).collect())
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
        before.insert(&remote, &id, "key", &Staged::kept("signed"));
        assert_eq!(before.get(&remote, "key").unwrap().version, "signed");
        assert_eq!(before.get(&remote, "").unwrap().version, "v", "each key has its entry");
        before.remove_unconfigured(&[(&remote, String::new())]);
        let after = StagedCache::new(layout.clone());
        assert_eq!(after.get(&remote, ""), before.get(&remote, ""));
        assert_eq!(after.get(&directory, ""), None);
        assert_eq!(after.get(&remote, "key"), None, "it is not configured any more");
        assert_eq!(after.get(&"hf://org/name".parse().unwrap(), ""), None);
        let file = fs::read_dir(layout.snapshots()).unwrap().next().unwrap().unwrap().path();
        fs::write(file, "{").unwrap();
        assert_eq!(StagedCache::new(layout).get(&remote, ""), None, "a damaged file is ignored");
    }
}
