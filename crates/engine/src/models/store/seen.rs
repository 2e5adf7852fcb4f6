//! What the watcher of a model's source saw last. Kept across restarts, so that a restart neither
//! undoes a rollback nor fetches again what was refused. Extends [`Store`].

use onnxd_proto::{domain::SourceUri, regular};
use serde::{Deserialize, Serialize};

use crate::models::{
    disk::{STORED_BYTES_MAX, replace},
    registry::Model,
    requester::Requester,
    sources::SnapshotId,
    store::Store,
};

/// The snapshot that a watcher saw last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its version, if it was staged. A directory's snapshots may differ and hold the same version.
    pub version: Option<String>,
    /// Why it was refused; `None` if it was served.
    pub refused: Option<String>,
}

/// The record on disk.
#[derive(Debug, Serialize, Deserialize)]
struct StoredSeen {
    source: SourceUri,
    /// Identifies the keys that sign the source.
    keys: String,
    snapshot: String,
    version: Option<String>,
    refused: Option<String>,
    /// The release of onnxd. Another one may accept what this one refused.
    release: String,
}

impl Store {
    /// Returns the snapshot that was staged last from the model's source, if its version is kept.
    pub fn staged_snapshot(&self, model: &Model) -> Option<SnapshotId> {
        self.known_snapshot(&model.source, &model.rules.conditions(Requester::Server, true))
    }

    /// Returns what the watcher of the model's source saw last, if source and keys are unchanged since.
    pub fn seen(&self, model: &Model) -> Option<Seen> {
        let text = regular::read(&self.layout().watched(&model.name), STORED_BYTES_MAX).ok()?;
        let stored: StoredSeen = serde_json::from_slice(&text).ok()?;
        let StoredSeen { source, keys, snapshot, version, refused, release } = stored;
        let is_valid = source == model.source
            && keys == model.rules.keys.id()
            && (refused.is_none() || release == env!("CARGO_PKG_VERSION"));
        let snapshot = SnapshotId::new(snapshot);
        is_valid.then_some(Seen { snapshot, version, refused })
    }

    /// Stores what the watcher saw. Logs errors: without the file, the source is read once more after
    /// a restart.
    pub fn set_seen(&self, model: &Model, seen: &Seen) {
        let stored = StoredSeen {
            source: model.source.clone(),
            keys: model.rules.keys.id(),
            snapshot: seen.snapshot.as_str().to_owned(),
            version: seen.version.clone(),
            refused: seen.refused.clone(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let path = self.layout().watched(&model.name);
        let written = serde_json::to_vec(&stored).map_err(Into::into);
        if let Err(error) = written.and_then(|text| replace(&path, &text)) {
            tracing::warn!(model = %model.name, %error, "failed to store what was seen of a source");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::models::{
        registry::ModelSource,
        sources::{
            SourceRules,
            fake::ByName,
            signature::{SourceKey, SourceKeys},
        },
    };

    use super::*;

    fn model(uri: &str, rules: SourceRules) -> Model {
        let source = ModelSource {
            name: "m".parse().unwrap(),
            aliases: Vec::new(),
            uri: uri.parse().unwrap(),
            preload: true,
            required: false,
            rules,
        };
        Model::new(0, source)
    }

    #[test]
    fn what_was_seen_survives_a_restart_if_the_source_is_the_same() {
        let root = tempfile::tempdir().unwrap();
        let open = || Store::open(root.path(), 1, ByName::sources(), None).unwrap();
        let directory = model("/models/m", SourceRules::default());
        let id = SnapshotId::new("0123".to_owned());
        for refused in [None, Some("too large".to_owned())] {
            let seen = Seen { snapshot: id.clone(), version: Some("v".to_owned()), refused };
            let store = open();
            store.set_seen(&directory, &seen);
            drop(store);
            // No version is kept.
            assert_eq!(open().seen(&directory), Some(seen));
        }
        assert_eq!(open().seen(&model("/models/other", SourceRules::default())), None);
        let keys = SourceKeys::from(vec![SourceKey::P256(vec![4])]);
        let signed = SourceRules { keys, ..SourceRules::default() };
        assert_eq!(open().seen(&model("/models/m", signed)), None);
    }
}
