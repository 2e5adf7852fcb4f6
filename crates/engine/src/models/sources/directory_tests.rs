//! Tests of directories as sources.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
};

use onnxd_proto::domain::Checksums;
use sha2::{Digest, Sha256};

use crate::models::disk::hex;
use crate::models::sources::{
    Snapshot, directory::*, directory_snapshot::VERSION_FILES_MAX, fake::ByName, selection,
    signature,
};

fn source_at(path: &Path) -> Directory {
    source_under(path, Conditions::default())
}

fn source_under(path: &Path, conditions: Conditions) -> Directory {
    let (path, choice) = (path.to_owned(), ModelChoice::default());
    Directory::new(path, choice, conditions, Arc::default(), Arc::new(ByName))
}

fn resolve(source: &Directory) -> Result<Box<dyn Snapshot>, Refusal> {
    match source.resolve(None, &|_| {})? {
        Resolved::Changed(snapshot) => Ok(snapshot),
        Resolved::Unchanged => panic!("the snapshot is unknown"),
    }
}

fn stage(source: &Path) -> Result<Vec<String>, Refusal> {
    let target = tempfile::tempdir().unwrap();
    let source = source_at(source);
    let fetched = resolve(&source)?.fetch(target.path(), &|_| {})?;
    Ok(fetched.files.into_iter().map(|file| file.path).collect())
}

/// Waits longer than the coarsest resolution of file times.
fn wait_until_settled() {
    std::thread::sleep(std::time::Duration::from_secs(3));
}

#[test]
fn snapshot_is_unchanged_until_a_file_or_the_checksums_change() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("model.onnx", "a");
    let source = source_at(folder.path());
    let fresh = resolve(&source).unwrap();
    let again = source.resolve(Some(fresh.id()), &|_| {}).unwrap();
    assert!(matches!(again, Resolved::Changed(_)), "the file was written a moment ago");
    wait_until_settled();
    let settled = resolve(&source).unwrap();
    assert_eq!(settled.files()[0].sha256, None, "the file was never read");
    let target = tempfile::tempdir().unwrap();
    assert!(settled.fetch(target.path(), &|_| {}).unwrap().is_pinned);
    assert!(matches!(source.resolve(Some(settled.id()), &|_| {}).unwrap(), Resolved::Unchanged));
    assert!(resolve(&source).unwrap().files()[0].sha256.is_some(), "the digest is cached now");
    for (name, text) in [
        ("model.onnx", "b"),
        ("config.json", "{}"),
        (Checksums::FILE, ""),
        (selection::BUNDLE, "{}"),
    ] {
        let known = resolve(&source).unwrap();
        write(name, text);
        let changed = source.resolve(Some(known.id()), &|_| {}).unwrap();
        assert!(matches!(changed, Resolved::Changed(_)), "{name}");
    }
    wait_until_settled();
    let known = resolve(&source).unwrap();
    known.fetch(tempfile::tempdir().unwrap().path(), &|_| {}).unwrap();
    let listed = source.resolve(Some(known.id()), &|_| {}).unwrap();
    assert!(matches!(listed, Resolved::Changed(_)), "the checksums may list a missing file");
}

#[test]
fn file_changed_during_the_fetch_is_not_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    fs::write(&model, "a").unwrap();
    wait_until_settled();
    let source = source_at(folder.path());
    let snapshot = resolve(&source).unwrap();
    let target = tempfile::tempdir().unwrap();
    let fetched = snapshot.fetch(target.path(), &|_| fs::write(&model, "b").unwrap());
    assert!(!fetched.unwrap().is_pinned);
}

#[test]
fn directory_that_has_just_changed_waits_unless_it_has_checksums() {
    let source = source_with(&["model.onnx"]);
    let conditions = |seconds| Conditions {
        settle: std::time::Duration::from_secs(seconds),
        ..Conditions::default()
    };
    let resolved = |seconds| resolve(&source_under(source.path(), conditions(seconds)));
    assert!(resolved(0).is_ok());
    let refusal = resolved(1).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Incomplete);
    assert!(refusal.message.contains("model.onnx changed less than 1 s ago"), "{refusal}");
    let peeked = source_under(source.path(), conditions(60)).peek(None, &|_| {});
    assert_eq!(peeked.unwrap_err().kind, RefusalKind::Incomplete);
    wait_until_settled();
    assert!(resolved(1).is_ok());
    assert!(resolved(60).is_err());
    fs::write(source.path().join(Checksums::FILE), "").unwrap();
    assert!(resolved(60).is_ok(), "the checksums tell when it is complete");
}

#[test]
fn signature_is_required_of_a_model_with_keys() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/models/sources/testdata"));
    let verify = |key: &str| {
        let key = fs::read_to_string(folder.join(key)).unwrap();
        let keys = vec![signature::SourceKey::parse(&key).unwrap()].into();
        let conditions = Conditions { keys, ..Conditions::default() };
        let snapshot = resolve(&source_under(&folder.join("signed"), conditions)).unwrap();
        let target = tempfile::tempdir().unwrap();
        snapshot.verify(&snapshot.fetch(target.path(), &|_| {}).unwrap().files)
    };
    for key in ["minisign.pub", "model-signing.pub"] {
        assert_eq!(verify(key), Ok(()), "{key}");
    }
    let refusal = verify("other.pub").unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Signature);
    assert!(refusal.message.contains("testdata/signed: model.sig"), "{refusal}");
}

fn source_with(files: &[&str]) -> tempfile::TempDir {
    let source = tempfile::tempdir().unwrap();
    for name in files {
        let path = source.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    source
}

#[test]
fn version_takes_only_the_model_its_weights_and_known_files() {
    let source = source_with(&[
        "model.onnx",
        "model.onnx_data",
        "weights.data",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "tokenizer.json",
        "vocab.txt",
        "sentencepiece.bpe.model",
        "onnx/tokenizer.json",
        "pytorch_model.bin",
        "model.safetensors",
        "model_fp16.onnx",
        "openvino/config.json",
        "README.md",
    ]);
    let expected = [
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "model.onnx",
        "model.onnx_data",
        "onnx/tokenizer.json",
        "sentencepiece.bpe.model",
        "tokenizer.json",
        "vocab.txt",
    ];
    assert_eq!(stage(source.path()).unwrap(), expected);
}

#[test]
fn static_embeddings_include_their_weights() {
    let source = source_with(&["config.json", "model.safetensors", "tokenizer.json"]);
    let expected = ["config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!(stage(source.path()).unwrap(), expected);
}

#[test]
fn oversized_json_file_is_skipped() {
    let source = source_with(&["model.onnx", "config.json", "dump.json"]);
    let dump = File::options().write(true).open(source.path().join("dump.json")).unwrap();
    dump.set_len(selection::NAMED_BYTES_MAX + 1).unwrap();
    assert_eq!(stage(source.path()).unwrap(), ["config.json", "model.onnx"]);
}

#[test]
fn too_many_files_are_refused_before_they_are_opened() {
    let source = source_with(&["model.onnx"]);
    for number in 0..VERSION_FILES_MAX {
        fs::write(source.path().join(format!("{number}.json")), "").unwrap();
    }
    let refusal = stage(source.path()).unwrap_err();
    assert!(refusal.message.contains("1001 files; a version may have at most 1000"), "{refusal}");
}

#[test]
fn no_file_outside_the_directory_enters_a_version() {
    for name in ["model.onnx", "tokenizer.json", "model.onnx_data", "1_Pooling"] {
        let source = tempfile::tempdir().unwrap();
        if name != "model.onnx" {
            fs::write(source.path().join("model.onnx"), "x").unwrap();
        }
        let target = if name == "1_Pooling" { "/etc" } else { "/etc/passwd" };
        symlink(target, source.path().join(name)).unwrap();
        let refusal = stage(source.path()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Contract, "{name}");
        let expected = format!("{name} is a link to {target}");
        assert!(refusal.message.contains(&expected), "{refusal}");
    }
}

#[test]
fn missing_listed_file_means_an_incomplete_upload() {
    let digest = "a".repeat(64);
    for (listed, is_fault) in [
        ("tokenizer.json", true),
        ("onnx/model.onnx", true),
        ("1_Pooling/config.json", true),
        ("onnx/model_fp16.onnx", false),
        ("README.md", false),
        ("model.safetensors", false),
    ] {
        let source = source_with(&["model.onnx"]);
        let model = hex(&Sha256::digest("model.onnx"));
        let sums = format!("{model}  model.onnx\n{digest}  {listed}\n");
        fs::write(source.path().join(Checksums::FILE), sums).unwrap();
        let staged = stage_verified(source.path());
        assert_eq!(staged.is_err(), is_fault, "{listed}: {staged:?}");
    }
}

fn stage_verified(source: &Path) -> Result<(), Refusal> {
    let target = tempfile::tempdir().unwrap();
    let snapshot = resolve(&source_at(source))?;
    snapshot.verify(&snapshot.fetch(target.path(), &|_| {})?.files)
}

#[test]
fn missing_directory_and_missing_model_are_distinguished() {
    let empty = tempfile::tempdir().unwrap();
    let refusal = stage(empty.path()).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Contract);
    let refusal = stage(&empty.path().join("none")).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NotFound);
    assert!(refusal.message.contains("none"), "{refusal}");
}
