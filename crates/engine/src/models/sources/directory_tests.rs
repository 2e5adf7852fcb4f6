//! What a directory promises as a source.

use std::os::unix::fs::symlink;

use crate::models::sources::directory::*;

fn resolve(source: &Directory) -> Result<Box<dyn Snapshot>, Refusal> {
    match source.resolve(None)? {
        Resolved::Changed(snapshot) => Ok(snapshot),
        Resolved::Unchanged => panic!("nothing is known"),
    }
}

fn stage(source: &Path) -> Result<Vec<String>, Refusal> {
    let target = tempfile::tempdir().unwrap();
    let source = Directory::new(source.to_owned(), Arc::default());
    let fetched = resolve(&source)?.fetch(target.path(), &|_, _| {})?;
    Ok(fetched.files.into_iter().map(|file| file.path).collect())
}

/// A second and a bit more than file times are coarse.
fn wait_until_settled() {
    std::thread::sleep(std::time::Duration::from_secs(3));
}

#[test]
fn a_snapshot_is_unchanged_until_a_file_or_its_checksums_are() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("model.onnx", "a");
    let source = Directory::new(folder.path().to_owned(), Arc::default());
    let fresh = resolve(&source).unwrap();
    let again = source.resolve(Some(fresh.id())).unwrap();
    assert!(matches!(again, Resolved::Changed(_)), "it was written a moment ago");
    wait_until_settled();
    let settled = resolve(&source).unwrap();
    assert_eq!(settled.files()[0].sha256, None, "it was never read");
    let target = tempfile::tempdir().unwrap();
    assert!(settled.fetch(target.path(), &|_, _| {}).unwrap().is_pinned);
    assert!(matches!(source.resolve(Some(settled.id())).unwrap(), Resolved::Unchanged));
    assert!(resolve(&source).unwrap().files()[0].sha256.is_some(), "it is known now");
    for (name, text) in [("model.onnx", "b"), ("config.json", "{}"), (checksums::FILE, "")] {
        let known = resolve(&source).unwrap();
        write(name, text);
        let changed = source.resolve(Some(known.id())).unwrap();
        assert!(matches!(changed, Resolved::Changed(_)), "{name}");
    }
    wait_until_settled();
    let known = resolve(&source).unwrap();
    known.fetch(tempfile::tempdir().unwrap().path(), &|_, _| {}).unwrap();
    let listed = source.resolve(Some(known.id())).unwrap();
    assert!(matches!(listed, Resolved::Changed(_)), "its list may name what is gone");
}

#[test]
fn what_changes_while_it_is_fetched_is_not_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    fs::write(&model, "a").unwrap();
    wait_until_settled();
    let source = Directory::new(folder.path().to_owned(), Arc::default());
    let snapshot = resolve(&source).unwrap();
    let target = tempfile::tempdir().unwrap();
    let fetched = snapshot.fetch(target.path(), &|_, _| fs::write(&model, "b").unwrap());
    assert!(!fetched.unwrap().is_pinned);
}

#[test]
fn a_version_takes_the_model_its_external_data_and_the_known_files_alone() {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir_all(source.path().join("1_Pooling")).unwrap();
    for name in [
        "model.onnx",
        "model.onnx_data",
        "weights.data",
        "1_Pooling/config.json",
        "tokenizer.json",
        "pytorch_model.bin",
        "model_fp16.onnx",
        "README.md",
    ] {
        fs::write(source.path().join(name), name).unwrap();
    }
    let expected = [
        "1_Pooling/config.json",
        "model.onnx",
        "model.onnx_data",
        "tokenizer.json",
        "weights.data",
    ];
    assert_eq!(stage(source.path()).unwrap(), expected);
}

#[test]
fn nothing_outside_the_directory_gets_into_a_version() {
    for name in ["model.onnx", "tokenizer.json", "model.onnx_data", "1_Pooling"] {
        let source = tempfile::tempdir().unwrap();
        fs::create_dir(source.path().join("elsewhere")).unwrap();
        fs::write(source.path().join("elsewhere/config.json"), "{}").unwrap();
        if name != "model.onnx" {
            fs::write(source.path().join("model.onnx"), "x").unwrap();
        }
        let target = if name == "1_Pooling" { "elsewhere" } else { "/etc/passwd" };
        symlink(target, source.path().join(name)).unwrap();
        let refusal = stage(source.path()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Contract, "{name}");
        assert!(refusal.message.contains(name), "{refusal}");
    }
}

#[test]
fn a_missing_directory_and_a_directory_without_a_model_are_told_apart() {
    let empty = tempfile::tempdir().unwrap();
    let refusal = stage(empty.path()).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Contract);
    let refusal = stage(&empty.path().join("none")).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NotFound);
    assert!(refusal.message.contains("none"), "{refusal}");
}
