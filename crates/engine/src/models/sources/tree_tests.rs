//! Tests that no file outside a source's directory enters a version.

use std::{
    collections::BTreeSet,
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;

fn write(dir: &Path, file: &str, text: &str) {
    let path = dir.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn link(dir: &Path, file: &str, target: impl AsRef<Path>) {
    let path = dir.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = fs::remove_file(&path);
    symlink(target, path).unwrap();
}

fn read(tree: &Tree, path: &str) -> Result<Option<String>, String> {
    let Some(mut file) = tree.open_file(path).map_err(|refusal| refusal.message)? else {
        return Ok(None);
    };
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    Ok(Some(text))
}

/// Creates a model's folder in the hub's cache, with one snapshot.
fn cache() -> (tempfile::TempDir, PathBuf) {
    let cache = tempfile::tempdir().unwrap();
    write(cache.path(), "refs/main", "c0ffee\n");
    write(cache.path(), "refs/other", "other");
    write(cache.path(), "blobs/b1", "config");
    write(cache.path(), "blobs/b2", "model");
    link(cache.path(), "snapshots/c0ffee/config.json", "../../blobs/b1");
    link(cache.path(), "snapshots/c0ffee/onnx/model.onnx", "../../../blobs/b2");
    let snapshot = cache.path().join("snapshots/c0ffee");
    (cache, snapshot)
}

#[test]
fn links_inside_the_source_are_followed() {
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "kept/config.json", "kept");
    link(source.path(), "config.json", "kept/config.json");
    link(source.path(), "1_Pooling", "kept");
    link(source.path(), "twice.json", "1_Pooling/config.json");
    link(source.path(), "absolute.json", source.path().join("kept/config.json"));
    let tree = Tree::open(source.path()).unwrap();
    for path in ["config.json", "1_Pooling/config.json", "twice.json", "absolute.json"] {
        assert_eq!(read(&tree, path), Ok(Some("kept".to_owned())), "{path}");
    }
    let mut named = tree.selected_files(true).unwrap();
    named.sort();
    let expected =
        ["1_Pooling/config.json", "absolute.json", "config.json", "kept/config.json", "twice.json"];
    assert_eq!(named, expected);
    assert_eq!(read(&tree, "none.json"), Ok(None));
}

#[test]
fn links_outside_are_refused_with_their_target() {
    let source = tempfile::tempdir().unwrap();
    let model_dir = source.path().join("model");
    write(source.path(), "secret/config.json", "secret");
    for (file, target) in [
        ("config.json", "/etc/passwd"),
        ("config.json", "../secret/config.json"),
        ("config.json", "1/../../secret/config.json"),
        ("1_Pooling", "../secret"),
        ("1_Pooling", "/etc"),
        ("config.json", "/proc/self/root/etc/passwd"),
        ("config.json", "../../blobs/b1"),
    ] {
        write(&model_dir, "1/x.json", "");
        link(&model_dir, file, target);
        let tree = Tree::open(&model_dir).unwrap();
        let path = if file == "1_Pooling" { "1_Pooling/config.json" } else { file };
        let message = read(&tree, path).unwrap_err();
        let expected = format!("{file} is a link to {target}, which is outside");
        assert!(message.contains(&expected), "{message}");
        if file == "1_Pooling" {
            let message = tree.selected_files(true).unwrap_err().message;
            assert!(message.contains(&expected), "{message}");
        }
        fs::remove_file(model_dir.join(file)).unwrap();
    }
}

#[test]
fn dangling_and_circular_links_are_refused() {
    let source = tempfile::tempdir().unwrap();
    link(source.path(), "config.json", "gone");
    link(source.path(), "a.json", "b.json");
    link(source.path(), "b.json", "a.json");
    let tree = Tree::open(source.path()).unwrap();
    let message = read(&tree, "config.json").unwrap_err();
    assert!(message.contains("config.json is a link to gone, which is missing"), "{message}");
    let message = read(&tree, "a.json").unwrap_err();
    assert!(
        message.contains("a.json is a link to b.json, which leads back to itself"),
        "{message}"
    );
}

#[test]
fn cached_snapshot_may_only_link_to_its_own_blobs() {
    let (cache, snapshot) = cache();
    let tree = Tree::open(&snapshot).unwrap();
    assert!(tree.is_cached());
    assert_eq!(read(&tree, "config.json"), Ok(Some("config".to_owned())));
    assert_eq!(read(&tree, "onnx/model.onnx"), Ok(Some("model".to_owned())));
    let blob = cache.path().join("blobs/b1");
    link(&snapshot, "absolute.json", &blob);
    assert_eq!(read(&tree, "absolute.json"), Ok(Some("config".to_owned())));
    link(&cache.path().join("blobs"), "b3", "/etc/passwd");
    for target in [
        "../../refs/other",
        "../../blobs/../refs/other",
        "../blobs/b1",
        "../../../blobs/b1",
        "../../blobs/b3",
        "../../blobs/..",
        "/etc/passwd",
    ] {
        link(&snapshot, "config.json", target);
        let message = read(&tree, "config.json").unwrap_err();
        assert!(message.contains("config.json"), "{target}: {message}");
    }
    link(&snapshot, "config.json", "../../blobs/gone");
    let message = read(&tree, "config.json").unwrap_err();
    assert!(message.contains("blobs/gone, which is missing; download it again"), "{message}");
}

#[test]
fn model_folder_in_the_cache_opens_its_main_snapshot() {
    let (cache, snapshot) = cache();
    let tree = Tree::open(cache.path()).unwrap();
    assert_eq!(tree.path(), snapshot);
    assert_eq!(read(&tree, "onnx/model.onnx"), Ok(Some("model".to_owned())));
    for (main, reason) in [
        ("d00d", "snapshots/d00d, which is missing"),
        ("../x", "does not name a commit"),
        ("", "does not name a commit"),
    ] {
        write(cache.path(), "refs/main", main);
        let message = Tree::open(cache.path()).unwrap_err().message;
        assert!(message.contains(reason), "{main}: {message}");
    }
    fs::remove_file(cache.path().join("refs/main")).unwrap();
    assert_eq!(Tree::open(cache.path()).unwrap().path(), snapshot, "it is the only snapshot");
    fs::create_dir(cache.path().join("snapshots/d00d")).unwrap();
    let message = Tree::open(cache.path()).unwrap_err().message;
    assert!(message.contains("refs/main is missing and the cache holds 2 snapshots"), "{message}");
}

#[test]
fn moving_link_never_leads_outside() {
    let (cache, snapshot) = cache();
    write(cache.path(), "refs/config.json", "secret");
    let targets = ["../../blobs/b1", "../../refs/config.json", "onnx/model.onnx", "/etc/passwd"];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for target in targets.iter().cycle() {
                symlink(target, snapshot.join("next")).unwrap();
                fs::rename(snapshot.join("next"), snapshot.join("config.json")).unwrap();
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let tree = Tree::open(&snapshot).unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..5000 {
            seen.insert(read(&tree, "config.json").unwrap_or_default());
        }
        stop.store(true, Ordering::Relaxed);
        let inside = [None, Some("config".to_owned()), Some("model".to_owned())];
        assert!(seen.iter().all(|content| inside.contains(content)), "{seen:?}");
    });
}

#[test]
fn irregular_file_is_refused_by_name() {
    let source = tempfile::tempdir().unwrap();
    let fifo = source.path().join("config.json");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let tree = Tree::open(source.path()).unwrap();
    let message = read(&tree, "config.json").unwrap_err();
    assert!(message.contains("config.json is not a regular file"), "{message}");
}
