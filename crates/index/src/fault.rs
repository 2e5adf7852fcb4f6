//! Crashes on request. Compiled only into debug builds, for tests.

use std::path::Path;

use onnxd_proto::search::ToIndex;

/// Aborts this process if a document to store has the text in the file `fatal-text` beside the
/// collections.
#[cfg(debug_assertions)]
pub(crate) fn crash_on_request(folder: &Path, message: &ToIndex) {
    let ToIndex::Upsert { documents, .. } = message else { return };
    let Ok(fatal) = std::fs::read_to_string(folder.join("fatal-text")) else { return };
    if documents.iter().any(|document| document.text == fatal) {
        std::process::abort();
    }
}

/// Does nothing in release builds.
#[cfg(not(debug_assertions))]
pub(crate) fn crash_on_request(_: &Path, _: &ToIndex) {}
