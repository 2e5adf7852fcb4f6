//! Computes `ONNXD_BUILD_ID`, the digest of this crate's sources. The handshake compares it, so a
//! supervisor never talks to a worker from a different build.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

fn main() {
    let mut files = Vec::new();
    collect(Path::new("src"), &mut files).expect("src is a directory of this crate");
    files.sort();
    let mut digest = Sha256::new();
    digest.update(std::env::var("CARGO_PKG_VERSION").expect("cargo sets CARGO_PKG_VERSION"));
    for file in &files {
        digest.update(file.to_string_lossy().as_bytes());
        digest.update(fs::read(file).expect("source files are readable"));
    }
    let id: String = digest.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rustc-env=ONNXD_BUILD_ID={id}");
    println!("cargo::rerun-if-changed=src");
}

/// Adds every file below `folder`, recursively.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
