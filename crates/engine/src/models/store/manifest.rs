//! The manifest of a version: the list of its files, whose digest names it. Called by the store.

use std::path::Path;

use onnxd_proto::{
    layout::{MANIFEST, MANIFEST_BYTES_MAX},
    manifest::entries,
    regular,
};
use sha2::{Digest, Sha256};

use crate::models::{
    disk::hex,
    sources::{FetchedFile, Snapshot, SnapshotFile},
};

/// Returns the files of a snapshot if the source knows every digest without reading.
pub(super) fn known_files(snapshot: &dyn Snapshot) -> Option<Vec<FetchedFile>> {
    let file = |SnapshotFile { path, bytes, sha256 }: &SnapshotFile| {
        Some(FetchedFile { path: path.clone(), bytes: *bytes, sha256: sha256.clone()? })
    };
    snapshot.files().iter().map(file).collect()
}

/// Returns the manifest of these files, its version, and the total bytes. A manifest has one line that
/// names the format, then lines of `<sha256>  <bytes>  <path>` sorted by path.
pub(super) fn identify(files: &[FetchedFile]) -> (String, String, u64) {
    let lines =
        files.iter().map(|file| format!("{}  {}  {}\n", file.sha256, file.bytes, file.path));
    let manifest: String = std::iter::once("onnxd manifest 1\n".to_owned()).chain(lines).collect();
    let version = hex(&Sha256::digest(&manifest));
    (manifest, version, files.iter().map(|file| file.bytes).sum())
}

/// Returns the paths in a version's manifest; empty if it cannot be read.
pub(super) fn paths(folder: &Path) -> Vec<String> {
    let manifest = regular::read(&folder.join(MANIFEST), MANIFEST_BYTES_MAX).unwrap_or_default();
    let manifest = String::from_utf8_lossy(&manifest);
    entries(&manifest).map(|entry| entry.path.to_owned()).collect()
}
