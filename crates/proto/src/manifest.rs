//! The manifest of a version: one line for each of its files. The supervisor writes it and compares
//! versions with it; workers compare what they load.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::layout::MANIFEST;

/// A file in a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'m> {
    /// Lowercase hexadecimal.
    pub sha256: &'m str,
    pub bytes: u64,
    /// Relative to the version.
    pub path: &'m str,
}

/// Returns the files in a manifest. Skips its first line, and what is no entry.
pub fn entries(manifest: &str) -> impl Iterator<Item = Entry<'_>> {
    manifest.lines().filter_map(|line| {
        let mut parts = line.splitn(3, "  ");
        let (sha256, bytes, path) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Entry { sha256, bytes: bytes.parse().ok()?, path })
    })
}

/// Returns the paths of everything that a version should list: what is in its directory and is no
/// directory, relative to it and sorted. Leaves out the manifest. Files that are
/// [hidden](crate::layout::is_hidden) need not be listed.
///
/// # Errors
/// A directory cannot be read.
pub fn files(version: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(inside) = folders.pop() {
        for entry in fs::read_dir(version.join(&inside))? {
            let entry = entry?;
            let path = inside.join(entry.file_name());
            if entry.file_type()?.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    files.retain(|path| path.as_path() != Path::new(MANIFEST));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_may_have_any_path() {
        let manifest = "onnxd manifest 1\n00ff  12  a/b  c.json\nbad line\n00  x  d\n01  0  e\n";
        let found: Vec<Entry<'_>> = entries(manifest).collect();
        let [first, second] = [("00ff", 12, "a/b  c.json"), ("01", 0, "e")]
            .map(|(sha256, bytes, path)| Entry { sha256, bytes, path });
        assert_eq!(found, [first, second]);
    }

    #[test]
    fn files_are_listed_without_the_manifest() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["b", "a/c", "a/.nfs1", "a/MANIFEST", MANIFEST] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let expected = ["a/.nfs1", "a/MANIFEST", "a/c", "b"].map(PathBuf::from);
        assert_eq!(files(folder.path()).unwrap(), expected);
        assert!(files(&folder.path().join("missing")).is_err());
    }
}
