//! Computes `ONNXD_BUILD_ID`: the digest of everything in this crate that both processes must
//! agree on. The handshake compares it, so that a supervisor never talks to a worker of another
//! build.

use std::{fs, path::PathBuf};

use sha2::{Digest, Sha256};

fn main() {
    let mut files: Vec<PathBuf> = fs::read_dir("src")
        .expect("src is a directory of this crate")
        .map(|entry| entry.expect("src can be listed").path())
        .collect();
    files.sort();
    let mut digest = Sha256::new();
    digest.update(std::env::var("CARGO_PKG_VERSION").expect("cargo sets it"));
    for file in &files {
        digest.update(file.to_string_lossy().as_bytes());
        digest.update(fs::read(file).expect("a source file can be read"));
    }
    let id: String = digest.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rustc-env=ONNXD_BUILD_ID={id}");
    println!("cargo::rerun-if-changed=src");
}
