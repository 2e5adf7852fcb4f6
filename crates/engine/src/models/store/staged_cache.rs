//! Caches the version of each source's last snapshot, so an unchanged source is recognized without
//! reading its files.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use onnxd_proto::domain::SourceUri;

use crate::models::{sources::SnapshotId, store::Staged};

/// Maximum cached sources; the cache is cleared when it is full.
const SOURCES_MAX: usize = 1024;

/// The version last staged from each source.
#[derive(Debug, Default)]
pub(super) struct StagedCache(Mutex<HashMap<SourceUri, Entry>>);

/// A snapshot and its version.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub snapshot: SnapshotId,
    pub version: String,
    pub bytes: u64,
}

impl StagedCache {
    pub(super) fn get(&self, uri: &SourceUri) -> Option<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uri).cloned()
    }

    pub(super) fn insert(&self, uri: &SourceUri, snapshot: &SnapshotId, staged: &Staged) {
        let (snapshot, version, bytes) = (snapshot.clone(), staged.version.clone(), staged.bytes);
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SOURCES_MAX {
            sources.clear();
        }
        sources.insert(uri.clone(), Entry { snapshot, version, bytes });
    }
}
