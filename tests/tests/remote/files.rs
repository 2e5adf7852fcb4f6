//! Files of a model, as they are published.

use std::{cmp::Reverse, fs, path::Path};

use ring::digest::{SHA256, digest};

/// Paths and contents, in the order of their upload.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// Returns a small and a large file, which differ with the number.
pub(crate) fn numbered(number: u8) -> Files {
    let large = (0..5_000_000_u32).map(|at| at.to_le_bytes()[1] ^ number).collect();
    let path = "onnx/model file.onnx".to_owned();
    vec![("config.json".to_owned(), vec![number; 3]), (path, large)]
}

/// Reads a directory. The largest file is first, which is the worst order of an upload: the new
/// weights are beside the old settings.
pub(crate) fn read(directory: &Path) -> Files {
    let (mut files, mut folders) = (Files::new(), vec![directory.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(directory).unwrap().to_str().unwrap();
            files.push((inside.to_owned(), fs::read(&path).unwrap()));
        }
    }
    files.sort_by_key(|(_, content)| Reverse(content.len()));
    files
}

/// Writes files below a directory.
pub(crate) fn write(directory: &Path, files: &Files) {
    for (path, content) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// Returns the `SHA256SUMS` of files.
pub(crate) fn checksums(files: &Files) -> Vec<u8> {
    let line = |(path, bytes): &(String, Vec<u8>)| format!("{}  {path}\n", sha256(bytes));
    files.iter().map(line).collect::<String>().into_bytes()
}

/// Returns the SHA-256 of bytes in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// Returns bytes in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
