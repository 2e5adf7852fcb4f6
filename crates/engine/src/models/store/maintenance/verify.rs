//! Compares a version with its manifest. Called by the [survey](super::survey).

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use onnxd_proto::layout::MANIFEST;
use sha2::{Digest, Sha256};

use crate::models::disk::hex;

/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Returns what is wrong with the version in `folder`, or `None` if every file is as it was staged.
pub(super) fn damage(folder: &Path, version: &str) -> Option<String> {
    let manifest = match fs::read(folder.join(MANIFEST)) {
        Ok(manifest) => manifest,
        Err(error) => return Some(format!("{MANIFEST} cannot be read: {error}")),
    };
    if hex(&Sha256::digest(&manifest)) != version {
        return Some(format!("{MANIFEST} was changed"));
    }
    let manifest = String::from_utf8_lossy(&manifest);
    let entry = |line| match *str::splitn(line, 3, "  ").collect::<Vec<_>>() {
        [sha256, bytes, path] => Some((PathBuf::from(path), (sha256, bytes.parse::<u64>().ok()?))),
        _ => None,
    };
    let mut expected: HashMap<PathBuf, (&str, u64)> = manifest.lines().filter_map(entry).collect();
    let mut files = match files(folder) {
        Ok(files) => files,
        Err(error) => return Some(format!("its files cannot be listed: {error}")),
    };
    files.sort();
    for file in files.iter().filter(|file| file.as_path() != Path::new(MANIFEST)) {
        let shown = file.display();
        let Some((sha256, bytes)) = expected.remove(file) else {
            return Some(format!("{shown} does not belong to it"));
        };
        match digest(&folder.join(file), bytes) {
            Ok(Some(found)) if found == sha256 => {}
            Ok(_) => return Some(format!("{shown} was changed")),
            Err(error) => return Some(format!("{shown} cannot be read: {error}")),
        }
    }
    expected.keys().min().map(|file| format!("{} is missing", file.display()))
}

/// Returns a file's digest, or `None` if it is not a file of this length.
fn digest(path: &Path, bytes: u64) -> io::Result<Option<String>> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_file() || metadata.len() != bytes {
        return Ok(None);
    }
    let (mut file, mut digest) = (File::open(path)?, Sha256::new());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(Some(hex(&digest.finalize()))),
            count => digest.update(&chunk[..count]),
        }
    }
}

/// Returns the paths of everything that is not a directory below `folder`, relative to it.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(inside) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inside))? {
            let entry = entry?;
            let path = inside.join(entry.file_name());
            if entry.file_type()?.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    Ok(files)
}
