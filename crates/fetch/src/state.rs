//! What the fetcher remembers between two starts, beside the downloads: how to ask whether the
//! source changed, and what it downloaded. Losing it costs only requests.

use std::{collections::BTreeMap, io::Read as _};

use serde::{Deserialize, Serialize};

use crate::{
    folder::{Folder, OWN},
    sources::Validators,
};

/// The file's name in the fetcher's own folder.
pub(crate) const FILE: &str = ".state.json";
/// Maximum bytes of the file.
const BYTES_MAX: u64 = 8 << 20;

/// The content of `.onnxd-fetch/.state.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The source's URI. A state of another source is worthless.
    pub(crate) source: String,
    /// The id of the snapshot.
    pub(crate) id: String,
    /// See [`Validators`].
    pub(crate) validators: Validators,
    /// Downloaded files by path.
    pub(crate) files: BTreeMap<String, DownloadedFile>,
}

/// A file that was downloaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DownloadedFile {
    /// The file's SHA-256 in hex.
    pub(crate) sha256: String,
    /// The identity that it had, for sources that state no digests.
    pub(crate) identity: Option<String>,
}

impl State {
    /// Loads the state of a source, or an empty one.
    pub(crate) fn load(folder: &Folder, source: &str) -> Self {
        let mut text = String::new();
        let file = folder.read(&path()).ok().flatten();
        let read = file.map(|file| file.take(BYTES_MAX).read_to_string(&mut text));
        let found = read.and_then(|_| serde_json::from_str::<Self>(&text).ok());
        let mut state = found.unwrap_or_default();
        if state.source != source {
            // The files are still ours, to reuse or to remove.
            state = Self { source: source.to_owned(), files: state.files, ..Self::default() };
        }
        state
    }

    /// Saves the state. Ignores errors: the next poll downloads more than it must.
    pub(crate) fn save(&self, folder: &Folder) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Err(error) = folder.write(&path(), &text) {
            tracing::warn!(%error, "failed to save the state of the download");
        }
    }
}

fn path() -> String {
    format!("{OWN}/{FILE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supervisor_keeps_this_file() {
        assert_eq!(path(), onnxd_proto::domain::fetch::STATE);
    }

    #[test]
    fn a_state_belongs_to_one_source() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::open(directory.path()).unwrap();
        let mut state = State::load(&folder, "hf://a/b");
        state.id = "hf:1".to_owned();
        let downloaded = DownloadedFile { sha256: "00".to_owned(), identity: None };
        state.files.insert("model.onnx".to_owned(), downloaded);
        state.save(&folder);
        assert_eq!(State::load(&folder, "hf://a/b"), state);
        let other = State::load(&folder, "hf://a/c");
        assert_eq!((other.id.as_str(), other.files), ("", state.files));
    }
}
