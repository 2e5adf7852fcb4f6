//! The manifest of a version: the list of its files, whose digest names it. Called by the store.

use std::{collections::BTreeMap, io, path::Path};

use onnxd_proto::{
    layout::{MANIFEST, MANIFEST_BYTES_MAX},
    manifest::{Entry, entries},
    regular,
};
use sha2::{Digest, Sha256};

use crate::models::{
    disk::hex,
    sources::{FetchedFile, Snapshot, SnapshotFile},
};

/// Suffixes of files that say how texts are prepared: configuration, tokenizers, prompts.
const SETTINGS: [&str; 5] = [".json", ".txt", ".toml", ".model", ".jinja"];

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
    let manifest = read(folder).unwrap_or_default();
    entries(&manifest).map(|entry| entry.path.to_owned()).collect()
}

/// Returns the settings of a version: the digests of its small text files by their paths. Texts with the
/// same settings are prepared alike.
pub(super) fn settings(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    let manifest = read(folder)?;
    let is_setting = |entry: &Entry<'_>| SETTINGS.iter().any(|suffix| entry.path.ends_with(suffix));
    let pair = |entry: Entry<'_>| (entry.path.to_owned(), entry.sha256.to_owned());
    Ok(entries(&manifest).filter(is_setting).map(pair).collect())
}

fn read(folder: &Path) -> io::Result<String> {
    let manifest = regular::read(&folder.join(MANIFEST), MANIFEST_BYTES_MAX)?;
    Ok(String::from_utf8_lossy(&manifest).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn settings_are_the_text_files_without_weights_and_canaries() {
        let folder = tempfile::tempdir().unwrap();
        assert!(settings(folder.path()).is_err(), "no manifest");
        let lines = ["aa  1  config.json", "bb  2  onnx/model.onnx", "cc  3  canary.jsonl"];
        let manifest = format!("onnxd manifest 1\n{}\ndd  4  vocab.txt\n", lines.join("\n"));
        fs::write(folder.path().join(MANIFEST), manifest).unwrap();
        let found: Vec<_> = settings(folder.path()).unwrap().into_iter().collect();
        let pair = |path: &str, sha256: &str| (path.to_owned(), sha256.to_owned());
        assert_eq!(found, [pair("config.json", "aa"), pair("vocab.txt", "dd")]);
    }
}
