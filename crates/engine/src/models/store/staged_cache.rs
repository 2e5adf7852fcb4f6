//! Which version the last snapshot of each source was, so that an unchanged source is recognised
//! without looking at its files.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use onnxd_proto::domain::SourceUri;

use crate::models::{sources::SnapshotId, store::Staged};

/// Sources that are remembered. When there are more, all are forgotten.
const SOURCES_MAX: usize = 1024;

/// What was staged last from each source.
#[derive(Debug, Default)]
pub(super) struct StagedBefore(Mutex<HashMap<SourceUri, Known>>);

/// A snapshot and the version that it is.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub snapshot: SnapshotId,
    pub version: String,
    pub bytes: u64,
}

impl StagedBefore {
    pub(super) fn get(&self, uri: &SourceUri) -> Option<Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uri).cloned()
    }

    pub(super) fn remember(&self, uri: &SourceUri, snapshot: &SnapshotId, staged: &Staged) {
        let (snapshot, version, bytes) = (snapshot.clone(), staged.version.clone(), staged.bytes);
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SOURCES_MAX {
            sources.clear();
        }
        sources.insert(uri.clone(), Known { snapshot, version, bytes });
    }
}
