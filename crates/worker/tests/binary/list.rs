//! Output of listing a source, and the confinement of the lister.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use onnxd_proto::{
    domain::{ListLine, Listing, Refusal},
    exit::ExitStatus,
};

use crate::fixtures::{WORKER, copy, model};

/// Lists the source like the supervisor, as standard input.
fn list(dir: &Path, arguments: &[&str]) -> Result<Listing, Refusal> {
    let mut command = Command::new(WORKER);
    command.args(arguments).stdin(File::open(dir).unwrap());
    let output = command.output().unwrap();
    match serde_json::from_slice(&output.stdout).unwrap() {
        ListLine::Listed(listing) => {
            assert_eq!(output.status.code(), Some(ExitStatus::Fine as i32));
            Ok(*listing)
        }
        ListLine::Refused(refusal) => {
            assert_eq!(output.status.code(), Some(ExitStatus::Refused as i32));
            Err(refusal)
        }
    }
}

#[test]
fn model_file_and_weight_files_are_listed() {
    let listing = list(&model("tiny/external"), &["list"]).unwrap();
    assert_eq!(listing.model.unwrap().file, "model.onnx");
    assert_eq!(listing.external, ["model.onnx_data"]);
    let listing = list(&model("tiny/a"), &["list", "--file", "model.onnx"]).unwrap();
    assert_eq!(listing.external, [""; 0]);
    let refusal = list(&model("tiny/a"), &["list", "--variant", "q4"]).unwrap_err();
    assert!(refusal.message.contains("model.onnx"), "{refusal}");
}

#[test]
fn model_outside_the_source_is_inaccessible() {
    let dir = copy("tiny/a");
    let outside = model("tiny/b").join("model.onnx");
    fs::remove_file(dir.path().join("model.onnx")).unwrap();
    symlink(&outside, dir.path().join("model.onnx")).unwrap();
    let refusal = list(dir.path(), &["list"]).unwrap_err();
    let said = format!("model.onnx is a link to {}, which is outside", outside.display());
    assert!(refusal.message.contains(&said), "{refusal}");
    assert!(list(dir.path(), &["--no-sandbox", "list"]).is_ok(), "the supervisor refuses it later");
}

#[test]
fn hub_cache_snapshot_is_listed_with_its_blobs() {
    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("snapshots/c0ffee");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(cache.path().join("blobs")).unwrap();
    for (name, blob) in [("model.onnx", "b1"), ("model.onnx_data", "b2")] {
        let from = model("tiny/external").join(name);
        fs::copy(from, cache.path().join("blobs").join(blob)).unwrap();
        symlink(format!("../../blobs/{blob}"), snapshot.join(name)).unwrap();
    }
    let listing = list(&snapshot, &["list", "--hub-cache"]).unwrap();
    assert_eq!(listing.external, ["model.onnx_data"]);
    let refusal = list(&snapshot, &["list"]).unwrap_err();
    assert!(refusal.message.contains("outside the source"), "{refusal}");
}

#[test]
fn two_gigabyte_model_is_listed_quickly() {
    const WEIGHTS: u64 = 2 << 30;
    /// Encodes a varint of five bytes.
    fn length(bytes: u64) -> Vec<u8> {
        let part = |index: u32| u8::try_from(bytes >> (7 * index) & 0x7f).unwrap();
        (0..5).map(|index| part(index) | if index < 4 { 0x80 } else { 0 }).collect()
    }
    let field = |number: u8, bytes: u64| [vec![number << 3 | 2], length(bytes)].concat();
    let weights = field(9, WEIGHTS);
    let tensor = [field(5, weights.len() as u64 + WEIGHTS), weights].concat();
    let graph = [field(7, tensor.len() as u64 + WEIGHTS), tensor].concat();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    fs::write(&path, &graph).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(graph.len() as u64 + WEIGHTS).unwrap();
    let start = Instant::now();
    let listing = list(dir.path(), &["list"]).unwrap();
    assert_eq!(listing.notes, [""; 0], "it is complete");
    // The limit includes starting a process on a machine that may be busy.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
