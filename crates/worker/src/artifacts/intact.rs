//! Compares a kept version with its manifest: all of it before a compiled form is made from it, and its
//! small files before each load, because workers read them from the version.

use std::{collections::HashMap, fs::File, path::Path};

use onnxd_proto::{
    domain::{Refusal, RefusalKind},
    layout::{LARGE_BYTES, MANIFEST, MANIFEST_BYTES_MAX, is_hidden},
    manifest::{Entry, entries, files},
    regular,
};

use super::compiled::{digest, digest_of_bytes};

/// Checks that the version in `dir` consists of the files in its manifest. A version that is still
/// being staged has just been compared, and is not compared again.
///
/// # Errors
/// `Checksum` if a file differs, is missing, or is not listed; the message names it and the remedy.
pub(crate) fn require_intact(dir: &Path) -> Result<(), Refusal> {
    require(dir, u64::MAX)
}

/// Checks the same, apart from the content of large files. The supervisor has compared them, or the
/// compiled form replaces them.
///
/// # Errors
/// Those of [`require_intact`].
pub(crate) fn require_small_files_intact(dir: &Path) -> Result<(), Refusal> {
    require(dir, LARGE_BYTES)
}

/// Reads files of at most `bytes_max` bytes.
fn require(dir: &Path, bytes_max: u64) -> Result<(), Refusal> {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_digest = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_digest {
        return Ok(());
    }
    let damaged = |path: &str, what: &str| {
        let path = dir.join(path);
        let message = format!(
            "{}: the kept version is damaged: the file {what}; update from the source again",
            path.display()
        );
        Err(RefusalKind::Checksum.because(message))
    };
    let Ok(manifest) = regular::read(&dir.join(MANIFEST), MANIFEST_BYTES_MAX) else {
        return damaged(MANIFEST, "cannot be read");
    };
    if digest_of_bytes(&manifest) != name {
        return damaged(MANIFEST, "was changed");
    }
    let manifest = String::from_utf8_lossy(&manifest);
    let mut expected: HashMap<&str, Entry<'_>> =
        entries(&manifest).map(|entry| (entry.path, entry)).collect();
    let Ok(files) = files(dir) else { return damaged("", "list cannot be read") };
    for file in files {
        let inside = file.to_str().unwrap_or_default();
        match expected.remove(inside) {
            Some(entry) if is_equal(&dir.join(&file), &entry, bytes_max) => {}
            Some(_) => return damaged(inside, "was changed"),
            None if is_hidden(&file) => {}
            None => return damaged(inside, "does not belong to it"),
        }
    }
    match expected.keys().next() {
        Some(path) => damaged(path, "is missing"),
        None => Ok(()),
    }
}

/// Returns whether a file has the length and, unless it is too large to be read, the digest of an entry.
fn is_equal(file: &Path, &Entry { sha256, bytes, .. }: &Entry<'_>, bytes_max: u64) -> bool {
    let found = regular::open(file).and_then(|file| File::metadata(&file));
    found.is_ok_and(|found| found.len() == bytes)
        && (bytes > bytes_max || digest(file).is_ok_and(|found| found == sha256))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    /// Returns a root with a kept version.
    fn kept() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let files = [("config.json", "{}"), ("onnx/model.onnx", "graph")];
        let line = |(path, content): &(&str, &str)| {
            format!("{}  {}  {path}\n", digest_of_bytes(content.as_bytes()), content.len())
        };
        let lines: String = files.iter().map(line).collect();
        let manifest = format!("onnxd manifest 1\n{lines}");
        let dir = root.path().join(digest_of_bytes(manifest.as_bytes()));
        fs::create_dir_all(dir.join("onnx")).unwrap();
        fs::write(dir.join(MANIFEST), manifest).unwrap();
        files.iter().for_each(|(path, content)| fs::write(dir.join(path), content).unwrap());
        (root, dir)
    }

    #[test]
    fn every_file_of_a_kept_version_is_compared() {
        let (_root, dir) = kept();
        assert_eq!(require_intact(&dir), Ok(()));
        fs::write(dir.join("onnx/.nfs0001"), "left by a file system").unwrap();
        assert_eq!(require_intact(&dir), Ok(()));
        let config = "{\"hidden_size\": 7}";
        for (path, content, what) in [
            ("onnx/model.onnx", Some("grapi"), "was changed"),
            ("config.json", Some(config), "was changed"),
            ("config.json", None, "is missing"),
            ("onnxd.toml", Some("pooling = \"cls\""), "does not belong to it"),
            (MANIFEST, Some("onnxd manifest 1\n"), "was changed"),
            (MANIFEST, None, "cannot be read"),
        ] {
            let (_root, dir) = kept();
            let file = dir.join(path);
            content.map_or_else(|| fs::remove_file(&file), |text| fs::write(&file, text)).unwrap();
            let refusal = require_intact(&dir).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Checksum);
            let named = refusal.message.starts_with(&file.display().to_string());
            assert!(named && refusal.message.contains(what), "{refusal}");
        }
    }

    #[test]
    fn small_files_are_read_before_each_load() {
        let (_root, dir) = kept();
        assert_eq!(require_small_files_intact(&dir), Ok(()));
        fs::write(dir.join("config.json"), "[]").unwrap();
        let message = require_small_files_intact(&dir).unwrap_err().message;
        assert!(message.contains("config.json") && message.contains("was changed"), "{message}");
        // Those above the limit are compared by their length.
        assert_eq!(require(&dir, 1), Ok(()));
        fs::write(dir.join("config.json"), "[1]").unwrap();
        assert!(require(&dir, 1).is_err());
    }

    #[test]
    fn version_that_is_being_staged_is_not_read_again() {
        let (root, dir) = kept();
        let staged = root.path().join(".tmpAbCdEf");
        fs::rename(dir, &staged).unwrap();
        fs::write(staged.join("config.json"), "other").unwrap();
        assert_eq!(require_intact(&staged), Ok(()));
    }
}
